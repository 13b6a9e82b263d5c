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

from embedlab.errors import MainProcessKilledError

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # RANK alone may have been meant for something else
THREADS = "OMP_NUM_THREADS"
MAX_PROCESSES = 1024
SECONDS_FOR_MAIN_PROCESS = 10  # to say what is wrong, before another process does


def is_distributed() -> bool:
    """Whether torchrun has started this process."""
    return STARTED_BY_TORCHRUN in os.environ


def world_size() -> int:
    """How many processes work on this run, on all hosts."""
    return int(os.environ["WORLD_SIZE"]) if is_distributed() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if is_distributed() else 0


def local_rank() -> int:
    """Which of this host's, from 0."""
    return int(os.environ["LOCAL_RANK"]) if is_distributed() else 0


def is_main_process() -> bool:
    """The first process alone has a run, prints, and writes files."""
    return rank() == 0


def launch_workers(entry_point: str, processes: int, argv: Sequence[str] | None) -> bool:
    """Launch the workers and wait. Returns False if this process already is one, or the only one.

    The workers are the same entry point with the same arguments. If one fails, torchrun stops the
    others and this process exits with code 1; the main process has printed what went wrong. Signals
    are passed on. On the CPU the workers share the cores, unless OMP_NUM_THREADS is set.

    Raises MainProcessKilledError if a signal killed the main process, which then left its run open.
    """
    if processes == 1 or is_distributed():
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
            exit_code = error.failures[0].exitcode if 0 in error.failures else 1
            if exit_code < 0:  # nobody has said so, or closed its run
                raise MainProcessKilledError(
                    f"the first process was killed ({signal.Signals(-exit_code).name}); its run "
                    "says so."
                ) from None
            sys.exit(1)
    return True


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
