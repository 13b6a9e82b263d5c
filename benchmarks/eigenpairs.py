"""Eigensolvers for the exact solver, compared: block Krylov, Lanczos and LOBPCG.

    python -m benchmarks.eigenpairs --ratings ml-latest-small
    python -m benchmarks.eigenpairs --ratings <folder of synthetic ratings> --n 1

The rounds differ only in the eigensolver; Newton's step on the diagonal is the same:

block    one product with LᵀL per vector and round, in a subspace kept between rounds (`minres`);
lanczos  ARPACK's restarted Lanczos, with a tolerance ten times tighter each round;
lobpcg   scipy's LOBPCG, three iterations per round, started from the last round's vectors.

The solvers take turns in one process. Gaps are relative to the lowest cost that any of them
reached.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg

from benchmarks.movie_fits import DIM, EXACT, first_within, load_likes, seconds_until
from benchmarks.timing import Report
from embedlab.movies.solvers import minres
from embedlab.movies.solvers.operators import ScipyLikesOperator
from embedlab.progress import EpochRecord

GAPS = (1e-2, 1e-3, 1e-4, 1e-6)


class Lanczos:
    """Top eigenpairs of X + diag(shift) by ARPACK, its tolerance ten times tighter each round."""

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._likes, self._likes_t = likes, likes.T
        self._start = generator.standard_normal(likes.shape[1])
        self._tolerance = 1.0
        self.products = 0

    def expand_subspace(self, shift: torch.Tensor) -> None:
        self._tolerance = max(self._tolerance / 10, 1e-7)

    def rayleigh_ritz(self, shift: torch.Tensor, k: int) -> minres.Eigenpairs:
        diagonal = shift.numpy()
        shape = (len(diagonal), len(diagonal))
        operator = LinearOperator(shape, lambda v: self._x(v) + diagonal * v, dtype=np.float64)
        # 1.5 k Lanczos vectors: orthogonalisations cost more than products here.
        ncv = min(k + max(k // 2, 20), len(diagonal))
        start, tolerance = self._start, self._tolerance
        values, e = eigsh(operator, k, which="LA", v0=start, ncv=ncv, tol=tolerance)
        self._start = e.sum(axis=1)  # lies in this round's subspace
        return torch.from_numpy(values), torch.from_numpy(e), torch.from_numpy(self._x(e))

    def refine(self) -> bool:
        return False

    def _x(self, vectors: np.ndarray) -> np.ndarray:
        """LᵀL times a vector, or the columns of a matrix."""
        self.products += vectors.size // len(vectors)
        return self._likes_t @ (self._likes @ vectors)


class Lobpcg:
    """Three iterations of scipy's LOBPCG from the last round's vectors."""

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._operator = ScipyLikesOperator(likes, torch.float64, torch.float64)
        self.products = 0
        self._e = generator.standard_normal((likes.shape[1], k))

    def expand_subspace(self, shift: torch.Tensor) -> None:
        def apply(vectors: np.ndarray) -> np.ndarray:
            return self._gram(vectors) + shift.numpy()[:, None] * vectors

        shape = (len(shift), len(shift))
        operator = LinearOperator(shape, apply, matmat=apply, dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning that three iterations are too few
            _, e = lobpcg(operator, self._e, maxiter=3, tol=1e-9)
        self._e = np.linalg.qr(e).Q

    def _gram(self, vectors: np.ndarray) -> np.ndarray:
        self.products += vectors.shape[1]
        block = torch.from_numpy(np.ascontiguousarray(vectors))
        return self._operator.rmatmat(self._operator.matmat(block)).numpy()

    def rayleigh_ritz(self, shift: torch.Tensor, k: int) -> minres.Eigenpairs:
        """Ritz pairs of the present vectors, for this shift."""
        e, x_e = torch.from_numpy(self._e), torch.from_numpy(self._gram(self._e))
        projected = e.T @ (x_e + shift[:, None] * e)
        values, turned = torch.linalg.eigh((projected + projected.T) / 2)
        return values, e @ turned, x_e @ turned

    def refine(self) -> bool:
        return False


SIDES: dict[str, Callable[..., minres.Eigensolver]] = {
    "block": minres.BlockKrylov,
    "lobpcg": Lobpcg,
    "lanczos": Lanczos,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratings", default="ml-latest-small")
    parser.add_argument("--n", type=int, default=3, help="repetitions")
    parser.add_argument("--rounds", type=int, default=40, help="at the most")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    args = parser.parse_args()
    likes = load_likes(args.ratings)
    n_movies = likes.matrix.shape[1]
    if n_movies <= minres.MAX_MOVIES_FOR_LAPACK:
        parser.error(
            f"--ratings: expected more than {minres.MAX_MOVIES_FOR_LAPACK} movies, got "
            f"{n_movies:,}: so few are decomposed by LAPACK"
        )
    options = replace(EXACT, epochs=args.rounds)
    histories: dict[str, list[list[EpochRecord]]] = {name: [] for name in args.sides}
    for seed in range(args.n):
        for name, of_side in histories.items():
            history: list[EpochRecord] = []
            generator = np.random.default_rng(seed)
            minres.fit_minres(
                likes.weighted, options, generator, on_epoch=history.append, eigensolver=SIDES[name]
            )
            of_side.append(history)
    limit = min(
        history[-1].metrics["train/cost"] for of_side in histories.values() for history in of_side
    )
    report = Report(f"{likes.name}, dim {DIM}, least cost {limit:,.0f}")
    for gap in GAPS:
        base = None
        for name, of_side in histories.items():
            positions = [first_within(history, limit, gap) for history in of_side]
            reached = [position for position in positions if position is not None]
            if len(reached) < len(positions):
                print(f"{name} does not come within {gap:.0e} in {args.rounds} rounds")
                continue
            seconds = [seconds_until(*pair) for pair in zip(of_side, reached, strict=True)]
            record = of_side[0][reached[0]]
            products = int(record.metrics["train/products"])
            label = f"to {gap:.0e}, {name}: round {record.epoch}, {products:,} products"
            median = float(np.median(seconds))
            base = base or median
            report.add(label, seconds, "s", median / base)
    report.show()


if __name__ == "__main__":
    main()
