"""What users type and see, as one JSON object: it changes only on purpose, and in CHANGELOG.md.

In: MLproject, the parsers, and a small run of every entry point on the built-in samples. Out: the
names of entry points, parameters (type and default), choices, metrics, parameters and tags of a
run, artifacts, logged and registered models, environment variables. `python tests/contract.py`
writes it to `contract.json`.
"""

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
from conftest import PROJECT, fresh_store
from mlflow.entities import Run
from mlflow.projects import load_project

FILE = Path(__file__).with_name("contract.json")
VARIABLE = re.compile(r"\bEMBEDLAB_[A-Z_]+\b")
RUN_ID = re.compile(r"(?<![0-9a-z])[0-9a-f]{8}(?:[0-9a-f]{24})?(?![0-9a-z])")
# Metrics of candidates whose libraries are not installed everywhere.
OPTIONAL = re.compile(r"(implicit_\w+|item2vec)/")

SMALL_FIT = {"ratings": "sample", "dim": 5, "epochs": 3}
SMALL_IMAGES = {"dataset": "sample", "weights": "none", "resolution": 32, "train_limit": 100}
SMALL_IMAGES |= {"val_limit": 60, "test_limit": 60}
Runs = Sequence[tuple[str, Mapping[str, object]]]
# Every entry point but `main`, which runs others; {name} is the run id of an earlier one.
RUNS: Runs = (
    ("build_matrix", {"ratings": "sample"}),
    ("fit_embedding", {**SMALL_FIT, "reference": True, "register": True}),
    ("recommend", {"title": "Toy Story"}),
    ("compare_optimizers", {**SMALL_FIT, "titles": "Toy Story", "learning_rates": "1"}),
    ("evaluate_embedding", {"ratings": "sample", "dims": "5", "resamples": 100}),
    ("extract_features", {**SMALL_IMAGES, "epochs": 2}),
    ("finetune", {**SMALL_IMAGES, "epochs": 2, "register": True}),
    ("compare_transfer", {"runs": "{extract_features},{finetune}"}),
    ("report", {"runs": "latest"}),
    ("promote", {"version": 1, "reason": "to see it"}),
    ("clean_runs", {"dry_run": True}),
)


def entry_points() -> dict[str, object]:
    """Parameters by entry point: as MLproject declares them, with the choices of `--help`."""
    by_name = {}
    for name, entry_point in load_project(str(PROJECT))._entry_points.items():
        parser = importlib.import_module(f"entrypoints.{name}").build_parser()
        by_name[name] = {
            parameter.name: {
                "type": parameter.type,
                "default": parameter.default,
                "help": _shown(parser.parameters[parameter.name]),
            }
            for parameter in entry_point.parameters.values()
        }
    return by_name


def _shown(action: argparse.Action) -> str:
    """Flag and metavar, without the prose."""
    return f"{action.option_strings[0]} {action.metavar}"


def environment_variables() -> list[str]:
    """All that the code reads or the documents name."""
    files = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("src/**/*.py")]
    return sorted({name for file in files for name in VARIABLE.findall(file.read_text("utf-8"))})


def make_runs(runs: Runs = RUNS) -> None:
    """Run these entry points in this process, in MLflow's current store."""
    ids: dict[str, str] = {}
    for name, parameters in runs:
        texts = {key: str(value).format(**ids) for key, value in parameters.items()}
        flags = [f"--{key.replace('_', '-')}={text}" for key, text in texts.items()]
        importlib.import_module(f"entrypoints.{name}").main(flags)
        ids[name] = _newest(mlflow.MlflowClient(), name)[0].info.run_id


def read_runs(client: mlflow.MlflowClient) -> dict[str, object]:
    """What the runs of RUNS and their children hold, followed by what is registered."""
    by_name: dict[str, object] = {}
    for name, _ in RUNS:
        run, *children = _newest(client, name)
        by_name[name] = _contents(client, run)
        if children:
            by_name[f"{name}, children"] = _contents(client, *children)
    for model in client.search_registered_models():
        versions = client.search_model_versions(f"name = '{model.name}'")
        tags = sorted({_plain(tag) for version in versions for tag in version.tags})
        by_name[f"registered {model.name}"] = {"aliases": sorted(model.aliases), "tags": tags}
    return by_name


def _newest(client: mlflow.MlflowClient, entry_point: str) -> list[Run]:
    """The newest run of an entry point, followed by its children."""
    everything = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(everything, f"tags.entry_point = '{entry_point}'")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return [parents[0], *(run for run in runs if run not in parents)]


def _contents(client: mlflow.MlflowClient, *runs: Run) -> dict[str, object]:
    by_kind: dict[str, set[str]] = {}
    for run in runs:
        inputs = [item.dataset.name for item in run.inputs.dataset_inputs]
        models = [
            client.get_logged_model(model.model_id).name for model in run.outputs.model_outputs
        ]
        for kind, names in {
            "metrics": [name for name in run.data.metrics if not OPTIONAL.match(name)],
            "parameters": run.data.params,
            "tags": run.data.tags,
            "artifacts": _artifacts(client, run.info.run_id),
            "inputs": inputs,
            "models": models,
        }.items():
            by_kind.setdefault(kind, set()).update(map(_plain, names))
    foreign = ("system/", "mlflow.git", "mlflow.source", "mlflow.user")  # vary by machine
    return {
        kind: sorted(name for name in names if not name.startswith(foreign))
        for kind, names in by_kind.items()
    }


def _artifacts(client: mlflow.MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    paths = []
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir and item.path not in ("images", "table_images"):  # whose files MLflow names
            paths += _artifacts(client, run_id, item.path)
        else:
            paths.append(item.path)
    return paths


def _plain(name: str) -> str:
    return RUN_ID.sub("<id>", name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, fresh_store(Path(folder)) as store:
        os.environ["EMBEDLAB_CACHE"] = f"{folder}/cache"
        make_runs()
        found = {"environment": environment_variables(), "entry_points": entry_points()}
        text = json.dumps(found | {"runs": read_runs(store)}, indent=1, sort_keys=True)
    FILE.write_text(text + "\n", encoding="utf-8")
    print(f"{FILE.relative_to(PROJECT)}: {len(text.splitlines()):,} lines", file=sys.stderr)
