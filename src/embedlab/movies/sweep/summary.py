"""The answer of a comparison as Markdown: which optimizer, do recommendations change, and why."""

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from embedlab.formatting import FAR_GAP, cost_as_text, counted, escape_markdown, gap_as_text
from embedlab.movies.sweep.convergence import MIN_MOVIE_LIKES, N_SAMPLED
from embedlab.movies.sweep.results import OptimizerComparison

CONVERGED_GAP = 0.1
STUCK_GAP = 1000.0
MIN_FITS_FOR_CORRELATION = 6
CLEAR_CORRELATION = -0.5
WHY = (
    "The cost depends on the inner products v_i·v_j alone: a rotation of all vectors changes every "
    "number in them and no recommendation. The optimizer and its rate decide how near those "
    "products come to the counts in the given epochs."
)


def to_markdown(comparison: OptimizerComparison, data: str) -> str:
    """Summarise a comparison of fits of `data`, the name of a data set."""
    lines = [*_cost_lines(comparison, data), "", "### Do the recommendations change?", ""]
    if not comparison.best:
        lines.append("Every fit diverged: compare smaller learning rates (`learning_rates=`).")
    elif comparison.queries.k:
        # (n_fits,); a gap of nan, like the exact fit's here, is in no group.
        gaps = np.array([math.nan, *(comparison.gaps[fit] for fit in comparison.others)])
        lines += _overlap_lines(comparison, gaps)
        lines += [*_sampled_lines(comparison), *_correlation_lines(comparison, gaps), WHY]
        lines += _stuck_lines(comparison, np.flatnonzero(gaps > STUCK_GAP))
    else:
        lines.append("There is no other movie to recommend.")
    return "\n".join(lines) + "\n"


def _cost_lines(comparison: OptimizerComparison, data: str) -> Iterator[str]:
    """Lines on the costs: the exact one, the best of each optimizer, and what diverged."""
    options, exact = comparison.others[0].options, comparison.exact.result
    yield f"### Which optimizer? ({data}, dim {options.dim}, {counted(options.epochs, 'epoch')})"
    yield ""
    yield (
        f"The exact solver's cost is {cost_as_text(exact.cost)}, in {exact.seconds:,.1f} s "
        f"and {exact.length(comparison.exact.options)}."
    )
    if comparison.best:
        yield from ("Best of each optimizer, by final cost:", "")
        yield "| fit | cost | against the exact cost | seconds |"
        yield "| --- | ---: | ---: | ---: |"
    for fit in comparison.best:
        cost, gap = cost_as_text(fit.result.cost), gap_as_text(comparison.gaps[fit])
        yield f"| {comparison.names[fit]} | {cost} | {gap} it | {fit.result.seconds:,.1f} |"
    diverged = [fit for fit in comparison.fits if fit.result.has_diverged]
    if diverged:
        ends = (f"{comparison.names[fit]} at epoch {fit.result.diverged_at}" for fit in diverged)
        yield from ("", f"Diverged: {', '.join(ends)}.")


def _overlap_lines(comparison: OptimizerComparison, gaps: np.ndarray) -> Iterator[str]:
    """Lines on the overlap with the exact lists for the titles asked for, by gap, (n_fits,)."""
    k, overlap = comparison.queries.k, comparison.overlap[0]  # (n_fits,)
    titles = escape_markdown("; ".join(comparison.titles[query] for query in comparison.asked))
    yield from (f"Top {k} for {titles}, by inner product, against the exact solver's:", "")
    converged, far = f"{CONVERGED_GAP:.0%}", f"{FAR_GAP:.0%}"
    for group, words in (
        (gaps <= CONVERGED_GAP, f"at most {converged} above the exact cost"),
        ((gaps > CONVERGED_GAP) & (gaps <= FAR_GAP), f"{converged} to {far} above it"),
        (gaps > FAR_GAP, f"more than {far} above it"),
    ):
        if group.any():
            values = overlap[group] * k
            n = int(group.sum())
            spread = f" (from {values.min():.1f} to {values.max():.1f})" if n > 1 else ""
            yield (
                f"- **{counted(n, 'fit')} {words}** {'share' if n > 1 else 'shares'} "
                f"{values.mean():.1f} of {counted(k, 'movie')} with it{spread}."
            )
    yield ""


def _sampled_lines(comparison: OptimizerComparison) -> Iterator[str]:
    """A line on the fit that overlaps most over the movies drawn at random."""
    queries = comparison.queries
    if not (comparison.sampled_overlaps and queries.n_sampled):
        return
    last = {f: by_epoch[f.result.epochs] for f, by_epoch in comparison.sampled_overlaps.items()}
    best = max(last, key=lambda fit: last[fit].mean)
    shared, margin = queries.k * last[best].mean, queries.k * last[best].margin
    movies = f"all {counted(queries.n_sampled, 'movie')}"
    if queries.n_sampled == N_SAMPLED:
        movies = f"{N_SAMPLED} movies drawn at random from those"
    yield (
        f"Over {movies} with at least {MIN_MOVIE_LIKES} likes, {comparison.names[best]} shares "
        f"most: {shared:.1f} ± {margin:.1f} of {counted(queries.k, 'movie')}."
    )


def _correlation_lines(comparison: OptimizerComparison, gaps: np.ndarray) -> Iterator[str]:
    """A line on the correlation of gap, (n_fits,), and overlap, if there are enough fits."""
    is_finite = np.isfinite(gaps)
    overlap, gaps = comparison.overlap[0, is_finite], gaps[is_finite]
    if len(gaps) < MIN_FITS_FOR_CORRELATION or np.ptp(overlap) == 0:
        return
    # The fits share their start and their data, so a p-value would not be valid.
    of_columns = pd.DataFrame({"gap": gaps, "overlap": overlap}).corr("spearman")
    correlation = of_columns.loc["gap", "overlap"]
    falls = "falls" if correlation < CLEAR_CORRELATION else "does not clearly fall"
    yield (
        f"The overlap {falls} as the gap grows "
        f"(Spearman's rank correlation {correlation:+.2f} over {len(gaps)} fits)."
    )


def _stuck_lines(comparison: OptimizerComparison, stuck: np.ndarray) -> Iterator[str]:
    """Lines about the fits at the positions `stuck`, which have hardly left their start."""
    if len(stuck) < 2:
        return
    first, second = np.transpose([*combinations(stuck, 2)])
    among = comparison.overlap[first, second]
    seeds = np.array([fit.seed for fit in comparison.fits])
    has_same_start = seeds[first] == seeds[second]
    shares = {
        "with others of the same random start": among[has_same_start],
        "with others of another start": among[~has_same_start],
        "with the exact solver's": comparison.overlap[0, stuck],
    }
    means = (f"{v.mean():.0%} {words}" for words, v in shares.items() if v.size)
    yield ""
    yield (
        f"The {len(stuck)} fits that end at more than {STUCK_GAP:,.0f} times the exact cost "
        "have hardly left their start, which decides what they recommend: their lists share "
        f"{', '.join(means)}."
    )
