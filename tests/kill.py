"""Kill every entry point at a random moment, start it again, and look at what is left.

    python -m tests.kill --kills 100 --seed 0

One store and one cache serve all kills, so that damage adds up. A second, undisturbed pair gives
the expected result of each command. A kill sends a random signal to the process, to its whole group
or (under `mlflow run`) to the entry point alone. The moment is uniformly random in the command's
usual duration; for half of the kills, it is after the run has begun, because imports take half of
the duration. Before some kills, files of the cache are deleted, so that the kill hits the process
while it builds them. After each kill:

1. the killed run records why it stopped, if the signal can be handled;
2. the same command succeeds, with the result of the undisturbed pair: metrics, arrays, cache files;
3. no run is RUNNING afterwards, except that `clean_runs` has to close one that no process adopted;
4. checkpoints, and the matrix and model of the killed run, are complete or refused.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tests.conftest import empty_store
from tests.kill_workspace import (
    ARRAYS,
    BUILDING,
    CHECKPOINTS,
    ENTRY_POINT,
    EXPERIMENT,
    GROUP,
    PROCESS,
    PROJECT,
    SECONDS_TO_END,
    Command,
    Workspace,
    differences,
    digest,
    has_ended,
    send,
    slow_server,
    write_images,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
MOVIES = {"ratings": "sample", "dim": 8, "epochs": 200}
REGISTERED = {"register": "true", "model_name": "kill-movies"}
TRAINING = {"epochs": 3, "batch_size": 16, "augment": "crop", "lr": 0.01}


def commands(images: Path) -> list[Command]:
    """One or more commands for each entry point; those that others need come first."""
    small = {
        "dataset": f"folder:{images}",
        "weights": "none",
        "resolution": 32,
        "register": "true",
        "model_name": "kill-images",
    }
    grid = {"optimizers": "adam,sgd", "learning_rates": "adam:1,0.1/sgd:1e-4", "dim": 8}
    tuning = small | TRAINING
    evaluation = {"dims": "5,10", "resamples": 200}
    of_main = {"dim": 8, "epochs": 30, "train_limit": 100}
    undo = {"model_name": "kill-movies", "version": 1, "reason": "a test"}
    return [
        Command("fit_embedding", "fit_embedding", MOVIES | REGISTERED | {"reference": "true"}),
        Command("extract_features", "extract_features", small | {"epochs": 5}),
        Command("finetune", "finetune", tuning, resumes=True),
        Command("compare_transfer", "compare_transfer"),
        Command("report", "report"),
        Command("build_matrix", "build_matrix", {"ratings": "sample"}),
        Command(
            "build_matrix, downloading",
            "build_matrix",
            {"ratings": "ml-latest-small"},
            download=True,
        ),
        Command("build_matrix, first start", "build_matrix", {"ratings": "sample"}, first=True),
        Command(
            "compare_optimizers",
            "compare_optimizers",
            {"ratings": "sample", "epochs": 60, "titles": "Toy Story"} | grid,
            experiment=None,
        ),
        Command(
            "recommend",
            "recommend",
            {"title": "Toy Story", "model": "models:/kill-movies@champion"},
        ),
        Command("evaluate_embedding", "evaluate_embedding", {"ratings": "sample"} | evaluation),
        Command("promote", "promote", undo),
        Command("clean_runs", "clean_runs"),
        Command("mlflow run, fit_embedding", "fit_embedding", MOVIES | REGISTERED, by_mlflow=True),
        Command("mlflow run, finetune", "finetune", tuning, by_mlflow=True, resumes=True),
        Command("mlflow run, main", "main", of_main, by_mlflow=True, experiment="main"),
    ]


@dataclass
class Kill:
    """A kill: what was done, the states of the killed runs after it, and the faults found.

    moment    seconds after which the signal was sent.
    duration  seconds that the command, or the rest of it, takes.
    is_begun  whether both count from the start of the run instead of that of the process.
    """

    command: str
    signal: str
    target: str
    moment: float
    duration: float
    states: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    is_begun: bool = False

    def __str__(self) -> str:
        since = " of the run" if self.is_begun else ""
        when = f"{self.moment:.1f} of {self.duration:.1f} s{since}"
        states = ", ".join(self.states) or "no run yet"
        end = "; ".join(self.faults) or "survived"
        return f"{self.command}: {self.signal} to the {self.target} at {when}: {states}: {end}"


class Harness:
    """Two workspaces, and the result and duration of each command in the undisturbed one."""

    def __init__(self, folder: Path, server: str, chosen: Sequence[Command]):
        self.folder, self.server = folder, server
        self.undisturbed = Workspace(folder / "undisturbed", server)
        self.disturbed = Workspace(folder / "disturbed", server)
        self.durations, self.expected = {}, {}
        for workspace in (self.undisturbed, self.disturbed):
            empty_store(workspace.folder / "mlflow.db")
        for command in chosen:
            experiment = command.experiment or "alone"
            started = time.monotonic()
            if fault := self.undisturbed.run(command, experiment):
                raise RuntimeError(f"{command.name}, undisturbed: {fault}")
            self.durations[command.name] = time.monotonic() - started
            self.expected[command.name] = self.undisturbed.result(command, experiment)
            is_needed = command.name in ("fit_embedding", "extract_features", "finetune")
            if is_needed and (fault := self.disturbed.run(command, experiment)):
                raise RuntimeError(f"{command.name}, undisturbed: {fault}")
        self.cached = self.undisturbed.cached()

    def kill(self, command: Command, number: int, rng: random.Random) -> Kill | None:
        """Start the command, kill it, start it again. Returns None if it ended before the kill."""
        workspace = self.disturbed
        if command.first:
            workspace = Workspace(self.folder / f"first-{number}", self.server)
        experiment = command.experiment or f"alone-{number}"
        if rng.random() < 0.5:
            workspace.take_away(rng)
        before = {run.info.run_id for run in workspace.runs(experiment)}
        chosen = rng.choice(SIGNALS)
        targets = (PROCESS, GROUP, ENTRY_POINT) if command.by_mlflow else (PROCESS, GROUP)
        target = rng.choice(targets)

        is_begun, started = rng.random() < 0.5, time.monotonic()
        process = workspace.start(command, experiment)
        if is_begun:
            workspace.wait_for_run(process, experiment, before)
        duration = max(0.0, self.durations[command.name] - (time.monotonic() - started))
        moment = rng.uniform(0, duration)
        time.sleep(moment)
        if process.poll() is not None:
            return None
        send(process.pid, chosen, target)
        kill = Kill(command.name, chosen.name, target, moment, duration, is_begun=is_begun)
        if not has_ended(process):
            kill.faults.append(f"still there after {SECONDS_TO_END} s")
        killed = [run for run in workspace.runs(experiment) if run.info.run_id not in before]
        kill.states = [state(run) for run in killed]
        self._check_reasons(kill, chosen, killed)
        self._check_half_written(kill, workspace, command, killed)

        resume, started = self._resume(workspace, command, killed, rng), time.monotonic()
        if fault := workspace.run(command, experiment, **resume):
            kill.faults.append(f"again: {fault}")
        elif not resume:  # the duration depends on other work of the machine
            self.durations[command.name] = time.monotonic() - started
        self._check_again(kill, workspace, command, experiment)
        if command.first:
            shutil.rmtree(workspace.folder)
        return kill

    def _check_reasons(self, kill: Kill, chosen: signal.Signals, killed: list[Run]) -> None:
        for run in killed:
            was_taken_up = "pid" in run.data.tags
            if chosen != signal.SIGKILL and was_taken_up and "stop_reason" not in run.data.tags:
                kill.faults.append(f"{state(run)} without a reason")

    def _resume(
        self, workspace: Workspace, command: Command, killed: list[Run], rng: random.Random
    ) -> dict[str, object]:
        for run in killed:
            folder = workspace.cache / CHECKPOINTS / run.info.run_id
            if command.resumes and (folder / "last.pt").exists() and rng.random() < 0.5:
                return {"resume": run.info.run_id}
        return {}

    def _check_half_written(
        self, kill: Kill, workspace: Workspace, command: Command, killed: list[Run]
    ) -> None:
        """Check that everything that can be read from the killed runs is whole."""
        import torch

        from embedlab.errors import EmbedlabError
        from embedlab.movies.data.likes import load_likes
        from embedlab.workflows.movies.recommend import load_model

        for path in (workspace.cache / CHECKPOINTS).glob("*/last.pt"):
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                kill.faults.append(f"{path} cannot be read: {error}")
        mlflow.set_tracking_uri(workspace.uri)
        for run in killed:
            expected = self.expected[command.name]
            for uri, read in (("matrix", load_likes), ("model", load_model)):
                try:
                    folder = Path(
                        mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/{uri}")
                    )
                    read(folder if uri == "matrix" else str(folder))
                except (EmbedlabError, MlflowException, OSError):
                    continue
                digests = {digest(path) for path in folder.rglob("*") if path.suffix in ARRAYS}
                if not digests <= set(expected.values()):
                    kill.faults.append(f"the {uri} of {state(run)} is read as whole and is not")

    def _check_again(
        self, kill: Kill, workspace: Workspace, command: Command, experiment: str
    ) -> None:
        expected = self.expected[command.name]
        if wrong := differences(workspace.result(command, experiment), expected):
            kill.faults.append(f"another result: {wrong}")
        cached = workspace.cached()
        if wrong := differences(cached, {n: d for n, d in self.cached.items() if n in cached}):
            kill.faults.append(f"another cache: {wrong}")
        running = workspace.runs(experiment, "attributes.status = 'RUNNING'")
        kill.faults += [
            f"{state(run)} after the next start" for run in running if "pid" in run.data.tags
        ]
        if running:
            kill.states.append("clean_runs needed")
            if fault := workspace.run(Command("clean_runs", "clean_runs"), experiment, hours=0):
                kill.faults.append(f"clean_runs: {fault}")
            running = workspace.runs(experiment, "attributes.status = 'RUNNING'")
            kill.faults += [f"{state(run)} after clean_runs" for run in running]
        for name in ("kill-movies", "kill-images"):
            if workspace.client.search_registered_models(f"name = '{name}'"):
                try:
                    mlflow.pyfunc.load_model(f"models:/{name}@champion")
                except Exception as error:
                    kill.faults.append(f"the champion of {name} cannot be loaded: {error}")

    def clean_up(self) -> str:
        """Run `clean_runs` two hours later; return its fault or the files that it left, or ""."""
        long_ago = time.time() - 7200
        for path in (self.disturbed.cache).rglob("*"):
            os.utime(path, (long_ago, long_ago))
        fault = self.disturbed.run(Command("clean_runs", "clean_runs"), EXPERIMENT)
        left = [str(path) for path in self.disturbed.cache.rglob(f"{BUILDING}*")]
        return fault or ", ".join(left)


def state(run: Run) -> str:
    reason = run.data.tags.get("stop_reason", "no word")
    return f"{run.info.status} ({reason})"


# -- the table ------------------------------------------------------------------------------------


def as_table(kills: Sequence[Kill]) -> str:
    """Kills survived by command and signal, then by target; and the states of the killed runs."""
    names = [signum.name for signum in SIGNALS]
    lines = [f"| killed | {' | '.join(names)} | survived |", "| --- " * 5 + "|"]
    by_command = dict.fromkeys(kill.command for kill in kills)
    for command in (*by_command, "all"):
        of_it = [kill for kill in kills if command in (kill.command, "all")]
        cells = [survived([kill for kill in of_it if kill.signal == name]) for name in names]
        lines.append(f"| {command} | {' | '.join(cells)} | {survived(of_it)} |")
    lines += ["", f"| sent to | {' | '.join(names)} |", "| --- " * 4 + "|"]
    for target in (PROCESS, GROUP, ENTRY_POINT):
        of_it = [kill for kill in kills if kill.target == target]
        cells = [survived([kill for kill in of_it if kill.signal == name]) for name in names]
        lines.append(f"| {target} | {' | '.join(cells)} |")
    lines += ["", f"| state of the killed run | {' | '.join(names)} |", "| --- " * 4 + "|"]
    counts = Counter(
        (state, kill.signal) for kill in kills for state in (kill.states or ["no run yet"])
    )
    for state_ in sorted({state for state, _ in counts}):
        lines.append(f"| {state_} | {' | '.join(str(counts[state_, n]) for n in names)} |")
    return "\n".join(lines)


def survived(kills: Sequence[Kill]) -> str:
    return f"{sum(not kill.faults for kill in kills)} of {len(kills)}" if kills else "–"


def run_kills(
    folder: Path, n_kills: int, seed: int, names: Sequence[str] = ()
) -> tuple[list[Kill], str]:
    """Kill the commands in turn, `n_kills` times; return the kills and `Harness.clean_up`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else children would ignore it, too
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with slow_server(folder) as server:
        every = commands(write_images(folder / "pictures"))
        chosen = [command for command in every if not names or command.name in names]
        harness = Harness(folder, server, chosen)
        kills: list[Kill] = []
        number = 0
        while len(kills) < n_kills:
            command = chosen[number % len(chosen)]
            kill = harness.kill(command, number, random.Random(f"{seed}-{number}"))
            number += 1
            if kill is not None:
                kills.append(kill)
                print(f"{len(kills)}. {kill}", flush=True)
        return kills, harness.clean_up()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of commands, as in the table")
    args = parser.parse_args()
    sys.path.insert(0, str(PROJECT / "src"))
    with TemporaryDirectory() as folder:
        kills, left = run_kills(Path(folder), args.kills, args.seed, args.only)
    print(as_table(kills))
    if left:
        print(f"clean_runs left behind: {left}")
    sys.exit(1 if left or any(kill.faults for kill in kills) else 0)


if __name__ == "__main__":
    main()
