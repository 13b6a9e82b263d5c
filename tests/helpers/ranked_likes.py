"""The likes of eighty users, how one scorer ranks movies for them, and an evaluation of them."""

from functools import cache

import numpy as np
import pandas as pd
import scipy.sparse as sp
from oracles import random_likes

from embedlab.movies.evaluation import candidates
from embedlab.movies.evaluation.evaluate import Evaluation, EvaluationOptions, tune_and_evaluate
from embedlab.movies.evaluation.metrics import RankingMetrics, held_out_metrics, recommend_for
from embedlab.movies.evaluation.splits import Holdout
from embedlab.movies.evaluation.summary import result_table


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def eighty_users() -> sp.csr_matrix:
    """The likes of eighty users for sixty movies."""
    return random_likes(rng(7), n_users=80, n_movies=60)


def pairs(likes: sp.csr_matrix) -> set[tuple[int, int]]:
    """{(user, movie)} of all likes."""
    return set(zip(*(indices.tolist() for indices in likes.nonzero()), strict=True))


def ranking(scorer, holdout: Holdout, k: int = 10, exclude: str = "query") -> RankingMetrics:
    """The metrics of one scorer."""
    return held_out_metrics(lambda query: [("it", scorer(query))], holdout, k, exclude)["it"]


def best_five(scorer, holdout: Holdout, exclude: str = "query") -> np.ndarray:
    """The movies that one scorer recommends for every query."""
    return recommend_for(lambda query: [("it", scorer(query))], holdout, 5, exclude)["it"]


def scorer_of(score_queries, name: str):
    """One scorer of a fit."""
    return lambda query: dict(score_queries(query))[name]


def scores_of(score_queries, name: str, n_movies: int) -> np.ndarray:
    """The scores of every movie for every movie as the query."""
    return scorer_of(score_queries, name)(np.arange(n_movies))


@cache
def evaluated() -> tuple[list[Evaluation], pd.DataFrame]:
    """The evaluations of this project's own candidates on the eighty users, and their table."""
    likes = eighty_users()
    present, _ = candidates.build_candidates((3, 6), 0, likes.shape)
    optional = "implicit", "item2vec"
    installed = [candidate for candidate in present if not candidate.name.startswith(optional)]
    entries = tune_and_evaluate(likes, installed, EvaluationOptions(n_splits=2))
    return entries, result_table(entries, 400, seed=0)
