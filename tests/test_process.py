"""The identity of a process: whether it has ended."""

import os
import subprocess
import sys
import time

import psutil

from embedlab.process import has_ended, started_at, this_host

HOUR = 3600
NOBODY = 2**22 + 1  # above every process number of Linux


def test_this_process_is_there_and_one_that_had_its_number_is_not():
    assert not has_ended(this_host(), os.getpid(), started_at())
    assert not has_ended(this_host(), os.getpid(), time.time())
    assert has_ended(this_host(), os.getpid(), started_at() - HOUR)
    assert has_ended(this_host(), NOBODY, time.time())


def test_a_process_of_another_host_does_not_count_as_ended():
    assert not has_ended("elsewhere", NOBODY, time.time())


def test_a_process_that_nobody_has_waited_for_has_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert has_ended(this_host(), process.pid, time.time())
    process.wait()
    assert has_ended(this_host(), process.pid, time.time())
