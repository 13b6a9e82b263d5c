"""Signals as exceptions, also where Python ignores exceptions."""

import signal
import sys
import threading
import time
import weakref

import pytest

from embedlab.tracking.signals import raise_first_signal


@pytest.mark.parametrize(
    ("signum", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_in_the_callback_of_a_weak_reference_stops_the_run_all_the_same(
    signum, raised, capfd
):
    """Figures have many such callbacks. Only the signal that is sent again stops this loop."""
    end = time.monotonic() + 30
    with pytest.raises(raised), raise_first_signal():
        referred = {1}
        reference = weakref.ref(referred, lambda _: signal.raise_signal(signum))
        del referred
        assert reference() is None
        while time.monotonic() < end:
            time.sleep(0.05)
    assert time.monotonic() < end
    assert capfd.readouterr().err == ""


def test_an_exception_of_other_code_that_python_ignores_sends_nothing(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: reported.append(ignored.exc_type))
    monkeypatch.setattr(threading, "Timer", None)  # which would send a signal again
    with raise_first_signal():
        referred = {1}
        reference = weakref.ref(referred, lambda _: sys.exit(3))
        del referred
    assert (reference(), reported) == (None, [SystemExit])
