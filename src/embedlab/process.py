"""Whose something is: which process of which host, and whether that process has ended.

In: nothing, or what a process wrote down of itself. Out: names, and a yes only where it is sure.
"""

import os
import platform
import re
from functools import cache

PID_NAMESPACE = "/proc/self/ns/pid"  # Linux; a container has one of its own
HOSTS_OWN_NAMESPACE = 0xEFFFFFFC  # its number outside of containers
CLOCK_SECONDS = 10  # by which the system's clock may be set meanwhile


@cache
def this_host() -> str:
    """The host's name, and the container's number in one: process ids mean nothing elsewhere.

    Fit for a file's name.
    """
    try:
        namespace = os.stat(PID_NAMESPACE).st_ino
    except OSError:
        namespace = HOSTS_OWN_NAMESPACE
    suffix = "" if namespace == HOSTS_OWN_NAMESPACE else f"+{namespace}"
    return re.sub(r"[^\w.-]", "_", platform.node()) + suffix


def started_at() -> float:
    """When this process started, in seconds since 1970."""
    import psutil

    return psutil.Process().create_time()


def has_ended(host: str, pid: int, was_there: float) -> bool:
    """Whether process `pid` of `host` has ended; False where that cannot be seen, as of another
    host's.

    was_there  a time at which it was running: one of the same number that started later is another.
    """
    if host != this_host():
        return False

    import psutil

    try:
        process = psutil.Process(pid)
        is_another = process.create_time() > was_there + CLOCK_SECONDS
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
