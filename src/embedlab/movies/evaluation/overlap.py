"""How alike two ranked lists are, from 0 to 1. In: two lists of movies, best first."""

from collections.abc import Sequence

PERSISTENCE = 0.9  # the first ten ranks hold 86 % of the weight (Webber et al., eq. 21)


def overlap_at_k(first: Sequence[int], second: Sequence[int]) -> float:
    """The share of the k movies of one list that the other, as long, has too; order is nothing."""
    return len(set(first) & set(second)) / max(len(first), len(second), 1)


def rank_biased_overlap(
    first: Sequence[int], second: Sequence[int], p: float = PERSISTENCE
) -> float:
    """RBO, extrapolated from the k ranks that are known; the first ranks count most.

    With A_d the agreement (the overlap of the first d ranks over d):

        RBO_ext = A_k p^k + (1 − p)/p Σ_{d=1..k} A_d p^d

    Both lists have k movies, none twice. Source: W. Webber, A. Moffat and J. Zobel, "A similarity
    measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 23.
    """
    a = agreements(first, second)
    if not a:
        return 0.0
    weighted = sum(a_d * p**d for d, a_d in enumerate(a, start=1))
    return a[-1] * p ** len(a) + (1 - p) / p * weighted


def agreements(first: Sequence[int], second: Sequence[int]) -> list[float]:
    """A_d for d = 1 … k: the share of the first d ranks that both lists have."""
    seen_first, seen_second = set(), set()
    found = []
    for depth, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        seen_first.add(one)
        seen_second.add(other)
        found.append(len(seen_first & seen_second) / depth)
    return found
