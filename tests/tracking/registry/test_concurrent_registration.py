"""Registrations and promotions at the same moment, and registrations that were killed.

Most tests use a registry in memory that guarantees no more than MLflow does: a version gets number
and tags in one step, and the last write of an alias wins. There, thousands of interleavings take
seconds.
"""

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from types import SimpleNamespace

import mlflow
import pytest
from cards import card_of
from conftest import fresh_store
from memory_registry import NAME, Memory, add, memory_with_champion, replace_mlflow

from embedlab.tracking.registry import registered_model, versions
from embedlab.tracking.registry.versions import promote_version, register

DRAWS = 400  # of versions, and of interleavings of their registrations
LIKELY = ["if_better"] * 6 + ["always", "never"]

use = pytest.fixture(replace_mlflow)
memory = pytest.fixture(memory_with_champion)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that moves only while the code waits for the registry."""
    made = SimpleNamespace(now=0.0, time=time.time, monotonic=lambda: made.now)
    made.sleep = lambda _: setattr(made, "now", made.now + 1)
    monkeypatch.setattr(registered_model, "time", made)
    return made


class Turns:
    """Threads whose calls are made one at a time, in an interleaving that is drawn by seed."""

    def __init__(self, seed: int):
        self._draw, self._changed = random.Random(seed), threading.Condition()
        self._running, self._waiting, self._next, self._last = 0, [], None, None
        self._failed: list[BaseException] = []

    def wait(self) -> None:
        """Wait for this thread's turn; called before every call of the registry."""
        me = threading.current_thread().name
        with self._changed:
            self._waiting.append(me)
            self._choose()
            self._changed.wait_for(lambda: self._next == me)
            self._next = None

    def _choose(self) -> None:
        if self._waiting and len(self._waiting) == self._running:
            if self._last not in self._waiting or self._draw.random() < 0.25:
                self._last = self._draw.choice(sorted(self._waiting))
            self._next = self._last
            self._waiting.remove(self._next)
            self._changed.notify_all()

    def _run(self, task: Callable[[], object], results: list[object], place: int) -> None:
        try:
            results[place] = task()
        except BaseException as error:
            self._failed.append(error)
        with self._changed:
            self._running -= 1
            self._choose()

    def run(self, tasks: list[Callable[[], object]]) -> list[object]:
        """Run each task in a thread; returns their results."""
        self._running, results = len(tasks), [None] * len(tasks)
        threads = [
            threading.Thread(target=self._run, args=[task, results, place])
            for place, task in enumerate(tasks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
        assert self._failed == []
        return results


def all_at_once(memory: Memory, tasks: list[Callable[[], object]], seed: int) -> list[object]:
    turns = Turns(seed)
    memory.before = turns.wait
    return turns.run(tasks)


def history(draw: random.Random) -> None:
    """Draw a registry: empty, with a champion, or with one restored in place of a better one."""
    if draw.random() < 0.8:
        add(100)
        if draw.random() < 0.3:
            add(40)
            promote_version(NAME, "previous", "the better one is slow")


@pytest.mark.parametrize("start", range(0, DRAWS, 100))
def test_registrations_at_once_end_as_if_one_had_come_after_the_other(use, start):
    for seed in range(start, start + 100):
        draw, memory = random.Random(seed), use(Memory())
        history(random.Random(seed))
        new = [
            (draw.randint(30, 120), draw.choice("aaab"), draw.choice(LIKELY))
            for _ in range(draw.randint(2, 4))
        ]
        entries = all_at_once(memory, [partial(add, *version) for version in new], seed)

        slow = use(Memory())
        history(random.Random(seed))
        in_order = sorted(zip(entries, new, strict=True), key=lambda pair: pair[0].version)
        for _, version in in_order:
            add(*version)
        assert memory.aliases == slow.aliases, (seed, in_order)
        for entry in entries:
            said = memory.versions[entry.version].tags["registered_as"]
            assert said == f"{entry.alias}: {entry.reason}"
            if memory.aliases.get("champion") == entry.version:
                assert entry.alias == "champion"


@pytest.mark.parametrize("start", range(0, DRAWS, 100))
def test_a_promotion_by_hand_holds_against_registrations_at_the_same_moment(
    use, monkeypatch, start
):
    monkeypatch.setattr(versions, "PROMOTION_SECONDS", versions.UNDECIDED_SECONDS)
    for seed in range(start, start + 100):
        memory = use(Memory())
        add(100)
        add(70, "b")
        promotion = partial(promote_version, NAME, "2", "the newer data")
        all_at_once(memory, [partial(add, 90), promotion, partial(add, 80)], seed)
        assert memory.aliases["champion"] == 2, seed
        assert memory.versions[2].tags["promoted_because"] == "the newer data"


def test_a_registration_that_was_killed_anywhere_is_decided_by_the_next(use, clock):
    class Killed(BaseException):
        pass

    def die_at(call: int) -> Callable[[], None]:
        calls = iter(range(call, 0, -1))

        def die_at_one() -> None:
            if next(calls, 0) == 1:
                raise Killed

        return die_at_one

    killed_at = 0
    while True:
        killed_at += 1
        memory = use(Memory())
        add(100)
        memory.before = die_at(killed_at)
        try:
            add(50)
        except Killed:
            memory.before = lambda: None
        else:
            break
        was_registered = len(memory.versions) == 2
        add(60)
        expected = {"champion": 2, "challenger": 3} if was_registered else {"champion": 2}
        assert memory.aliases == expected, killed_at
    assert killed_at > 10


def test_a_registration_that_was_killed_long_ago_is_left_alone(memory, clock):
    """A user may have chosen another champion since."""
    add(50, promote="never")
    del memory.versions[2].tags["registered_as"]
    memory.versions[2].tags["promote"] = "always"
    memory.versions[2].creation_timestamp -= 1000 * (versions.UNDECIDED_SECONDS + 1)
    assert add(60).alias == "champion"
    assert memory.aliases == {"champion": 3}
    assert clock.now == 0


def test_a_promotion_waits_only_so_long_for_a_registration_that_was_killed(memory, clock):
    add(101)
    del memory.versions[2].tags["registered_as"]
    promote_version(NAME, "2", "it is time")
    assert memory.aliases == {"champion": 2}
    assert clock.now == versions.PROMOTION_SECONDS


# -- with MLflow and real processes ------------------------------------------------------------

PROCESSES, ROUNDS = 4, 2


def register_in_every_round(process: int, barrier: Barrier) -> None:
    """Register under m0 at the same moment as all other processes, then under m1, and so on."""
    mlflow.set_tracking_uri("sqlite:///mlflow.db")  # another spelling, so a connection of its own
    mlflow.MlflowClient().search_registered_models()
    for number in range(ROUNDS):
        barrier.wait(60)
        card = card_of("a", cost=(7 * process + number) % 11)
        register(f"{os.getcwd()}/model", f"m{number}", card)


@pytest.mark.slow
def test_processes_that_register_at_the_same_moment(tmp_path):
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(PROCESSES)
    with fresh_store(tmp_path) as client:
        processes = [
            fork.Process(target=register_in_every_round, args=(number, barrier))
            for number in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0] * PROCESSES
        for name in (f"m{number}" for number in range(ROUNDS)):
            versions = client.search_model_versions(f"name='{name}'")
            assert len(versions) == PROCESSES
            cost = {int(version.version): float(version.tags["cost"]) for version in versions}
            best = min(cost, key=lambda version: (cost[version], version))
            newest = {} if best == PROCESSES else {"challenger": PROCESSES}
            aliases = client.get_registered_model(name).aliases
            assert {alias: int(version) for alias, version in aliases.items()} == {
                "champion": best,
                **newest,
            }
