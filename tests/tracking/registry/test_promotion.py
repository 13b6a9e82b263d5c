"""The promotion rule: which of two versions is champion, and the phrase that says why."""

import pytest

from embedlab.tracking.registry.promotion import PromotionScore, RegisteredVersion, should_promote
from embedlab.workflows.model_facts import COST, VAL_ACCURACY, VAL_LOSS


def candidate(version, accuracy, digest="digest", promote="if_better", loss=None):
    val_loss = None if loss is None else PromotionScore(VAL_LOSS, loss)
    tags = PromotionScore(VAL_ACCURACY, accuracy, val_loss).tags | {"promote": promote}
    return RegisteredVersion(version, tags | ({"data_digest": digest} if digest else {}))


CHAMPION = candidate(7, 0.9)


@pytest.mark.parametrize(
    ("accuracy", "is_better", "words"),
    [
        (0.91, True, "its validation accuracy 0.9100 is above the 0.9000 of version 7"),
        (0.9, False, "its validation accuracy 0.9000 is not above the 0.9000 of version 7"),
        (0.89, False, "its validation accuracy 0.8900 is not above the 0.9000 of version 7"),
        (float("nan"), False, "its validation accuracy nan is not above the 0.9000 of version 7"),
    ],
)
def test_a_higher_score_on_the_same_data_is_promoted(accuracy, is_better, words):
    assert should_promote(candidate(8, accuracy), CHAMPION, VAL_ACCURACY) == (is_better, words)


@pytest.mark.parametrize(
    ("old", "new", "is_better", "words"),
    [
        (1.0, 0.31, True, "is equal, 0.9000, and its validation loss 0.3100 is below the 1.0000"),
        (0.3, 0.31, False, "and its validation loss 0.3100 is not below the 0.3000"),
        (0.3, 0.3, False, "and its validation loss 0.3000 is not below the 0.3000"),
        (None, 0.31, False, "its validation accuracy 0.9000 is not above the 0.9000"),
    ],
)
def test_the_tie_breaker_decides_between_equal_scores(old, new, is_better, words):
    pair = candidate(8, 0.9, loss=new), candidate(7, 0.9, loss=old)
    is_better_now, reason = should_promote(*pair, VAL_ACCURACY)
    assert (is_better_now, words in reason) == (is_better, True), reason


def test_a_higher_score_is_promoted_whatever_its_tie_breaker():
    assert should_promote(candidate(8, 0.91, loss=5.0), candidate(7, 0.9, loss=0.1), VAL_ACCURACY)[
        0
    ]


@pytest.mark.parametrize(
    "score",
    [
        PromotionScore(COST, 1.5),
        PromotionScore(VAL_ACCURACY, 0.9, PromotionScore(VAL_LOSS, 0.3)),
        PromotionScore(VAL_ACCURACY, 0.9),
    ],
)
def test_a_score_is_read_back_from_the_tags_of_its_version(score):
    assert PromotionScore.from_tags(score.metric, score.tags | {"promote": "never"}) == score


@pytest.mark.parametrize("digest", ["other", None])
def test_scores_on_other_data_are_not_compared(digest):
    is_champion, reason = should_promote(candidate(8, 0.9), candidate(7, 0.1, digest), VAL_ACCURACY)
    assert not is_champion
    assert "version 7, was made with other data, and its validation accuracy" in reason
    assert "promote=always" in reason


@pytest.mark.parametrize(
    ("champion", "promote", "is_champion", "reason"),
    [
        (None, "if_better", True, "there was no champion"),
        (None, "never", False, "promote=never"),
        (CHAMPION, "never", False, "promote=never"),
        (CHAMPION, "always", True, "promote=always, in place of version 7"),
    ],
)
def test_promote_decides_without_a_score(champion, promote, is_champion, reason):
    new = candidate(8, 0.95 if promote == "never" else 0.5, promote=promote)
    assert should_promote(new, champion, VAL_ACCURACY) == (is_champion, reason)
