"""Test accuracy of frozen features and of fine-tuning, with defaults for all but the data.

    python -m benchmarks.accuracy folder:/photos cifar10 sample --weights imagenet --seeds 0,1,2

Prints one row per data set: mean and range over the seeds, and the mean fine-tuning time. A seed
determines the split, the image order and the augmentation. `--finetune lr=0.01 epochs=4` changes
fine-tuning only, `--both train_limit=1000` changes both entry points. The runs are kept in the
MLflow store that `--store` names.
"""

import argparse
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import mlflow
import numpy as np

from benchmarks.timing import machine, print_table
from entrypoints import extract_features, finetune

Metrics = dict[str, float]
HEADINGS = (
    "data", "train", "test", "frozen, val", "frozen, test",
    "fine-tuned, val", "fine-tuned, test", "best epochs", "minutes",
)  # fmt: skip
METRICS = ("best/val_accuracy", "test/accuracy", "best/epoch", "time/fit_seconds")


@dataclass(frozen=True)
class Row:
    """The metrics of one data set: a run of each entry point per seed."""

    dataset: str
    frozen: list[Metrics]
    finetuned: list[Metrics]


def run(entry_point: ModuleType, parameters: Mapping[str, object]) -> Metrics:
    """Run an entry point; return its METRICS and its numbers of training and test images."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    with redirect_stdout(io.StringIO()):
        entry_point.main(flags)
    ended = mlflow.last_active_run()
    assert ended is not None, "the entry point has just made one"
    metrics = ended.data.metrics
    counts = {name: float(ended.data.params[name]) for name in ("data/train", "data/test")}
    return counts | {name: metrics[name] for name in METRICS}


def measure(dataset: str, seeds: Sequence[int], both: Mapping, changes: Mapping) -> Row:
    row = Row(dataset, [], [])
    for seed in seeds:
        params = {**both, "dataset": dataset, "split_seed": seed, "seed": seed}
        row.frozen.append(run(extract_features, params))
        row.finetuned.append(run(finetune, {**params, **changes}))
        print(dataset, seed, row.frozen[-1], row.finetuned[-1], flush=True)
    return row


def spread(runs: Sequence[Metrics], metric: str) -> str:
    """Mean and range over the seeds: `0.941 (0.930 to 0.952)`."""
    values = [metrics[metric] for metrics in runs]
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def cells(row: Row) -> list[str]:
    minutes = np.mean([metrics["time/fit_seconds"] for metrics in row.finetuned]) / 60
    return [
        Path(row.dataset.removeprefix("folder:")).name,
        *(f"{row.finetuned[0][f'data/{part}']:,.0f}" for part in ("train", "test")),
        *(spread(of, name) for of in (row.frozen, row.finetuned) for name in METRICS[:2]),
        ", ".join(f"{metrics['best/epoch']:.0f}" for metrics in row.finetuned),
        f"{minutes:.1f}",
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the two accuracy benchmarks share."""
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--both", nargs="*", default=[], help="name=value for both entry points")
    parser.add_argument("--finetune", nargs="*", default=[], help="name=value for finetune")


def compare(datasets: Sequence[str], args: argparse.Namespace, store: str, name: str) -> None:
    """Measure the data sets and print a table; the runs are kept in `store`, experiment `name`."""
    mlflow.set_tracking_uri(store)
    os.environ["MLFLOW_EXPERIMENT_NAME"] = name
    seeds = [int(seed) for seed in args.seeds.split(",")]
    both = {"weights": args.weights, **pairs(args.both)}
    rows = [measure(dataset, seeds, both, pairs(args.finetune)) for dataset in datasets]
    title = f"mean (range) over the seeds; {machine()}"
    print_table(title, HEADINGS, map(cells, rows), width=180)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """`lr=0.01` -> {"lr": "0.01"}"""
    return dict(text.split("=", 1) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", help="data sets, as the entry points name them")
    add_options(parser)
    parser.add_argument("--store", default=f"sqlite:///{Path('accuracy.db').absolute()}")
    args = parser.parse_args()
    compare(args.datasets, args, args.store, "accuracy")


if __name__ == "__main__":
    main()
