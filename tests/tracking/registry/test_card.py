"""The text of the model card, and its length, which MLflow's database limits."""

from cards import card_of

from embedlab.workflows.model_facts import MOVIE_METRICS, VAL_ACCURACY, VAL_LOSS

LONGEST = 5000  # of a version's description, in characters, in PostgreSQL


def test_the_card_in_full():
    assert card_of("5ea1").markdown("models:/movie-embedding/7") == (
        "A vector for every movie.\n\n"
        "## Data and licence\n\n"
        "sample: 2 users, 2 movies, 3 likes; sha256 `5ea1`.\n\n"
        "- Ratings: built in.\n\n"
        "## How it was trained\n\n"
        "- entry point: fit_embedding\n"
        "- optimizer: exact\n"
        "- dim: 2\n"
        "- code commit: c0ffee\n"
        f"- run: {'0a' * 16}\n\n"
        "## How good it is\n\n"
        "- final cost: 100\n\n"
        "## What it cannot do\n\n"
        "- Nothing else.\n\n"
        "## Query it\n\n"
        "```bash\nmlflow run . -e recommend -P model=models:/movie-embedding/7\n```\n"
    )


def test_the_card_names_uncommitted_changes():
    origin = {"entry_point": "finetune", "git.commit": "c0ffee", "git.dirty": "true"}
    text = card_of("a", origin=origin).markdown("runs:/1/model")
    assert "- code commit: c0ffee, with changes that were not committed\n" in text


def test_a_value_of_any_length_stays_on_one_line_and_the_card_fits():
    trained = {f"parameter_{number}": "a long\npath " * 400 for number in range(15)}
    text = card_of("a", data="folder " * 900, trained=trained).markdown("runs:/1/model")
    assert len(text) < LONGEST
    assert "- parameter_0: a long path a long path" in text
    assert text.count("…\n") == 15


def test_no_other_tag_of_a_card_has_the_name_of_a_score():
    """`should_promote` reads the scores from the tags."""
    card = card_of("a")
    scores = {*MOVIE_METRICS, VAL_ACCURACY.name, VAL_LOSS.name}
    facts = {"data_digest", *card.origin, *card.trained, *card.metrics}
    assert set(card.tags) == facts | set(card.score.tags)
    assert not facts & {*scores, "judged_by", "promote"}
