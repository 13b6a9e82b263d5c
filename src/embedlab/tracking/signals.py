"""SIGTERM and Ctrl-C as exceptions: the first one raises, later ones are ignored."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_TERMINATED = 128 + signal.SIGTERM
SECONDS_AFTER_A_SIGNAL = 5
SECONDS_UNTIL_SENT_AGAIN = 0.1


@contextmanager
def _handle(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let `handler` handle stop signals inside the block.

    Signals that the process ignores, as a shell's background job ignores Ctrl-C, stay ignored. Only
    the main thread may set handlers; in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    for signum, old in previous.items():
        if old is not signal.SIG_IGN:
            signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)


@contextmanager
def raise_first_signal() -> Iterator[None]:
    """Let the first signal inside the block raise KeyboardInterrupt, or SystemExit for SIGTERM.

    Later signals are ignored, so that they do not disturb the cleanup.

    Python ignores what is raised in a destructor or in a weak reference's callback, such as
    matplotlib's; the signal is then sent again.
    """

    raised: dict[BaseException | None, int] = {}  # exception -> its signal

    def stop(signum: int, _: FrameType | None) -> None:
        ignore_signals()
        is_ctrl_c = signum == signal.SIGINT
        error = KeyboardInterrupt() if is_ctrl_c else SystemExit(EXIT_TERMINATED)
        raised[error] = signum
        raise error

    def send_again(ignored: "sys.UnraisableHookArgs") -> None:
        signum = raised.get(ignored.exc_value)
        if signum is None:
            previous_hook(ignored)
            return
        signal.signal(signum, stop)
        threading.Timer(SECONDS_UNTIL_SENT_AGAIN, signal.raise_signal, [signum]).start()

    previous_hook = sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        with _handle(stop):
            yield
    finally:
        sys.unraisablehook = previous_hook


def defer_signals_to_main_process() -> AbstractContextManager[None]:
    """Let a signal inside the block end this rank only after 5 s.

    Rank 0 gets the signal, too, and ends first, while all ranks are alive, so that it records the
    signal as the reason.
    """
    return _handle(lambda *_: signal.alarm(SECONDS_AFTER_A_SIGNAL))


@contextmanager
def defer_signals() -> Iterator[None]:
    """Hold back signals until the block has ended, except on Windows, where this is impossible."""
    if sys.platform == "win32":
        yield
        return
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def ignore_signals() -> None:
    """Ignore signals until `raise_first_signal` ends."""
    if threading.current_thread() is threading.main_thread():
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
