"""Index of near texts: those that can be near a query, found without comparing it with all texts.

Near texts have most letters in common, in whatever order (the bag distance of I. Bartolini, P.
Ciaccia and M. Patella, SPIRE 2002, is at most the edit distance). If a text is near a part of the
query, or the query near a part of the text, they have many bigrams in common, too (the q-gram lemma
of E. Ukkonen, Theoretical Computer Science 92, 1992). No near text is missed; the candidates
include some that are not near, so an exact comparison has to follow.
"""

from collections.abc import Sequence

import numpy as np

# Letters are compared modulo this, which can only add candidates: a to z, digits and the space
# stay different.
LETTERS = 96
ROUNDING = 1e-6  # letters, by which a computed bound may be too high


class NearTextIndex:
    """An index of n texts, whose words are separated by single spaces; positions count from 0.

    Immutable, so threads may share an index.
    """

    def __init__(self, texts: Sequence[str]):
        n = len(texts)
        self.lengths = np.array([len(text) for text in texts], np.int64)  # (n,)
        letters, owners = _letters("".join(texts)), np.repeat(np.arange(n), self.lengths)
        counts = np.zeros(LETTERS * n, np.uint16)
        np.add.at(counts, letters * n + owners, np.uint16(1))
        self._letter_counts = counts.reshape(LETTERS, n)
        # Between two spaces, the bigrams of a text do not depend on the order of its words.
        owners = np.repeat(np.arange(n), self.lengths + 2)  # the text that each letter is in
        is_inside = owners[1:] == owners[:-1]
        bigrams = _bigrams("".join(f" {text} " for text in texts))
        pairs = np.sort(bigrams[is_inside] * n + owners[1:][is_inside])
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique takes ten times as long
        self._owners = pairs % n  # of each bigram in turn, the texts that have it
        self._starts = np.searchsorted(pairs, np.arange(LETTERS**2 + 1) * n)
        self._n_bigrams = np.bincount(self._owners, minlength=n)  # (n,), different ones

    def shared_letters(self, query: str) -> np.ndarray:
        """(n,) how many letters each text has in common with the query, in whatever order."""
        shared = np.zeros(len(self.lengths), np.uint16)
        letters, counts = np.unique(_letters(query), return_counts=True)
        for letter, count in zip(letters, counts.astype(np.uint16), strict=True):
            shared += np.minimum(self._letter_counts[letter], count)
        return shared

    def shared_bigrams(self, query: str) -> tuple[np.ndarray, int]:
        """(n,) how many of the query's different bigrams each text has; and how many there are."""
        bigrams = np.unique(_bigrams(f" {query} "))
        owners = [self._owners[self._starts[b] : self._starts[b + 1]] for b in bigrams]
        return np.bincount(np.concatenate(owners), minlength=len(self.lengths)), len(bigrams)

    def within(self, query: str, distance: int) -> np.ndarray:
        """Positions of all texts within this distance of the query, and of some others.

        The distance counts insertions, deletions, substitutions and swaps of neighbouring letters.
        """
        longer = np.maximum(len(query), self.lengths)
        return np.flatnonzero(self.shared_letters(query) >= longer - distance)

    def alike(self, query: str, ratio: float) -> np.ndarray:
        """Positions of a superset of the texts that reach this ratio, from 0 to 100.

        ratio  of rapidfuzz's `fuzz.ratio` or `fuzz.token_sort_ratio`.
        """
        # For texts of n and m letters, ratio = 200 · (longest common subsequence) / (n + m).
        needed = ratio / 200 * (len(query) + self.lengths)
        return np.flatnonzero(self.shared_letters(query) >= needed - ROUNDING)

    def partly_alike(self, query: str, ratio: float) -> np.ndarray:
        """Positions of a superset of the texts that reach this ratio, from 67 to 100.

        ratio  of rapidfuzz's `fuzz.partial_ratio`.
        """
        # The shorter text, of length k, is compared with parts of the other, of length s ≤ k. The
        # likeness is p = 2 c / (k + s) if c ≤ s letters are in common, so c ≥ p k / (2 - p).
        n, m, p = len(query), self.lengths, ratio / 100
        k = np.minimum(n, m)
        has_letters = self.shared_letters(query) >= p / (2 - p) * k - ROUNDING
        # Most bigrams change if s = c: the k - s other letters are deleted, each of which changes
        # two bigrams. The two bigrams at the ends need not be in the other text.
        shared, n_bigrams = self.shared_bigrams(query)
        changed = 4 * (1 - p) / (2 - p) * k + 2
        n_shorter_bigrams = np.where(n <= m, n_bigrams, self._n_bigrams)
        return np.flatnonzero(has_letters & (shared >= n_shorter_bigrams - changed))


def _letters(text: str) -> np.ndarray:
    """The letters of a text as numbers below LETTERS: (n_letters,) int64."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes.astype(np.int64) % LETTERS


def _bigrams(text: str) -> np.ndarray:
    """The bigrams of a text as numbers below LETTERS²: (n_letters - 1,) int64."""
    letters = _letters(text)
    return letters[:-1] * LETTERS + letters[1:]
