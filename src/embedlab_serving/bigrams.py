"""Bigram index: finds the texts that can be near a query without comparing it with all texts.

It uses the q-gram lemma (E. Ukkonen, Theoretical Computer Science 92, 1992): an edit changes a
bounded number of a text's bigrams, so a near text shares many with the query. No near text is
missed; the candidates include some that are not near, so an exact comparison has to follow.
"""

from collections.abc import Sequence

import numpy as np

LETTERS = 128  # letters are compared modulo this, which can only add candidates


class BigramIndex:
    """An index of n texts, whose words are separated by single spaces; positions count from 0.

    Every text is put between two spaces, so its bigrams do not depend on the order of its words.
    The index is immutable, so threads may share it.
    """

    def __init__(self, texts: Sequence[str]):
        n = len(texts)
        self.lengths = np.array([len(text) for text in texts], np.int64)  # (n,)
        owners = np.repeat(np.arange(n), self.lengths + 2)  # the text that each letter is in
        is_inside = owners[1:] == owners[:-1]
        bigrams = _bigrams("".join(f" {text} " for text in texts))
        pairs = np.sort(bigrams[is_inside] * n + owners[1:][is_inside])
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique takes ten times as long
        self._owners = pairs % n  # of each bigram in turn, the texts that have it
        self._starts = np.searchsorted(pairs, np.arange(LETTERS**2 + 1) * n)
        self._n_bigrams = np.bincount(self._owners, minlength=n)  # (n,), different ones

    def shared_with(self, query: str) -> tuple[np.ndarray, int]:
        """(n,) how many of the query's different bigrams each text has; and how many there are."""
        bigrams = np.unique(_bigrams(f" {query} "))
        owners = [self._owners[self._starts[b] : self._starts[b + 1]] for b in bigrams]
        return np.bincount(np.concatenate(owners), minlength=len(self.lengths)), len(bigrams)

    def within(self, query: str, distance: int) -> np.ndarray:
        """Positions of all texts within this distance of the query, and of some others.

        The distance counts insertions, deletions, substitutions and swaps of neighbouring letters.
        """
        shared, n_bigrams = self.shared_with(query)
        return np.flatnonzero(shared >= n_bigrams - 3 * distance)  # a swap changes three

    def alike(self, query: str, ratio: float, partial_ratio: float) -> np.ndarray:
        """Positions of a superset of the texts that reach one of these ratios of rapidfuzz.

        ratio          of `fuzz.ratio` and `fuzz.token_sort_ratio`, 0 to 100.
        partial_ratio  of `fuzz.partial_ratio`, from 67 to 100.
        """
        shared, n_bigrams = self.shared_with(query)
        n, m = len(query), self.lengths
        # e insertions and deletions turn the query into a text, ratio = 1 - e / (n + m). A deletion
        # changes two bigrams, an insertion one: (3 e + n - m) / 2 together.
        changed = 1.5 * (1 - ratio / 100) * (n + m) + 0.5 * (n - m)
        is_near = shared >= n_bigrams - changed
        # The shorter one, of length k, is compared with a part of the other, of length s ≤ k. With
        # likeness p most bigrams change if the part is the shortest possible, s = p k / (2 - p),
        # and k - s letters are deleted. The two bigrams at the ends need not be in the other text.
        p, k = partial_ratio / 100, np.minimum(n, m)
        changed = 4 * (1 - p) / (2 - p) * k + 2
        n_shorter_bigrams = np.where(n <= m, n_bigrams, self._n_bigrams)
        return np.flatnonzero(is_near | (shared >= n_shorter_bigrams - changed))


def _bigrams(text: str) -> np.ndarray:
    """The bigrams of a text as numbers below LETTERS²: (n_letters - 1,) int64."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = codes.astype(np.int64) % LETTERS
    return letters[:-1] * LETTERS + letters[1:]
