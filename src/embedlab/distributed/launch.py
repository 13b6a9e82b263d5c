"""Start the workers of a data-parallel run on this host with `torchrun`.

Entry points import this before anything heavy; torch is imported when workers are launched.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from embedlab.distributed.env import is_distributed
from embedlab.errors import MainProcessKilledError

THREADS = "OMP_NUM_THREADS"
MAX_PROCESSES = 1024
SECONDS_FOR_MAIN_PROCESS = 10  # for rank 0 to report an error before another rank exits


def launch_workers(entry_point: str, processes: int, argv: Sequence[str] | None) -> bool:
    """Launch the workers and wait. Returns False if this process is a worker or the only process.

    The workers are the same entry point with the same arguments. If one fails, torchrun stops the
    others and this process exits with code 1; the main process has printed what went wrong. Signals
    are passed on. On the CPU the workers share torch's threads, unless OMP_NUM_THREADS is set.

    Raises MainProcessKilledError if a signal killed the main process, which then left its run open.
    """
    if processes == 1 or is_distributed():
        return False

    import torch
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.ERROR)  # torchrun's report of a failure, which rank 0 has explained
    os.environ.setdefault(THREADS, str(max(1, torch.get_num_threads() // processes)))
    words = sys.argv[1:] if argv is None else argv
    with TemporaryDirectory(prefix="torchrun-") as log_folder:
        options = ["--standalone", "--nproc-per-node", str(processes), "--log-dir", log_folder]
        try:
            run(parse_args([*options, "-m", f"entrypoints.{entry_point}", *words]))
        except SignalException as stopped:
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as error:
            exit_code = error.failures[0].exitcode if 0 in error.failures else 1
            if exit_code < 0:  # killed: it has neither printed an error nor closed its run
                raise MainProcessKilledError(
                    f"rank 0 was killed ({signal.Signals(-exit_code).name}); its run is marked "
                    "KILLED now, or by the next run if the store is unavailable."
                ) from None
            sys.exit(1)
    return True
