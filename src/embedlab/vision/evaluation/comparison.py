"""Comparison of finished classifiers on the same test images.

In: a `ComparedRun` for each. Out: a `Comparison`: tables, and a summary in Markdown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from embedlab.formatting import counted, duration
from embedlab.progress import EpochRecord
from embedlab.vision.evaluation.metrics import Predictions, evaluate, mcnemar

SIGNIFICANT = 0.05
MAX_DISAGREEMENTS = 24  # images of one side of the figure
RUN_COLUMNS = (
    "run", "kind", "val_accuracy", "accuracy", "low", "high",
    "loss", "calibration_error", "minutes",
)  # fmt: skip
RANDOM_WEIGHTS = (
    "All of them began with random weights (`weights=none`): frozen features have learnt nothing "
    "from other images, so this shows that the code runs, not which way is better."
)
PAIR_COLUMNS = ("first", "second", "difference", "only_first_right", "only_second_right", "p_value")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run: its name, its kind (entry point), and its predictions for the test images.

    seconds        wall time of the fit.
    weights        the parameter `weights`: what the network started from.
    dataset        the parameter `dataset`: where its images are.
    images_digest  sha256 of these images, as `ImageDataset.digest`.
    history        a record of every epoch.
    best_epoch     the epoch that validation chose.
    """

    name: str
    entry_point: str
    val_accuracy: float
    seconds: float
    predictions: Predictions
    weights: str
    id: str
    dataset: str
    images_digest: str
    history: Sequence[EpochRecord]
    best_epoch: int


@dataclass(frozen=True)
class Comparison:
    """Runs in order of their test accuracy, the best first.

    table   one row per run: RUN_COLUMNS; low and high are the interval of the accuracy.
    recall  class by run: the fraction of the class's test images that the run gets right.
    pairs   a row for each other run: PAIR_COLUMNS, by McNemar's exact test against the best run.
            As the same test images have chosen the best run, p values are multiplied by the number
            of pairs of runs (Bonferroni).
    """

    runs: list[ComparedRun]
    table: pd.DataFrame
    recall: pd.DataFrame
    pairs: pd.DataFrame

    def to_markdown(self, data: str) -> str:
        """The result as Markdown, which says which differences are significant."""
        best, n_test = self.runs[0], len(self.runs[0].predictions.labels)
        is_level = self.pairs["difference"] == 0
        level = [best.name, *self.pairs["second"][is_level]]
        close = self.pairs[~is_level & (self.pairs["p_value"] >= SIGNIFICANT)].itertuples()
        leads = [f"{pair.second} is not significant (p = {pair.p_value:.2g})" for pair in close]
        heading = f"### {best.name} is the best of {len(self.runs)} on {data}"
        if len(level) > 1:
            heading = f"### {' and '.join(level)} are equally good on {data}"
        elif leads:
            heading = f"### {best.name} leads on {data}"
        if leads:
            heading += f"; the lead over {', over '.join(leads)}"
        n_pairs = math.comb(len(self.runs), 2)
        corrected = f" after multiplying by the {n_pairs} pairs of runs" if n_pairs > 1 else ""
        lines = [heading, ""]
        for row in self.table.itertuples():
            lines.append(
                f"- **{row.run}** ({row.kind}): {row.accuracy:.2%} of {n_test:,} test images right "
                f"(95% interval {row.low:.2%} to {row.high:.2%}), validation "
                f"{row.val_accuracy:.2%}, {duration(60 * row.minutes)} of computing."
            )
        lines.append("")
        for pair in self.pairs.itertuples():
            verdict = "significant" if pair.p_value < SIGNIFICANT else "not significant"
            gains = self.recall[pair.first] - self.recall[pair.second]
            gains = gains.sort_values(ascending=False)
            by_class = ""
            if gains.any():
                by_class = (
                    f" The class that gains most is {gains.index[0]} ({100 * gains.iloc[0]:+.1f} "
                    f"points), least {gains.index[-1]} ({100 * gains.iloc[-1]:+.1f} points)."
                )
            lines.append(
                f"- Against **{pair.second}**: {100 * pair.difference:+.2f} points, {verdict} "
                f"(McNemar's exact test, p = {pair.p_value:.2g}{corrected}): "
                f"{counted(pair.only_first_right, 'image')} only {pair.first} gets right, "
                f"{pair.only_second_right:,} only {pair.second}.{by_class}"
            )
        if all(run.weights == "none" for run in self.runs):
            lines += ["", RANDOM_WEIGHTS]
        lines += ["", "Test images were scored once per run, after validation chose the epoch."]
        return "\n".join(lines) + "\n"


def compare_runs(runs: list[ComparedRun], classes: tuple[str, ...]) -> Comparison:
    """Evaluate runs on the same test images, and compare the best with each of the others."""
    runs = sorted(runs, key=lambda run: -run.predictions.score.accuracy)
    best = runs[0]
    rows, recall, pairs = [], {}, []
    for run in runs:
        report = evaluate(run.predictions, classes)
        recall[run.name] = report.per_class["recall"].to_numpy()
        leading = run.name, run.entry_point, run.val_accuracy, report.accuracy, *report.interval
        rows.append((*leading, report.loss, report.calibration_error, run.seconds / 60))
        difference = best.predictions.score.accuracy - report.accuracy
        only_best, only_run, p_value = mcnemar(best.predictions, run.predictions)
        p_value = min(1.0, p_value * math.comb(len(runs), 2))
        pairs.append((best.name, run.name, difference, only_best, only_run, p_value))
    by_class = pd.DataFrame(recall, index=pd.Index(classes, name="class"))
    table = pd.DataFrame(rows, columns=RUN_COLUMNS)
    return Comparison(runs, table, by_class, pd.DataFrame(pairs[1:], columns=PAIR_COLUMNS))


def right_only_by(
    first: Predictions, second: Predictions, max_shown: int = MAX_DISAGREEMENTS
) -> Predictions:
    """The `second` predictions of images that only the `first` get right, most confident first."""
    positions = np.flatnonzero(first.is_right & ~second.is_right)
    order = np.argsort(-second.confidence[positions], kind="stable")[:max_shown]
    return second.take(positions[order])
