"""Baselines: popularity, item neighbours, EASE, and those of `implicit` and `gensim`, if installed.

In: likes and settings. Out: a fit's score function, whose scorers share the work on a query.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.movies.data.cooccurrence import likes_per_movie
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.evaluation.metrics import ScoreFunction, inner_products, unit_rows

# To break ties, the most liked movie gains this fraction of the query's best score (if scores are
# whole numbers: 0.5).
TIE_BREAK = 1e-3
COUNT = "count"
DAMPED = {f"cosine, shrinkage={s}": s for s in (0, 10, 100, 1000)}  # of `item_neighbours`


def popularity(likes: sp.csr_matrix) -> ScoreFunction:
    """A score function with one scorer: a movie's number of likes, whatever the query."""
    counts = likes_per_movie(likes).astype(np.float32)

    def score_queries(query: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield "likes", np.tile(counts, (len(query), 1))

    return score_queries


def item_neighbours(likes: sp.csr_matrix, user_weight: str) -> ScoreFunction:
    """Item-item scorers from the users who like both movies; popularity breaks ties.

    COUNT is X_ij, the number of these users. The other scorers are the cosine of two movies'
    columns of L, damped if few users like either: X_ij / (√(x_i x_j) + shrinkage).
    """
    weighted = weight_likes(likes, user_weight)
    norms = np.sqrt(weighted.diagonal)  # (n_movies,)
    by_movie = weighted.matrix.T.tocsr()  # (n_movies, n_users)
    n_likes = likes_per_movie(likes)  # (n_movies,)

    def score_queries(query: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        x = _rows_of_x(query, by_movie, weighted.matrix)
        yield COUNT, _break_ties(x, n_likes, are_whole=user_weight == "none")
        outer = np.outer(norms[query], norms)  # (n, n_movies)
        for name, shrinkage in DAMPED.items():
            scale = outer + shrinkage
            damped = np.divide(x, scale, out=np.zeros_like(scale), where=scale > 0)
            yield name, _break_ties(damped, n_likes)

    return score_queries


def ease_bytes(n_users: int, n_movies: int) -> int:
    """Peak memory of `ease`, in bytes."""
    return 8 * (3 * n_users**2 + 2 * n_users * n_movies)


def ease(likes: sp.csr_matrix, user_weight: str, penalty: float) -> ScoreFunction:
    """EASE: the linear autoencoder L ≈ L B with a zero diagonal and an L2 penalty λ, exactly.

        P = (LᵀL + λI)⁻¹,  B_ij = −P_ij / P_jj,  B_jj = 0

    P has n_movies² entries. With the smaller K = (LLᵀ + λI)⁻¹, P = (I − LᵀKL) / λ (Woodbury), so
    B_ij = (LᵀKL)_ij / (1 − (LᵀKL)_jj). This needs `ease_bytes` of memory.

    Source: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.
    """
    weighted = weight_likes(likes, user_weight).matrix  # (n_users, n_movies)
    gram = (weighted @ weighted.T).toarray()  # (n_users, n_users)
    k = np.linalg.inv(gram + penalty * np.eye(len(gram)))
    kl = (weighted.T @ k).T  # K L, K is symmetric: (n_users, n_movies)
    by_movie = weighted.T.tocsr()  # (n_movies, n_users)
    diagonal = 1 - np.asarray(weighted.multiply(kl).sum(axis=0)).ravel()  # 1 − (LᵀKL)_jj

    def score_queries(query: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        b = by_movie[query] @ kl / diagonal  # (n, n_movies)
        b[np.arange(len(query)), query] = 0
        yield "B", b

    return score_queries


def implicit_als(
    likes: sp.csr_matrix, factors: int, regularization: float, alpha: float, seed: int
) -> ScoreFunction:
    """Implicit-feedback ALS of the library `implicit` (Hu, Koren and Volinsky, ICDM 2008).

    `dot` and `cosine` compare two movies' factors; `fold_in` is what the model predicts for a user
    who likes the query movie only: y_j · (YᵀY + λI)⁻¹ y_q, up to a factor.
    """
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors, regularization, alpha, random_state=seed, use_gpu=False, num_threads=1
    )
    model.fit(likes.astype(np.float32), show_progress=False)
    return als_scores(np.asarray(model.item_factors, dtype=np.float64), regularization)


def als_scores(y: np.ndarray, regularization: float) -> ScoreFunction:
    """The score function of ALS factors Y, (n_movies, factors), as `implicit_als` describes it."""
    inverse = np.linalg.inv(y.T @ y + regularization * np.eye(y.shape[1], dtype=y.dtype))
    unit = unit_rows(y)
    return inner_products({"dot": (y, y), "cosine": (unit, unit), "fold_in": (y @ inverse, y)})


def implicit_knn(likes: sp.csr_matrix, kind: str, **settings: float) -> ScoreFunction:
    """The 100 nearest neighbours of every movie, by the library `implicit`.

    kind      BM25Recommender, CosineRecommender or TFIDFRecommender.
    settings  of that class, such as BM25's `B`, the normalisation by popularity.
    """
    from implicit import nearest_neighbours

    model = getattr(nearest_neighbours, kind)(K=100, num_threads=1, **settings)
    with warnings.catch_warnings():
        # The library passes a COO matrix to its own code for CSR, and warns about that.
        warnings.filterwarnings("ignore", message="Method expects CSR input")
        model.fit(likes.astype(np.float64), show_progress=False)
    similarity = sp.csr_matrix(model.similarity)  # (n_movies, n_movies)
    n_likes = likes_per_movie(likes)  # (n_movies,)

    def score_queries(query: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield "similarity", _break_ties(similarity[query].toarray(), n_likes)

    return score_queries


def item2vec(
    likes: sp.csr_matrix, dim: int, epochs: int, ns_exponent: float, seed: int
) -> ScoreFunction:
    """Skip-gram with negative sampling over each user's likes in random order, by gensim.

    `cosine` and `dot` compare two movies' vectors. `in_out` compares a movie's vector with the
    output vectors of the others; these inner products are what training fits.

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
    unit = unit_rows(into)
    return inner_products({"cosine": (unit, unit), "dot": (into, into), "in_out": (into, out)})


def _rows_of_x(query: np.ndarray, by_movie: sp.csr_matrix, likes: sp.csr_matrix) -> np.ndarray:
    """The rows of X = LᵀL for the query movies, (n, n_movies); by_movie is Lᵀ as CSR."""
    x = np.empty((len(query), likes.shape[1]), likes.dtype)

    def fill(query: np.ndarray, x: np.ndarray) -> None:
        (by_movie[query] @ likes).toarray(out=x)

    n = torch.get_num_threads()
    with ThreadPoolExecutor(n) as threads:  # scipy multiplies without Python's lock
        list(threads.map(fill, np.array_split(query, n), np.array_split(x, n)))
    return x


def _break_ties(scores: np.ndarray, n_likes: np.ndarray, are_whole: bool = False) -> np.ndarray:
    """The scores, (n, n_movies), with ties broken by the movies' likes, (n_movies,).

    Likes may reorder scores that differ by less than TIE_BREAK times the query's best. If all
    scores `are_whole` numbers, they reorder only equal scores, because at most 0.5 is added.
    """
    relative = n_likes / max(n_likes.max(), 1)  # (n_movies,) 0 to 1
    largest = 0.5 if are_whole else TIE_BREAK * scores.max(axis=1, keepdims=True)
    return scores + largest * relative
