"""Which of several processes this one is, and how they are started.

`torchrun` tells each of its processes by the environment. A process that it has not started is the
first and only one. Entry points ask before any heavy import, so this module is light.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # RANK alone may have been meant for something else
THREADS = "OMP_NUM_THREADS"
MOST_PROCESSES = 1024
SECONDS_FOR_THE_FIRST = 10  # to say what is wrong, before another process does


def is_started() -> bool:
    """Whether torchrun has started this process."""
    return STARTED_BY_TORCHRUN in os.environ


def count() -> int:
    """How many processes work on this run, on all hosts."""
    return int(os.environ["WORLD_SIZE"]) if is_started() else 1


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if is_started() else 0


def number_on_host() -> int:
    """Which of this host's, from 0."""
    return int(os.environ["LOCAL_RANK"]) if is_started() else 0


def is_first() -> bool:
    """The first process alone has a run, prints, and writes files."""
    return number() == 0


def starts_others(entry_point: str, processes: int, argv: Sequence[str] | None) -> bool:
    """Where several are asked for and this is none of them: start them, wait for their end, True.

    They are the same entry point with the same arguments. Where one fails the others are stopped,
    and this process exits with code 1; what went wrong the first of them has said. A signal is
    passed on. On the CPU they share the cores, unless OMP_NUM_THREADS says how many each takes.
    """
    if processes == 1 or is_started():
        return False

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.ERROR)  # torchrun's own account of what the first process says better
    os.environ.setdefault(THREADS, str(max(1, _cores() // processes)))
    words = sys.argv[1:] if argv is None else argv
    with TemporaryDirectory(prefix="torchrun-") as log_folder:
        options = ["--standalone", "--nproc-per-node", str(processes), "--log-dir", log_folder]
        try:
            run(parse_args([*options, "-m", f"entrypoints.{entry_point}", *words]))
        except SignalException as stopped:
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as error:
            _tell_of_a_killed_first(error.failures[0].exitcode if 0 in error.failures else 0)
            sys.exit(1)
    return True


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tell_of_a_killed_first(exit_code: int) -> None:
    """The first process was killed at once: nobody has said so, or closed its run."""
    if exit_code >= 0:
        return
    from embedlab.tracking.runs import mark_dead_runs_here

    mark_dead_runs_here()
    name = signal.Signals(-exit_code).name
    print(f"embedlab: the first process was killed ({name}); its run says so.", file=sys.stderr)
