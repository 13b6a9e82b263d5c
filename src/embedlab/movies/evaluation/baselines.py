"""Baselines: popularity, item neighbours, EASE, and those of `implicit` and `gensim`, if installed.

In: likes and settings. Out: scorers by name, as one fit may have several.
"""

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.movies.data.cooccurrence import likes_per_movie
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.evaluation.metrics import Scorer

# The fraction of the best score that the most liked movie gains, unless scores are whole numbers.
TIE_BREAK = 1e-3
COUNT = "count"
DAMPED = {f"cosine, shrinkage={s}": s for s in (0, 10, 100, 1000)}  # of `item_neighbours`


def popularity(likes: sp.csr_matrix) -> Mapping[str, Scorer]:
    """The most liked movies, for every query."""
    counts = likes_per_movie(likes).astype(np.float32)
    return {"likes": lambda query: np.tile(counts, (len(query), 1))}


def item_neighbours(likes: sp.csr_matrix, user_weight: str) -> Mapping[str, Scorer]:
    """Item-item scorers from the users who like both; ties by popularity.

    COUNT is X_ij, the number of these users. The others are the cosine of two movies' columns of L,
    damped if few users like either: X_ij / (√(x_i x_j) + shrinkage).
    """
    weighted = weight_likes(likes, user_weight)
    norms = np.sqrt(weighted.diagonal)  # (n_movies,)
    rows = _rows_of_x(weighted.matrix)

    def score(query: np.ndarray, shrinkage: float) -> np.ndarray:
        scale = np.outer(norms[query], norms) + shrinkage  # (n, n_movies)
        return np.divide(rows(query), scale, out=np.zeros_like(scale), where=scale > 0)

    scorers: dict[str, Scorer] = {COUNT: rows}
    scorers |= {name: partial(score, shrinkage=s) for name, s in DAMPED.items()}
    return {
        name: _break_ties_by_popularity(scorer, likes, name == COUNT and user_weight == "none")
        for name, scorer in scorers.items()
    }


def ease_bytes(n_users: int, n_movies: int) -> int:
    """Peak memory of `ease`, in bytes."""
    return 8 * (3 * n_users**2 + 2 * n_users * n_movies)


def ease(likes: sp.csr_matrix, user_weight: str, penalty: float) -> Mapping[str, Scorer]:
    """EASE: the linear autoencoder L ≈ L B with a zero diagonal and an L2 penalty λ, exactly.

        P = (LᵀL + λI)⁻¹,  B_ij = −P_ij / P_jj,  B_jj = 0

    P is n_movies² numbers; with the smaller K = (LLᵀ + λI)⁻¹ it is P = (I − LᵀKL) / λ (Woodbury),
    so B_ij = (LᵀKL)_ij / (1 − (LᵀKL)_jj). Needs `ease_bytes`.

    Source: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.
    """
    weighted = weight_likes(likes, user_weight).matrix  # (n_users, n_movies)
    gram = (weighted @ weighted.T).toarray()  # (n_users, n_users)
    k = np.linalg.inv(gram + penalty * np.eye(len(gram)))
    kl = (weighted.T @ k).T  # K L, K is symmetric: (n_users, n_movies)
    by_movie = weighted.T.tocsr()  # (n_movies, n_users)
    diagonal = 1 - np.asarray(weighted.multiply(kl).sum(axis=0)).ravel()  # 1 − (LᵀKL)_jj

    def score(query: np.ndarray) -> np.ndarray:
        b = by_movie[query] @ kl / diagonal  # (n, n_movies)
        b[np.arange(len(query)), query] = 0
        return b

    return {"B": score}


def implicit_als(
    likes: sp.csr_matrix, factors: int, regularization: float, alpha: float, seed: int
) -> Mapping[str, Scorer]:
    """Implicit-feedback ALS of the library `implicit` (Hu, Koren and Volinsky, ICDM 2008).

    `dot` and `cosine` compare two movies' factors; `fold_in` is what the model predicts for a user
    who likes the query movie only: y_j · (YᵀY + λI)⁻¹ y_q, up to a factor.
    """
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors, regularization, alpha, random_state=seed, use_gpu=False, num_threads=1
    )
    model.fit(likes.astype(np.float32), show_progress=False)
    y = np.asarray(model.item_factors, dtype=np.float64)  # (n_movies, factors)
    inverse = np.linalg.inv(y.T @ y + regularization * np.eye(factors))
    return {
        "dot": lambda query: y[query] @ y.T,
        "cosine": cosine(y),
        "fold_in": lambda query: y[query] @ inverse @ y.T,
    }


