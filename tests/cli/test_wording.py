"""Texts that count something: one of it has no s."""

from types import SimpleNamespace

import pytest

from embedlab.distributed import collectives
from embedlab.errors import TrackingError
from embedlab.movies.sweep.ray_backend import RayOptions, _capacity
from embedlab.process import this_host
from embedlab.wording import cost_as_text, counted, value_as_text
from embedlab.workflows import finished_runs


@pytest.mark.parametrize(
    ("n", "noun", "plural", "text"),
    [
        (0, "run", None, "0 runs"),
        (1, "epoch", None, "1 epoch"),
        (2, "epoch", None, "2 epochs"),
        (1234, "movie", None, "1,234 movies"),
        (1, "process", "processes", "1 process"),
        (3, "class", "classes", "3 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(n, noun, plural, text):
    assert counted(n, noun, plural) == text


@pytest.mark.parametrize(
    ("cost", "text"),
    [(733_625.35, "733,625"), (0.2, "0"), (1e15, "1e+15"), (4.28e114, "4.28e+114")],
)
def test_a_cost_is_never_a_line_of_digits(cost, text):
    assert cost_as_text(cost) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), ((64, 96), "64,96"), (0.01, "0.01"), ("a b", "a b")]
)
def test_a_value_is_spelled_as_on_the_command_line(value, text):
    assert value_as_text(value) == text


@pytest.mark.parametrize(
    ("cores", "text"),
    [
        ([1], "Ray: 1 fit at once, on 1 node"),
        ([2, 3], "Ray: 5 fits at once, on 2 nodes"),
        ([0], "Ray: of 1 node, none has 1 CPU for a fit; waiting for one that has"),
    ],
)
def test_ray_counts_fits_and_nodes(cores, text):
    nodes = [{"Alive": True, "Resources": {"CPU": n}} for n in cores]
    assert _capacity(nodes, RayOptions("auto")) == text


def test_processes_that_are_lost_are_one_or_several():
    for n, end in ((1, " has ended before its time"), (2, " have ended before their time")):
        others = {i: (this_host(), 2**22 + 1, 0.0) for i in range(n)}
        assert collectives.ended_ranks(others).endswith(end)


@pytest.mark.parametrize(("n", "text"), [(1, "found 1 finished run "), (2, "2 finished runs ")])
def test_finished_runs_without_a_pair_are_one_or_several(n, text):
    run = SimpleNamespace(data=SimpleNamespace(tags={"entry_point": "finetune"}))
    client = SimpleNamespace(search_runs=lambda *_, **__: [run] * n)
    with pytest.raises(TrackingError, match=text):
        finished_runs.best_pair(client, "1")
