"""Finished classifiers side by side, on the same test images: what differs, and by how much.

In: a `Contender` for each. Out: tables, and the result in words.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from embedlab.vision.evaluation.metrics import Predictions, evaluate, mcnemar
from embedlab.wording import counted

SIGNIFICANT = 0.05
MAX_SHOWN = 24  # images of a disagreement


@dataclass(frozen=True)
class ComparedRun:
    """A finished run: its name, its kind (entry point), and what it says of the test images.

    seconds  wall time of computing it; None where the run does not say.
    """

    name: str
    kind: str
    val_accuracy: float
    seconds: float | None
    test: Predictions


def run_table(contenders: list[ComparedRun], classes: tuple[str, ...]) -> pd.DataFrame:
    """A row a run, best test accuracy first: run, kind, accuracies, interval, loss, time."""
    rows = []
    for contender in contenders:
        report = evaluate(contender.test, classes)
        rows.append(
            {
                "run": contender.name,
                "kind": contender.kind,
                "val_accuracy": contender.val_accuracy,
                "accuracy": report.accuracy,
                "low": report.interval[0],
                "high": report.interval[1],
                "loss": report.loss,
                "calibration_error": report.calibration_error,
                "minutes": None if contender.seconds is None else contender.seconds / 60,
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def recall_table(contenders: list[ComparedRun], classes: tuple[str, ...]) -> pd.DataFrame:
    """Class by run: the share of the class's test images that the run gets right."""
    columns = {}
    for contender in contenders:
        per_class = evaluate(contender.test, classes).per_class
        columns[contender.name] = per_class["recall"].to_numpy()
    return pd.DataFrame(columns, index=pd.Index(classes, name="class"))


def pair_table(contenders: list[ComparedRun]) -> pd.DataFrame:
    """The first contender against each other one: McNemar's exact test on the same images."""
    first, *others = contenders
    rows = []
    for other in others:
        test = mcnemar(first.test, other.test)
        rows.append(
            {
                "first": first.name,
                "second": other.name,
                "difference": float(first.test.is_right.mean() - other.test.is_right.mean()),
                "only_first_right": test.only_first,
                "only_second_right": test.only_second,
                "p_value": test.p_value,
            }
        )
    return pd.DataFrame(rows)


def only_right(right: Predictions, wrong: Predictions, most: int = MAX_SHOWN) -> Predictions:
    """What `wrong` says of images that `right` alone gets right, its most confident first."""
    places = np.flatnonzero(right.is_right & ~wrong.is_right)
    order = np.argsort(-wrong.confidence[places], kind="stable")[:most]
    return wrong.take(places[order])


def to_markdown(contenders: list[ComparedRun], classes: tuple[str, ...], data: str) -> str:
    """The result as Markdown, best first; it says which differences are significant."""
    runs = run_table(contenders, classes)
    by_name = {contender.name: contender for contender in contenders}
    ordered = [by_name[name] for name in runs["run"]]
    n = len(ordered[0].test.labels)
    pairs = pair_table(ordered)
    lead = runs["run"][0]
    close = [
        f"{pair.second} is not significant (p = {pair.p_value:.2g})"
        for pair in pairs.itertuples()
        if pair.p_value >= SIGNIFICANT
    ]
    if close:
        lines = [f"### {lead} leads on {data}; its lead over {', over '.join(close)}", ""]
    else:
        lines = [f"### {lead} is the best of {len(runs)} on {data}", ""]
    for row in runs.itertuples():
        minutes = "" if pd.isna(row.minutes) else f", {row.minutes:,.1f} min of computing"
        lines.append(
            f"- **{row.run}** ({row.kind}): {row.accuracy:.2%} of {n:,} test images right "
            f"(95 % interval {row.low:.2%} to {row.high:.2%}), validation {row.val_accuracy:.2%}"
            f"{minutes}."
        )
    lines.append("")
    recall = recall_table(ordered, classes)
    for pair in pairs.itertuples():
        verdict = "significant" if pair.p_value < SIGNIFICANT else "not significant"
        gains = (recall[pair.first] - recall[pair.second]).sort_values(ascending=False)
        lines.append(
            f"- Against **{pair.second}**: {100 * pair.difference:+.2f} points, {verdict} "
            f"(McNemar's exact test, p = {pair.p_value:.2g}): "
            f"{counted(pair.only_first_right, 'image')} only {pair.first} gets right, "
            f"{pair.only_second_right:,} only {pair.second}. The class that gains most is "
            f"{gains.index[0]} ({100 * gains.iloc[0]:+.1f} points), least {gains.index[-1]} "
            f"({100 * gains.iloc[-1]:+.1f} points)."
        )
    lines += ["", "Test images were scored once a run, after validation had chosen the epoch."]
    return "\n".join(lines) + "\n"
