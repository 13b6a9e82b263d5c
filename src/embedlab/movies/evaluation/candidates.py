"""Candidates of an evaluation: the embedding in its forms, and the baselines, each with its grid.

A candidate's fit takes likes and settings and returns its score function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np
import scipy.sparse as sp

from embedlab.device import free_bytes
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.evaluation import baselines
from embedlab.movies.evaluation.metrics import ScoreFunction, inner_products, unit_rows
from embedlab.movies.options import NORM_EXPONENTS, USER_WEIGHTS, FitOptions
from embedlab.movies.solvers.minres import fit_minres

WEIGHTED_EMBEDDING, PUBLISHED_EMBEDDING = "embedding, weighted", "embedding, published"
PUBLISHED_COSINE = f"{PUBLISHED_EMBEDDING}, cosine"
NOT_INSTALLED = "not installed (pip install -r requirements-extra.txt)"
ITEM_POWERS = (0.0, 0.25, 0.5)
# Rounds of the exact solver while tuning: the cost is then about 1% above the lowest, and more
# rounds do not change the ranking of the settings.
TUNING_ROUNDS = 4

Settings = Mapping[str, object]
FitFunction = Callable[..., ScoreFunction]  # likes and settings -> a score function


def scorer_name(exponent: float) -> str:
    """`dot / |v|^a`: a = 0 is the dot product, and a = 1 ranks as the cosine does."""
    return {0.0: "dot", 1.0: "cosine"}.get(exponent, f"dot / |v|^{exponent:g}")


def embedding_scorers(
    likes: sp.csr_matrix,
    dim: int,
    user_weight: str,
    item_power: float,
    is_rough: bool = False,
) -> ScoreFunction:
    """The embedding of weighted likes by the exact solver, with the scorers v_q·v_j / ‖v_j‖^a.

    is_rough  fit by TUNING_ROUNDS rounds only.
    """
    weighted = weight_likes(likes, user_weight, item_power)
    options = FitOptions("exact", dim=dim)
    if is_rough:
        options = replace(options, epochs=TUNING_ROUNDS)
    fit = fit_minres(weighted, options, np.random.default_rng(0), is_rough=is_rough)
    v = weighted.to_embedding(fit.embedding)  # (n_movies, dim)
    scaled = {scorer_name(exponent): unit_rows(v, exponent) for exponent in NORM_EXPONENTS}
    return inner_products({name: (v, v_scaled) for name, v_scaled in scaled.items()})


@dataclass(frozen=True)
class Candidate:
    """A recommender, with the settings and scorers among which validation chooses.

    grid     settings to fit with.
    scorer_names
             names of the scorers to choose from; empty for all scorers of a fit.
    tuning_overrides
            settings that are added to those of the grid, or replace them, while tuning.
    """

    name: str
    fit: FitFunction
    grid: Sequence[Settings] = ({},)
    scorer_names: tuple[str, ...] = ()
    tuning_overrides: Settings = field(default_factory=dict)


def _grid(**values: Sequence[object]) -> list[Settings]:
    """Every combination: {name: one of its values}."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def build_candidates(
    dims: Sequence[int], seed: int, shape: tuple[int, int]
) -> tuple[list[Candidate], list[str]]:
    """The candidates for likes of `shape`, and those that are left out, with the reason."""
    weights = tuple(USER_WEIGHTS)
    by_weight = _grid(user_weight=weights)
    embedding = partial(Candidate, fit=embedding_scorers, tuning_overrides={"is_rough": True})
    published = _grid(dim=dims, user_weight=["none"], item_power=[0.0])
    weighted = _grid(dim=dims, user_weight=weights, item_power=ITEM_POWERS)
    candidates = [
        Candidate("popularity", baselines.popularity),
        Candidate("raw co-likes", baselines.item_neighbours, by_weight, (baselines.COUNT,)),
        Candidate("item-kNN cosine", baselines.item_neighbours, by_weight, (*baselines.DAMPED,)),
        embedding(PUBLISHED_EMBEDDING, grid=published, scorer_names=(scorer_name(0),)),
        embedding(PUBLISHED_COSINE, grid=published, scorer_names=(scorer_name(1),)),
        embedding(WEIGHTED_EMBEDDING, grid=weighted),
    ]
    left_out = []
    needed, free = baselines.ease_bytes(*shape) / 2**30, free_bytes("cpu") / 2**30
    if needed < free:
        grid = _grid(user_weight=weights, penalty=(100, 1_000, 10_000, 100_000))
        candidates.append(Candidate("EASE", baselines.ease, grid))
    else:
        left_out.append(f"EASE, which needs {needed:,.0f} GiB where {free:,.0f} GiB are free")
    if find_spec("implicit"):
        knn = _grid(kind=["BM25Recommender"], B=(0.0, 0.5))
        knn += _grid(kind=["CosineRecommender", "TFIDFRecommender"])
        strengths = ((10, 30), (10, 100), (30, 100), (100, 300))  # (alpha, regularization)
        pairs = product((16, 32, 64), strengths)
        als = [{"factors": n, "alpha": a, "regularization": r} for n, (a, r) in pairs]
        candidates.append(Candidate("implicit item-kNN", baselines.implicit_knn, knn))
        candidates.append(
            Candidate("implicit ALS", partial(baselines.implicit_als, seed=seed), als)
        )
    else:
        left_out.append(f"implicit's baselines, {NOT_INSTALLED}")
    if find_spec("gensim"):
        grid = _grid(dim=(20, 50), epochs=(10,), ns_exponent=(0.0, 0.75))
        candidates.append(Candidate("item2vec", partial(baselines.item2vec, seed=seed), grid))
    else:
        left_out.append(f"gensim's item2vec, {NOT_INSTALLED}")
    return candidates, left_out
