"""A workspace of `tests.kill`: a store and a cache, the commands that work on them, their
processes, and the files that they download and decode."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import psutil
from mlflow.entities import Run

from tests.conftest import PROJECT

PROCESS, GROUP, ENTRY_POINT = "process", "group", "entry point"
EXPERIMENT = "kill"
SECONDS_TO_END = 600  # of the longest, `main`, beside other work
NOT_COMPARED = ("time/", "memory/", "system/", "stale/")  # metrics that no two runs share
ARRAYS = (".npy", ".npz", ".csv", ".safetensors")
BUILDING, CHECKPOINTS = ".building-", "checkpoints"
SHARE_TAKEN_AWAY = 0.5  # of the cache's files
DOWNLOADING = "from tests.kill_workspace import download_and_build; download_and_build()"


@dataclass(frozen=True)
class Command:
    """An entry point with parameters, and how it is started.

    by_mlflow   by `mlflow run`, else by `python -m`.
    experiment  None for a new one at every kill, so that no finished run is reused.
    first       on a store of its own, which does not exist yet.
    download    with a download of ml-latest-small, here the sample, from a local server.
    resumes     half of the time, from the checkpoint of the killed run.
    """

    name: str
    entry_point: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    by_mlflow: bool = False
    experiment: str | None = EXPERIMENT
    first: bool = False
    download: bool = False
    resumes: bool = False


class Workspace:
    """A tracking store and a cache in a folder, and how to start a command there."""

    def __init__(self, folder: Path, server: str):
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.cache = folder / "cache"
        (folder / "temporary").mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if "MLFLOW_" not in name}
        python_folder = str(Path(sys.executable).parent)
        self.environment = kept | {
            "PATH": os.pathsep.join([python_folder, kept["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "src")]),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": self.uri,
            "EMBEDLAB_CACHE": str(self.cache),
            "TMPDIR": str(folder / "temporary"),
            "OMP_NUM_THREADS": "1",  # sums depend on their order
            "KILL_SERVER": server,
        }

    def start(self, command: Command, experiment: str, **more: object) -> subprocess.Popen:
        """Start the command in a process group of its own; its output goes to `last.txt`."""
        parameters = {**command.parameters, **more}
        if command.by_mlflow:
            options = ["--env-manager", "local", "--experiment-name", experiment]
            flags = [word for k, v in parameters.items() for word in ("-P", f"{k}={v}")]
            words = ["mlflow", "run", str(PROJECT), "-e", command.entry_point, *options, *flags]
        else:
            module = ["-m", f"entrypoints.{command.entry_point}"]
            started = ["-c", DOWNLOADING] if command.download else module
            flags = [f"--{k.replace('_', '-')}={v}" for k, v in parameters.items()]
            words = [sys.executable, *started, *flags]
        with open(self.folder / "last.txt", "wb") as printed:
            return subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment | {"MLFLOW_EXPERIMENT_NAME": experiment},
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, command: Command, experiment: str, **more: object) -> str:
        """Run the command to its end. Returns "" if it succeeded, else what went wrong."""
        process = self.start(command, experiment, **more)
        try:
            code = process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"not done after {SECONDS_TO_END} s"
        return "" if code == 0 else f"exit code {code}: {self.last_line()}"

    def wait_for_run(self, process: subprocess.Popen, experiment: str, before: Set[str]) -> None:
        """Wait until the process has begun a run that is not one of `before`, or has ended."""
        while process.poll() is None:
            new = [run for run in self.runs(experiment) if run.info.run_id not in before]
            if any("pid" in run.data.tags for run in new):
                return
            time.sleep(0.2)

    def last_line(self) -> str:
        lines = (self.folder / "last.txt").read_text(encoding="utf-8", errors="replace")
        return (lines.strip().splitlines() or [""])[-1]

    @property
    def client(self) -> mlflow.MlflowClient:
        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient()

    def runs(self, experiment: str, search: str = "") -> list[Run]:
        """The runs of the experiment, oldest first; [] if the store or it does not exist yet."""
        if not Path(self.uri.removeprefix("sqlite:///")).exists():
            return []
        named = self.client.get_experiment_by_name(experiment)
        if named is None:
            return []
        ids = [named.experiment_id]
        return list(self.client.search_runs(ids, search, order_by=["start_time ASC"]))

    def result(self, command: Command, experiment: str) -> dict[str, object]:
        """The metrics and array digests of the command's newest run and of the runs under it."""
        search = f"tags.entry_point = '{command.entry_point}' AND attributes.status = 'FINISHED'"
        tops = [
            run
            for run in self.runs(experiment, search)
            if "mlflow.parentRunId" not in run.data.tags
        ]
        return self._result_of(tops[-1], experiment) if tops else {}

    def _result_of(self, top: Run, experiment: str) -> dict[str, object]:
        result = {}
        sweep = f"sweep_{top.info.run_id[:8]}"
        for run in self.runs(experiment):
            tags = run.data.tags
            is_below = tags.get("mlflow.parentRunId") == top.info.run_id or sweep in tags
            if run.info.run_id == top.info.run_id or (is_below and run.info.status == "FINISHED"):
                key = f"{tags['entry_point']} {run.data.params.get('lr', '')}"
                for name, value in run.data.metrics.items():
                    if not name.startswith(NOT_COMPARED):
                        result[f"{key}: {name}"] = value
                folder = Path(run.info.artifact_uri)
                for path in folder.rglob("*"):
                    if path.suffix in ARRAYS:
                        result[f"{key}: {path.relative_to(folder)}"] = digest(path)
        return result

    def cached(self) -> dict[str, str]:
        """Digest by name of the cache's finished files, without their times of computation."""
        digests = {}
        for path in sorted(self.cache.rglob("*")):
            name = path.relative_to(self.cache).as_posix()
            if path.is_file() and BUILDING not in name and not name.startswith(CHECKPOINTS):
                if path.name == "about.json":
                    about = json.loads(path.read_text(encoding="utf-8"))
                    digests[name] = str({k: v for k, v in about.items() if k != "seconds"})
                else:
                    digests[name] = digest(path)
        return digests

    def take_away(self, rng: random.Random) -> None:
        """Delete a random half of the cache's files."""
        for name in self.cached():
            if rng.random() < SHARE_TAKEN_AWAY:
                (self.cache / name).unlink()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(result: Mapping, expected: Mapping) -> str:
    """What differs, in a few words; "" if nothing does."""
    odd = [name for name in expected if result.get(name) != expected[name]]
    new = [name for name in result if name not in expected]
    return ", ".join([f"{n}: {result.get(n)}, not {expected[n]}" for n in odd[:2]] + new[:2])


