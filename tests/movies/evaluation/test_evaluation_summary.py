"""The result of an evaluation as a table and as Markdown."""

import numpy as np
import pytest
from ranked_likes import evaluated

from embedlab.movies.evaluation.candidates import WEIGHTED_EMBEDDING
from embedlab.movies.evaluation.evaluate import EvaluationOptions
from embedlab.movies.evaluation.summary import to_markdown


@pytest.fixture(scope="module")
def result():
    return evaluated()


def test_the_table_has_a_row_per_candidate_best_first(result):
    entries, table = result
    assert set(table["contestant"]) == {entry.name for entry in entries}
    assert table["hit_rate"].is_monotonic_decreasing
    for name in ("hit_rate", "ndcg", "mrr", "hit_rate_behind", "ndcg_behind"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    ours = table.set_index("contestant").loc[WEIGHTED_EMBEDDING]
    assert (ours["hit_rate_behind_low"], ours["hit_rate_behind_high"]) == (0, 0)
    behind = ours["hit_rate"] - table["hit_rate"]
    np.testing.assert_allclose(table["hit_rate_behind"], behind, atol=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "word", "title"),
    [
        (0.01, 0.03, "hit rate behind", "beats all 2 others"),
        (
            -0.01,
            0.03,
            "hit rate not significantly different",
            "not significantly better than rival; rival 2",
        ),
        (-0.03, -0.01, "hit rate ahead", "not significantly better than rival"),
    ],
)
def test_the_words_say_who_is_beaten_and_who_is_not(result, low, high, word, title):
    _, table = result
    rivals = {"popularity": "rival", "raw co-likes": "rival 2"}
    few = table[table["contestant"].isin([WEIGHTED_EMBEDDING, *rivals])].replace(rivals)
    is_rival = few["contestant"] != WEIGHTED_EMBEDDING
    few.loc[is_rival, ["hit_rate_behind_low", "hit_rate_behind_high"]] = (low, high)
    said = to_markdown(
        few, "toy", EvaluationOptions(n_splits=2), ["gensim's item2vec, not installed", "EASE"]
    )
    assert title in said.splitlines()[0]
    assert word in said
    assert "only the query movie is never recommended" in said
    assert "Each split tests its own choice" in said
    assert all(f" ({n} of 2): hit rate" in said for n in few["chosen_in"])
    limited = to_markdown(few, "toy", EvaluationOptions(max_users=7, n_splits=1), [])
    assert "Each split tests its own choice" not in limited
    assert "every user with at least 5 (at most 7, drawn at random) are held out" in limited
    assert "Left out: gensim's item2vec, not installed; EASE." in said


def test_novelty_is_said_to_cost_accuracy_only_where_it_does(result):
    _, table = result
    sentence = "Accuracy comes with popularity"
    is_ours = table["contestant"] == WEIGHTED_EMBEDDING
    for of_others, is_said in ((-0.1, True), (0.1, False)):
        hit_rate = table["hit_rate"].where(is_ours, table["hit_rate"][is_ours].item() + of_others)
        changed = table.assign(hit_rate=hit_rate, popularity=np.where(is_ours, 9.0, 3.0))
        assert (sentence in to_markdown(changed, "toy", EvaluationOptions(), [])) == is_said
    most_novel = table.assign(popularity=np.where(is_ours, 3.0, 9.0))
    assert sentence not in to_markdown(most_novel, "toy", EvaluationOptions(), [])
