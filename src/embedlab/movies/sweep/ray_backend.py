"""Concurrent fits as tasks of Ray: on processes of this machine, or on a cluster.

In: weighted likes, and the options and seed of every fit. Out: the result or error of every fit,
that of the first fit first, the others as they complete. The likes are put into Ray's object store
once. A task returns its fit and its epochs and does not use the tracking store, so a node needs
only this project's requirements: Ray ships the code.

Imports nothing heavy: entry points read `RayOptions` before any heavy import.
"""

import importlib.metadata
import importlib.util
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from embedlab.errors import EmbedlabError, OptionError, RayError, TaskFailedError
from embedlab.formatting import counted, first_line
from embedlab.movies.sweep.grid import Job
from embedlab.progress import EpochRecord, OnEpoch

if TYPE_CHECKING:
    from embedlab.movies.data.weighting import WeightedLikes
    from embedlab.movies.solvers.result import FitResult
    from embedlab.movies.sweep.convergence import ListsByEpoch, Queries

# A fit that is ready to run: calls back for every epoch, returns the result and its lists.
RunFit = Callable[[OnEpoch], "tuple[FitResult, ListsByEpoch]"]

LAUNCHERS = ("local", "ray")
SOURCES = Path(__file__).resolve().parents[3]
PACKAGES = [str(SOURCES / name) for name in ("embedlab", "embedlab_serving")]
RETRIES = 3  # of a fit whose process or node is lost
SECONDS_TO_CONNECT = 10.0
LIBRARIES = ("numpy", "scipy", "torch")
ADDRESS = re.compile(r"(ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class RayOptions:
    """The cluster, and what each task reserves. Raises OptionError for a value out of range.

    address       "" for a local Ray on this machine, `auto` for the cluster that this machine is a
                  node of, the head's `host:port`, or a Ray Client's `ray://host:port`.
    cpus_per_fit  cores of a node, and threads of the fit.
    gpus_per_fit  0 to compute on the CPU; with 0.5 two fits share a GPU.
    """

    address: str = ""
    cpus_per_fit: int = 1
    gpus_per_fit: float = 0.0

    def __post_init__(self) -> None:
        match = ADDRESS.fullmatch(self.address)
        if self.address not in ("", "auto") and not (match and 0 < int(match["port"]) < 65536):
            raise OptionError(
                "ray_address: expected nothing (a local Ray), auto, "
                f"host:6379 or ray://host:10001, got {self.address!r}"
            )
        if self.gpus_per_fit > 1 and self.gpus_per_fit % 1:
            raise OptionError(
                f"gpus_per_fit: expected a whole number, or less than 1 where fits share a GPU, "
                f"got {self.gpus_per_fit:g}"
            )

    @property
    def device(self) -> str:
        """The device of a task; this machine itself needs no GPU."""
        return "cuda" if self.gpus_per_fit else "cpu"


def resolve_launcher(launcher: str, options: RayOptions, device: str) -> RayOptions | None:
    """Ray's options; None for launcher=local. Raises OptionError for conflicts or without Ray."""
    if launcher == "local":
        return None
    if device not in ("auto", options.device):
        raise OptionError(
            f"device: expected auto or {options.device} with launcher=ray and "
            f"gpus_per_fit={options.gpus_per_fit:g}, got {device}: a fit computes on cuda if it "
            "reserves a GPU or a part of one"
        )
    if importlib.util.find_spec("ray") is None:
        raise OptionError(
            "launcher: ray needs the library Ray, which is not installed: "
            "pip install -r requirements-extra.txt, or use launcher=local"
        )
    return options


@dataclass(frozen=True)
class FinishedTask:
    """A finished task: result, epochs and lists of its fit, and the host and id of its node."""

    result: "FitResult"
    history: Sequence[EpochRecord]
    lists: "ListsByEpoch"
    node: str

    def replay(self, on_epoch: OnEpoch) -> "tuple[FitResult, ListsByEpoch]":
        """A `RunFit`: call back for the epochs of the task."""
        for record in self.history:
            on_epoch(record)
        return self.result, self.lists


@contextmanager
def ray_session(options: RayOptions, notify: Callable[[str], object]) -> Iterator[None]:
    """Connect to Ray for `fits_by_ray` inside the block; a local Ray starts and ends with it.

    Raises RayError if Ray cannot be reached or started, OptionError if a local Ray could never run
    a fit.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report every cluster to its developers
    if options.address:  # each attempt takes 40 s; a local Ray needs several while it starts
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray

    try:
        _init(options)
        notify(describe_capacity(ray.nodes(), options))
        yield
    finally:
        ray.shutdown()


def _init(options: RayOptions) -> None:
    """Start or join Ray, with SIGTERM handled as before. Raises RayError if that fails."""
    import ray

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    threads = dict.fromkeys(names, str(options.cpus_per_fit))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if match := ADDRESS.fullmatch(options.address):  # Ray itself tries for minutes
            address = match["host"].strip("[]"), int(match["port"])
            socket.create_connection(address, SECONDS_TO_CONNECT).close()
        ray.init(
            address=options.address or "local",
            runtime_env={"py_modules": PACKAGES, "env_vars": threads},
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            **({} if options.address else {"include_dashboard": False}),
        )
    except SystemExit:  # raised by Ray's own SIGTERM handler
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # Ray raises many kinds of errors, none of them its own
        reason = _reason(error)
        if not options.address:
            raise RayError(
                f"launcher: Ray cannot be started on this machine ({reason}): use launcher=local."
            ) from error
        raise RayError(
            f"ray_address: there is no Ray cluster at {options.address} that this machine can use "
            f"({reason}): check the address and, where the cluster asks for one, the token "
            "(RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH), or leave ray_address out for a "
            "local Ray."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def describe_capacity(nodes: Sequence[dict], options: RayOptions) -> str:
    """Describe how many fits run at once. Raises OptionError if a local Ray can run none."""
    reserved = {"CPU": options.cpus_per_fit, "GPU": options.gpus_per_fit}
    reserved = {name: amount for name, amount in reserved.items() if amount}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    n_nodes = counted(len(alive), "node")
    n_fits = sum(
        min(int(node.get(name, 0) / amount) for name, amount in reserved.items()) for node in alive
    )
    if n_fits:
        return f"Ray: {counted(n_fits, 'fit')} at once, on {n_nodes}"
    needed = " and ".join(f"{amount:g} {name}" for name, amount in reserved.items())
    if options.address:
        return f"Ray: of {n_nodes}, none has {needed} for a fit; waiting for one that has"
    capacity = " and ".join(f"{alive[0].get(name, 0):g} {name}" for name in reserved)
    raise OptionError(
        f"cpus_per_fit, gpus_per_fit: expected at most the {capacity} of this machine, got {needed}"
    )


def fits_by_ray(
    weighted: "WeightedLikes", jobs: Sequence[Job], queries: "Queries", options: RayOptions
) -> Iterator[tuple[Job, RunFit, str | None]]:
    """Yield each job when its task has ended: the first job first, the others as they complete.

    The second value replays the task's fit, or raises TaskFailedError; the third is its node, None
    if it failed.
    Ray retries a fit RETRIES times if its process or node is lost, but not one that raises.
    """
    import ray

    task = ray.remote(
        num_cpus=options.cpus_per_fit, num_gpus=options.gpus_per_fit, max_retries=RETRIES
    )(_fit)
    _ = weighted.off_diagonal_squares  # counted here, not again in every task
    data = ray.put(weighted), ray.put(queries)
    settings = options.device, options.cpus_per_fit, _versions()
    job_of = {task.remote(*data, job, *settings).future(): job for job in jobs}
    first = next(iter(job_of))
    for future in chain([first], as_completed(set(job_of) - {first})):
        job = job_of.pop(future)
        if error := future.exception():
            yield job, partial(_fail, _as_error(error)), None
        else:
            finished: FinishedTask = future.result()
            yield job, finished.replay, finished.node


def _fail(error: TaskFailedError, _on_epoch: OnEpoch) -> "tuple[FitResult, ListsByEpoch]":
    """A `RunFit` of a task that failed."""
    raise error


def _as_error(error: BaseException) -> TaskFailedError:
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    match error:
        case RayTaskError(cause=EmbedlabError() as cause):
            return TaskFailedError(str(cause))
        case RayTaskError(cause=cause):
            return TaskFailedError(f"{type(cause).__name__} on node {error.ip}: {_reason(cause)}")
        case OutOfMemoryError():
            return TaskFailedError("its node had not enough memory: give it fewer fits at once")
        case WorkerCrashedError():
            return TaskFailedError(f"its process died {RETRIES + 1} times")
        case _:
            return TaskFailedError(_reason(error))


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or first_line(error)).rstrip(".:")


def _fit(
    weighted: "WeightedLikes",
    queries: "Queries",
    job: Job,
    device: str,
    n_threads: int,
    versions: str,
) -> FinishedTask:
    """The task, which runs on a node."""
    if _versions() != versions:
        raise RayError(
            f"the node {socket.gethostname()} has {_versions()}, but this machine {versions}: "
            "install requirements.lock on every node"
        )
    import ray
    import torch

    from embedlab.movies.sweep.convergence import fit_with_snapshots

    torch.set_num_threads(n_threads)
    history: list[EpochRecord] = []
    result, lists = fit_with_snapshots(weighted, queries, job, device, history.append)
    node_id = ray.get_runtime_context().get_node_id()
    return FinishedTask(result, history, lists, f"{socket.gethostname()} {node_id[:8]}")


def _versions() -> str:
    """Names and versions of the libraries that a fit's result depends on."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
