"""SIGTERM and Ctrl-C as exceptions, once, and not while a run begins or ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_TERMINATED = 128 + signal.SIGTERM
SECONDS_AFTER_A_SIGNAL = 5


@contextmanager
def raise_first_signal() -> Iterator[None]:
    """Inside, the first of them unwinds the stack as KeyboardInterrupt, or as SystemExit for
    SIGTERM; those that follow do not disturb what is closed on the way."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def stop(number, _frame):
        _ignore()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_TERMINATED)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as a shell's background job ignores Ctrl-C
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals_to_main_process() -> Iterator[None]:
    """Inside, this process of several goes on until the first has ended, which its connections
    tell, at most for some seconds: the first has to see that nobody has died, to know why all are
    stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: signal.alarm(SECONDS_AFTER_A_SIGNAL))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """They come when the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Inside, and on to the end of `signals_raised_once`: they come too late."""
    _ignore()
    yield


def _ignore() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
