"""The identity of a process (host, pid, start time), its memory, and whether it has ended."""

import os
import platform
import re
import sys
from functools import cache

PID_NAMESPACE = "/proc/self/ns/pid"  # Linux; a container has one of its own
ROOT_PID_NAMESPACE = 0xEFFFFFFC  # its number outside of containers
MAX_CLOCK_SHIFT = 10  # seconds by which the system's clock may have been set forward since


@cache
def this_host() -> str:
    """The host's name and, in a container, its PID namespace, within which pids are unique.

    The text can be part of a file's name.
    """
    try:
        namespace = os.stat(PID_NAMESPACE).st_ino
    except OSError:
        namespace = ROOT_PID_NAMESPACE
    suffix = "" if namespace == ROOT_PID_NAMESPACE else f"+{namespace}"
    return re.sub(r"[^\w.-]", "_", platform.node()) + suffix


def started_at() -> float:
    """The start of this process, in seconds since 1970."""
    import psutil

    return psutil.Process().create_time()


def peak_memory() -> int:
    """The peak resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def has_ended(host: str, pid: int, running_at: float) -> bool:
    """Whether process `pid` of `host` has ended; False if that is unknown, as on another host.

    running_at  a time (seconds since 1970) at which it was running: a process that reuses the
                pid and started later is another one.
    """
    if host != this_host():
        return False

    import psutil

    try:
        process = psutil.Process(pid)
        is_another = process.create_time() > running_at + MAX_CLOCK_SHIFT
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
