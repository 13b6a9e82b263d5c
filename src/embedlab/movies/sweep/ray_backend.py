"""Many fits at once, as tasks of Ray: on processes of this machine, or on a cluster.

In: weighted likes, and the options and seed of every fit. Out: what became of each, as it ends.
The likes are put into Ray's object store once; a task gives back its fit and its epochs, and knows
of no tracking store, so a node needs this project's requirements and nothing else: the code goes
there with the tasks.

Light on purpose: entry points read `RayOptions` before any heavy import.
"""

import importlib.metadata
import importlib.util
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedlab.errors import EmbedlabError, OptionError, RayError
from embedlab.movies.solvers.options import FitOptions, FitResult
from embedlab.progress import OnStep, Step
from embedlab.wording import counted

if TYPE_CHECKING:
    from embedlab.movies.data.weighting import Weighted

LAUNCHERS = ("local", "ray")
SOURCES = Path(__file__).resolve().parents[3]
PACKAGES = [str(SOURCES / name) for name in ("embedlab", "embedlab_serving")]
RETRIES = 3  # of a fit whose process or node was lost
SECONDS_TO_CONNECT = 10.0
# What a fit's result depends on, apart from this project's code.
LIBRARIES = ("numpy", "scipy", "torch")
ADDRESS = re.compile(r"(ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")

Jobs = Mapping[int, tuple[FitOptions, int]]  # number -> options and seed


@dataclass(frozen=True)
class RayOptions:
    """Where the tasks run and what each reserves. Raises OptionError where a value is no use.

    address       "" for a Ray of our own on this machine, `auto` for the cluster that this machine
                  is a node of, its head's `host:port`, or a Ray Client's `ray://host:port`.
    cpus_per_fit  cores of a node, and threads of the fit.
    gpus_per_fit  0 to compute on the CPU; two fits share a GPU with 0.5.
    """

    address: str = ""
    cpus_per_fit: int = 1
    gpus_per_fit: float = 0.0

    def __post_init__(self):
        found = ADDRESS.fullmatch(self.address)
        if self.address not in ("", "auto") and not (found and 0 < int(found["port"]) < 65536):
            raise OptionError(
                "ray_address: expected nothing (a Ray of its own on this machine), auto, "
                f"host:6379 or ray://host:10001, got {self.address!r}"
            )
        if self.gpus_per_fit > 1 and self.gpus_per_fit % 1:
            raise OptionError(
                f"gpus_per_fit: expected a whole number, or less than 1 where fits share a GPU, "
                f"got {self.gpus_per_fit:g}"
            )

    @property
    def device(self) -> str:
        """What a task computes on; this machine needs no GPU for it."""
        return "cuda" if self.gpus_per_fit else "cpu"


def parse_launcher(
    launcher: str, ray_address: str, cpus_per_fit: int, gpus_per_fit: float, device: str
) -> RayOptions | None:
    """None for the local launcher. Raises OptionError, also where Ray is not installed."""
    options = RayOptions(ray_address.strip(), cpus_per_fit, gpus_per_fit)
    if launcher == "local":
        if options != RayOptions():
            raise OptionError(
                "launcher: expected ray with ray_address, cpus_per_fit or gpus_per_fit, got local, "
                "which fits one after another in this process: add launcher=ray, or leave them out"
            )
        return None
    if device not in ("auto", options.device):
        raise OptionError(
            f"device: expected auto or {options.device} with launcher=ray and "
            f"gpus_per_fit={gpus_per_fit:g}, got {device}: a fit computes on cuda if it reserves "
            "a GPU or a part of one"
        )
    if importlib.util.find_spec("ray") is None:
        raise OptionError(
            "launcher: ray needs the library Ray, which is not installed: "
            "pip install -r requirements-extra.txt, or use launcher=local"
        )
    return options


@dataclass(frozen=True)
class RayFit:
    """What became of one fit: the fit, its epochs and its node, or the error that ended it."""

    fit: FitResult | None
    steps: Sequence[Step] = ()
    node: str = ""
    error: EmbedlabError | None = None

    def replay(self, on_step: OnStep) -> FitResult:
        """Hand over the epochs as a solver does, and the fit. Raises `error` if there is one."""
        if self.error is not None:
            raise self.error
        for step in self.steps:
            on_step(step)
        return self.fit


@contextmanager
def ray_session(options: RayOptions, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, Ray is there for `fits_by_ray`; a Ray of our own ends with the block.

    Raises RayError where it cannot be reached or started, OptionError where a Ray of our own could
    never run a fit.
    """
    _check_reachable(options.address)
    ray = _import_ray(options.address)
    try:
        _init(ray, options)
        say(_capacity(ray.nodes(), options))
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises RayError within seconds; Ray itself tries for minutes."""
    found = ADDRESS.fullmatch(address)
    if found:
        place = found["host"].strip("[]"), int(found["port"])
        try:
            socket.create_connection(place, SECONDS_TO_CONNECT).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or error) from error


