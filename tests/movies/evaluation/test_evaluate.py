"""Candidates are tuned on validation likes and compared on test likes; also the entry point."""

import importlib
import os

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import fresh_store
from ranked_likes import eighty_users, pairs, ranking, rng, scorer_of

from embedlab.errors import DataError, OptionError
from embedlab.movies.evaluation import baselines, candidates
from embedlab.movies.evaluation.candidates import WEIGHTED_EMBEDDING, Candidate
from embedlab.movies.evaluation.evaluate import EvaluationOptions, tune_and_evaluate
from embedlab.movies.evaluation.splits import hold_out
from embedlab.tracking.project import command


@pytest.fixture(scope="module")
def likes():
    return eighty_users()


def fixed(value):
    """A fit that gives later movies higher scores, whatever the query; with sign −1, lower."""

    def fit(likes, sign=1):
        row = sign * value * np.arange(likes.shape[1])
        return lambda query: [("row", np.tile(row, (len(query), 1)))]

    return fit


def test_candidates_are_tuned_on_validation_likes_and_reported_on_test_likes(likes):
    # Earlier movies are liked more, so it is good to rank them first, as sign −1 does.
    one = Candidate(WEIGHTED_EMBEDDING, fixed(1.0), [{"sign": 1}, {"sign": -1}])
    (entry,) = tune_and_evaluate(likes, [one], EvaluationOptions(n_splits=2))
    assert (entry.settings, entry.scorer, entry.chosen_in) == ({"sign": -1}, "row", 2)
    generator, expected = rng(0), []
    for _ in range(2):
        test = hold_out(likes, generator)
        hold_out(test.matrix, generator)
        expected.append(ranking(scorer_of(fixed(1.0)(likes, -1), "row"), test).hit_rate)
    np.testing.assert_allclose(entry.test_metrics.hit_rate, np.mean(expected, axis=0))


def test_fits_never_see_held_out_likes(likes):
    seen = []

    def spy(likes_given, setting):
        seen.append((setting, pairs(likes_given)))
        return lambda query: [("zero", np.zeros((len(query), 60)))]

    tune_and_evaluate(
        likes,
        [Candidate(WEIGHTED_EMBEDDING, spy, [{"setting": 1}, {"setting": 2}])],
        EvaluationOptions(seed=4),
    )
    generator = rng(4)
    test = hold_out(likes, generator)
    validation = hold_out(test.matrix, generator)
    assert seen == [
        (1, pairs(validation.matrix)),
        (2, pairs(validation.matrix)),
        (1, pairs(test.matrix)),
    ]


def test_candidates_with_the_same_fit_share_it_and_count_only_their_own_scores(likes):
    fits = []

    def fit(likes_given, **settings):
        fits.append(settings)
        rows = {"good": -np.arange(60.0), "bad": np.arange(60.0)}
        return lambda query: [(name, np.tile(row, (len(query), 1))) for name, row in rows.items()]

    both = [Candidate(WEIGHTED_EMBEDDING, fit), Candidate("bad", fit, scorer_names=("bad",))]
    done = []
    first, second = tune_and_evaluate(
        likes, both, EvaluationOptions(), lambda *count: done.append(count)
    )
    assert len(fits) == 2  # one for validation, one for test
    assert (first.scorer, second.scorer) == ("good", "bad")
    assert first.test_metrics.hit_rate.mean() > second.test_metrics.hit_rate.mean()
    assert done == [(1, 2), (2, 2)]


@pytest.mark.parametrize("exclude", ["query", "likes"])
def test_drawn_users_with_too_few_likes_are_a_sentence(exclude):
    many, few = np.zeros((2, 30), np.int32), np.zeros((30, 30), np.int32)
    many[:, :12] = few[:, 5:10] = 1
    with pytest.raises(DataError, match="users: expected some with at least 7 likes among the 2"):
        tune_and_evaluate(
            sp.csr_matrix(np.vstack([few, many])),
            [Candidate("popularity", baselines.popularity)],
            EvaluationOptions(max_users=2, exclude=exclude),
        )


# -- the entry point ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_entry_point_from_end_to_end(tmp_path, monkeypatch, capsys):
    from entrypoints.evaluate_embedding import main

    monkeypatch.setattr(candidates, "find_spec", lambda name: None)
    with fresh_store(tmp_path) as client:
        os.environ["MLFLOW_EXPERIMENT_NAME"] = "evaluation"
        client.create_experiment("evaluation", artifact_location=f"{tmp_path}/artifacts")
        main(["--ratings", "sample", "--dims", "5,8", "--resamples", "200"])
        experiment = client.get_experiment_by_name("evaluation").experiment_id
        (run,) = client.search_runs([experiment])
        said = client.download_artifacts(run.info.run_id, "summary.md", str(tmp_path))
        files = {
            item.path
            for folder in ("tables", "figures")
            for item in client.list_artifacts(run.info.run_id, folder)
        }
        with open(said, encoding="utf-8") as file:
            words = file.read()
    out = capsys.readouterr().out
    assert run.info.status == "FINISHED"
    assert files == {"tables/contestants.json", "figures/trade.png"}
    params, metrics = run.data.params, run.data.metrics
    assert params["dims"] == "5,8"
    assert 0.4 < metrics["test/hit_rate"] < 0.6
    assert 0.4 < metrics["val/hit_rate"] < 0.6
    assert metrics["test/hit_rate"] == metrics["embedding_weighted/test_hit_rate"]
    assert metrics["popularity/test_hit_rate"] < metrics["test/hit_rate"] - 0.2
    assert words in out
    assert "Left out: gensim's item2vec, not installed (pip install -r requirements-extra" in out
    chosen = {name: params[f"chosen_{name}"] for name in ("user_weight", "item_power")}
    source = {"ratings": "sample", "like_rule": "user_mean", **chosen}
    with fresh_store(tmp_path):
        fit = command("fit_embedding", **source, optimizer="exact", dim=params["chosen_dim"])
    assert fit in out


@pytest.mark.parametrize(
    ("entry_point", "arguments", "message"),
    [
        ("evaluate_embedding", ["--exclude", "all"], "exclude: expected one of query, likes; got"),
        ("evaluate_embedding", ["--k", "0"], "k: expected a whole number from 1 to 1000, got '0'"),
        ("fit_embedding", ["--user-weight", "log"], "user_weight: expected one of none, inverse"),
    ],
)
def test_a_wrong_argument_is_one_sentence(entry_point, arguments, message):
    with pytest.raises(OptionError, match=message):
        importlib.import_module(f"entrypoints.{entry_point}").main(arguments)