# -- processes ----------------------------------------------------------------------------------


def send(pid: int, signum: signal.Signals, target: str) -> None:
    if target == GROUP:
        os.killpg(pid, signum)
        return
    if target == ENTRY_POINT:  # or the process, if it has not started one yet
        below = [p for p in in_group(pid) if any("entrypoints." in w for w in p.cmdline())]
        pid = max(below, key=psutil.Process.create_time).pid if below else pid
    os.kill(pid, signum)


def has_ended(process: subprocess.Popen) -> bool:
    """Whether the whole group ends in time: an entry point may outlive a killed `mlflow run`."""
    deadline = time.monotonic() + SECONDS_TO_END
    while process.poll() is None or in_group(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            return False
        time.sleep(0.1)
    return True


def in_group(pid: int) -> list[psutil.Process]:
    """The processes of the group that have not ended."""
    processes = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return processes


# -- what is downloaded, and what is decoded ----------------------------------------------------


@contextmanager
def slow_server(folder: Path) -> Iterator[str]:
    """Serve the sample as a zip, over about a second. Yields its address and the zip's sha256."""
    from embedlab.datasets.sample import sample_files

    archive = folder / "ml-latest-small.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in sample_files().items():
            packed.writestr(zipfile.ZipInfo(f"ml-latest-small/{name}"), data)
    content = archive.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 1 << 12):
                self.wfile.write(content[start : start + (1 << 12)])
                time.sleep(4096 / len(content))

        def handle(self):
            with suppress(ConnectionError):  # the client was killed
                super().handle()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sha256 = hashlib.sha256(content).hexdigest()
        yield f"http://127.0.0.1:{server.server_port}/ml-latest-small.zip {sha256}"
        server.shutdown()


def download_and_build() -> None:
    """Run build_matrix with the sample as ml-latest-small, to be downloaded from KILL_SERVER."""
    from embedlab.cli.parser import run_main
    from embedlab.datasets import movielens
    from embedlab.datasets.sample import sample_files
    from entrypoints import build_matrix

    url, sha256 = os.environ["KILL_SERVER"].split()
    files = {name: hashlib.sha256(data).hexdigest() for name, data in sample_files().items()}
    release = movielens.Release(url, sha256, files)
    movielens.RELEASES = {"ml-latest-small": release}
    run_main(build_matrix.main)


def write_images(folder: Path) -> Path:
    """Write three of scikit-learn's digits as 120 PNG files, one folder per class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in (0, 1, 7):
        place = folder / str(label)
        place.mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:40]):
            Image.fromarray((image * 15).astype("uint8")).save(place / f"{number}.png")
    return folder