def _unreachable(address: str, reason: object) -> RayError:
    return RayError(
        f"ray_address: there is no Ray cluster at {address} that this machine can use ({reason}): "
        "check the address and, where the cluster asks for one, the token (RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH), or leave ray_address out for a Ray of its own."
    )


def _import_ray(address: str):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report every cluster to its makers
    if address:  # each attempt takes 40 s; a Ray of our own needs several while it starts
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray

    # What Ray prints of every lost process goes to the driver's standard output, whatever
    # `log_to_driver` says; the outcome of the fit says it in a sentence.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _init(ray, options: RayOptions) -> None:
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.cpus_per_fit)
    )
    usual = {"include_dashboard": False} if not options.address else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=options.address or "local",
            runtime_env={"py_modules": PACKAGES, "env_vars": threads},
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            **usual,
        )
        signal.signal(signal.SIGTERM, before)  # Ray has set its own
    except SystemExit:  # of that one
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # of many kinds, and none of them Ray's own
        reason = _first_line(error)
        if options.address:
            raise _unreachable(options.address, reason) from error
        raise RayError(
            f"launcher: Ray cannot be started on this machine ({reason}): use launcher=local."
        ) from error


def _capacity(nodes: list[dict], options: RayOptions) -> str:
    """How many fits run at once, in words. Raises OptionError if that is none, for ever."""
    reserved = {"CPU": options.cpus_per_fit, "GPU": options.gpus_per_fit}
    reserved = {name: amount for name, amount in reserved.items() if amount}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    at_once = [
        min(int(node.get(name, 0) / amount) for name, amount in reserved.items()) for node in alive
    ]
    if any(at_once):
        return f"Ray: {counted(sum(at_once), 'fit')} at once, on {counted(len(alive), 'node')}"
    asked = " and ".join(f"{amount:g} {name}" for name, amount in reserved.items())
    if not options.address:
        has = " and ".join(f"{alive[0].get(name, 0):g} {name}" for name in reserved)
        raise OptionError(
            f"cpus_per_fit, gpus_per_fit: expected at most the {has} of this machine, got {asked}"
        )
    nodes = counted(len(alive), "node")
    return f"Ray: of {nodes}, none has {asked} for a fit; waiting for one that has"


def fits_by_ray(
    weighted: "Weighted", jobs: Jobs, device: str, options: RayOptions
) -> Iterator[tuple[int, RayFit]]:
    """The outcome of every job with its number, in the order in which they end.

    A fit whose process or node is lost is tried again, RETRIES times; one that fails is not, for it
    would fail again.
    """
    import ray

    task = ray.remote(
        num_cpus=options.cpus_per_fit, num_gpus=options.gpus_per_fit, max_retries=RETRIES
    )(_fit)
    likes, versions = ray.put(weighted), _versions()
    numbers = {
        task.remote(likes, *job, device, options.cpus_per_fit, versions).future(): number
        for number, job in jobs.items()
    }
    for future in as_completed(numbers):
        yield numbers.pop(future), _ray_fit(future.exception() or future.result())


def _ray_fit(result: object) -> RayFit:
    if isinstance(result, BaseException):
        return RayFit(None, error=_as_error(result))
    # A copy: what Ray gives is its own memory, and gone when it ends.
    fit = replace(result.fit, embedding=result.fit.embedding.copy())
    return replace(result, fit=fit)


def _as_error(error: BaseException) -> EmbedlabError:
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    match error:
        case RayTaskError(cause=EmbedlabError() as cause):
            return cause
        case RayTaskError(cause=cause):
            return RayError(f"{type(cause).__name__} on node {error.ip}: {_first_line(cause)}")
        case OutOfMemoryError():
            return RayError("its node had not enough memory: give it fewer fits at once")
        case WorkerCrashedError():
            return RayError(f"its process died {RETRIES + 1} times")
        case _:
            return RayError(_first_line(error))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _fit(
    weighted: "Weighted",
    options: FitOptions,
    seed: int,
    device: str,
    n_threads: int,
    versions: Mapping[str, str],
) -> RayFit:
    """The task: runs on a node."""
    if _versions() != versions:
        raise RayError(
            f"the node {socket.gethostname()} has {_join_words(_versions())}, but this machine "
            f"{_join_words(versions)}: install requirements.lock on every node"
        )
    import ray
    import torch

    from embedlab.movies.solvers.fit import fit_weighted

    node = f"{socket.gethostname()} {ray.get_runtime_context().get_node_id()[:8]}"
    torch.set_num_threads(n_threads)
    steps: list[Step] = []
    fit = fit_weighted(weighted, options, seed, device, steps.append)
    return RayFit(fit, steps, node)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _join_words(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