def implicit_knn(likes: sp.csr_matrix, kind: str, **settings: float) -> Mapping[str, Scorer]:
    """The 100 nearest neighbours of every movie, by the library `implicit`.

    kind      BM25Recommender, CosineRecommender or TFIDFRecommender.
    settings  of that class, such as BM25's `B`, the normalisation by popularity.
    """
    from implicit import nearest_neighbours

    model = getattr(nearest_neighbours, kind)(K=100, num_threads=1, **settings)
    with warnings.catch_warnings():
        # The library turns its own COO matrix into CSR, and warns that it was given one.
        warnings.filterwarnings("ignore", message="Method expects CSR input")
        model.fit(likes.astype(np.float64), show_progress=False)
    similarity = sp.csr_matrix(model.similarity)  # (n_movies, n_movies)
    return {
        "similarity": _break_ties_by_popularity(lambda query: similarity[query].toarray(), likes)
    }


def item2vec(
    likes: sp.csr_matrix, dim: int, epochs: int, ns_exponent: float, seed: int
) -> Mapping[str, Scorer]:
    """Skip-gram with negative sampling over each user's likes in random order, by gensim.

    `cosine` and `dot` compare two movies' vectors, `in_out` a movie's vector with the others'
    output vectors, which is what training fits.

    Source: O. Barkan and N. Koenigstein, "Item2Vec", 2016, arXiv 1603.04259.
    """
    from gensim.models import Word2Vec

    generator = np.random.default_rng(seed)
    baskets = np.split(likes.indices, likes.indptr[1:-1])
    sentences = [[str(movie) for movie in generator.permutation(b)] for b in baskets if len(b) > 1]
    model = Word2Vec(
        sentences,
        vector_size=dim,
        window=10,
        min_count=1,
        sg=1,
        negative=5,
        sample=0,
        ns_exponent=ns_exponent,
        epochs=epochs,
        seed=seed,
        workers=1,  # more are not reproducible
    )
    into = np.zeros((likes.shape[1], dim))
    out = np.zeros((likes.shape[1], dim))
    rows = np.array(model.wv.index_to_key, dtype=np.int64)
    into[rows], out[rows] = model.wv.vectors, model.syn1neg
    return {
        "cosine": cosine(into),
        "dot": lambda query: into[query] @ into.T,
        "in_out": lambda query: into[query] @ out.T,
    }


def cosine(vectors: np.ndarray) -> Scorer:
    """Cosine of two of the vectors, (n_movies, dim); a zero vector scores 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return lambda query: unit[query] @ unit.T


def _rows_of_x(likes: sp.csr_matrix) -> Scorer:
    """Scores by the rows of LᵀL, (n, n_movies); repeated calls with one array share the result."""
    by_movie = likes.T.tocsr()  # (n_movies, n_users)
    last = np.empty(0, np.int64), np.empty((0, likes.shape[1]))

    def rows(query: np.ndarray) -> np.ndarray:
        nonlocal last
        if last[0] is not query:
            x = np.empty((len(query), likes.shape[1]), likes.dtype)
            n = torch.get_num_threads()
            with ThreadPoolExecutor(n) as threads:  # scipy multiplies without Python's lock
                list(threads.map(fill, np.array_split(query, n), np.array_split(x, n)))
            last = query, x
        return last[1]

    def fill(query: np.ndarray, x: np.ndarray) -> None:
        (by_movie[query] @ likes).toarray(out=x)

    return rows


def _break_ties_by_popularity(
    scorer: Scorer, likes: sp.csr_matrix, are_whole: bool = False
) -> Scorer:
    """The scorer with ties broken by popularity.

    Popularity may reorder scores that differ by less than TIE_BREAK times the query's best. If all
    scores `are_whole` numbers, it reorders only equal ones, as at most a half is added.
    """
    counts = likes_per_movie(likes)
    relative = counts / max(counts.max(), 1)  # (n_movies,) 0 to 1

    def score(query: np.ndarray) -> np.ndarray:
        scores = scorer(query)  # (n, n_movies)
        largest = 0.5 if are_whole else TIE_BREAK * scores.max(axis=1, keepdims=True)
        return scores + largest * relative

    return score
