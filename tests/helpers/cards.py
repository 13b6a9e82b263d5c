"""A model card for tests that register something and do not care what it says."""

from embedlab.tracking.registry.card import Card
from embedlab.tracking.registry.promotion import PromotionScore
from embedlab.workflows.model_facts import COST


def card_of(data_digest: str, cost: float = 100.0, **changes: object) -> Card:
    """The card of a model with this data digest and this cost."""
    facts = {
        "summary": "A vector for every movie.",
        "data": "sample",
        "data_digest": data_digest,
        "counts": "2 users, 2 movies, 3 likes",
        "licences": {"Ratings": "built in."},
        "trained": {"optimizer": "exact", "dim": "2"},
        "origin": {"entry_point": "fit_embedding", "git.commit": "c0ffee", "git.dirty": "false"},
        "run_id": "0a" * 16,
        "score": PromotionScore(COST, cost),
        "metrics": {"gap": 0.25},
        "results": {"final cost": "100"},
        "limits": ("Nothing else.",),
        "command": "mlflow run . -e recommend -P model={}".format,
    }
    return Card(**facts | changes)
