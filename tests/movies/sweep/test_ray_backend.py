"""compare_optimizers on Ray: the local launcher's results, on two nodes, and lost processes."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

import mlflow
import numpy as np
import psutil
import pytest
from conftest import PROJECT, free_port, fresh_store

from embedlab.errors import OptionError, RayError
from embedlab.movies.sweep.ray_backend import (
    RETRIES,
    RayOptions,
    describe_capacity,
    resolve_launcher,
)
from entrypoints.compare_optimizers import main

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (requirements-extra.txt)",
)
SMALL = ["--ratings", "sample", "--dim", "5", "--epochs", "4", "--titles", "Toy Story"]
GRID = [*SMALL, "--optimizers", "adam,sgd", "--learning-rates", "adam:1,0.1/sgd:1e-5,9"]
# The exact solver and one fit that ends only if it is stopped; an epoch takes about a millisecond.
ENDLESS = ["--ratings", "sample", "--dim", "50", "--titles", "Toy Story", "--optimizers", "adam"]
ENDLESS += ["--learning-rates", "0.1"]
SECONDS_AT_MOST = 60


def children(client) -> dict[str, mlflow.entities.Run]:
    """The newest child of each name."""
    runs = client.search_runs(["1"], "tags.fit_key IS NOT NULL", order_by=["start_time ASC"])
    return {run.info.run_name: run for run in runs}


def n_children(client) -> int:
    return len(client.search_runs(["1"], "tags.fit_key IS NOT NULL"))


@pytest.fixture(scope="module", autouse=True)
def own_token(tmp_path_factory):
    """Give Ray the token that it needs, so that it leaves none in the user's folder."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(secrets.token_hex(32), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        yield


# ---------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--launcher", "dask"], "launcher: expected one of local, ray; got 'dask'"),
        (["--ray-address", "auto"], "ray_address: expected launcher=ray .* got launcher=local"),
        (["--cpus-per-fit", "2"], "cpus_per_fit: .* add launcher=ray, or leave cpus_per_fit out"),
        (["--cpus-per-fit", "0"], "cpus_per_fit: expected a whole number from 1"),
        (["--launcher", "ray", "--gpus-per-fit", "1.5"], "gpus_per_fit: expected a whole number"),
        (["--launcher", "ray", "--gpus-per-fit", "-1"], "gpus_per_fit: expected a number from 0"),
        (["--launcher", "ray", "--ray-address", "head"], "ray_address: expected .* got 'head'"),
        (["--launcher", "ray", "--ray-address", "head:0"], "ray_address: expected"),
        (["--launcher", "ray", "--ray-address", "http://head:80"], "ray_address: expected"),
        (["--launcher", "ray", "--device", "cuda"], "device: expected auto or cpu .* got cuda"),
        (
            ["--launcher", "ray", "--device", "cpu", "--gpus-per-fit", "0.5"],
            "device: expected auto or cuda .* got cpu",
        ),
    ],
)
def test_bad_arguments_are_refused_before_any_run(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        main([*GRID, *arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["auto", "head:6379", "[::1]:6379", "ray://10.0.0.1:10001"])
def test_addresses_that_ray_takes(address):
    assert RayOptions(address).address == address


def test_without_ray_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"not installed: pip install -r requirements-extra\.txt"):
        resolve_launcher("ray", RayOptions(), "auto")
    assert resolve_launcher("local", RayOptions(), "auto") is None


@needs_ray
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_one_sentence_within_seconds(scheme, tmp_path):
    started = time.monotonic()
    address = f"{scheme}127.0.0.1:{free_port()}"
    with (
        fresh_store(tmp_path) as client,
        pytest.raises(RayError, match=f"no Ray cluster at {address} .*Connection refused"),
    ):
        main([*SMALL, "--optimizers", "sgd", "--launcher", "ray", "--ray-address", address])
    assert time.monotonic() - started < SECONDS_AT_MOST
    (run,) = client.search_runs(["1"])
    assert run.data.tags["stop_reason"] == "error"


# ----------------------------------------------------------------------------- two nodes, loopback


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one core each, on loopback."""
    pytest.importorskip("ray", reason="Ray is not installed (requirements-extra.txt)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    usual = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args=usual)
    nodes.usual = usual
    nodes.add_node(**usual)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def both(cluster, tmp_path_factory):
    """Folder, client and children of two stores: a comparison by the local launcher, one by Ray."""
    stores = []
    for launcher in ([], by_ray(cluster)):
        folder = tmp_path_factory.mktemp("launcher")
        with fresh_store(folder) as client:
            main([*GRID, *launcher])
            stores.append((folder, client, children(client)))
    return stores


def by_ray(cluster) -> list[str]:
    return ["--launcher", "ray", "--ray-address", cluster.address]


@pytest.mark.slow
def test_ray_makes_the_same_children_as_the_local_launcher(both):
    (_, here, local), (_, there, ray) = both
    assert list(local) == ["exact", "adam lr=1", "adam lr=0.1", "sgd lr=9", "sgd lr=1e-05"]
    assert set(local) == set(ray)
    own_tags = {"mlflow.parentRunId", "process_started"}
    for name, run in local.items():
        other = ray[name]
        assert other.data.params == run.data.params
        assert other.info.status == run.info.status
        tags = {key for key in run.data.tags if not key.startswith("sweep_")}
        assert {key for key in other.data.tags if not key.startswith("sweep_")} == tags | {
            "ray_node"
        }
        for key in tags - own_tags:
            assert other.data.tags[key] == run.data.tags[key], key
        assert set(other.data.metrics) == set(run.data.metrics)
        for metric in ("train/cost", "train/gap"):
            histories = [
                [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]
                for client, run_id in ((here, run.info.run_id), (there, other.info.run_id))
            ]
            # The same number of threads adds in the same order; threads of BLAS may still differ.
            np.testing.assert_allclose(*histories, rtol=1e-6)


@pytest.mark.slow
def test_both_nodes_get_work(both):
    _, (_, _, ray) = both
    assert len({run.data.tags["ray_node"] for run in ray.values()}) == 2


@pytest.mark.slow
def test_what_one_launcher_has_finished_the_other_does_not_run_again(both, capsys):
    nowhere = ["--launcher", "ray", "--ray-address", f"127.0.0.1:{free_port()}"]
    for (folder, _, before), launcher in zip(both, (nowhere, []), strict=True):
        with fresh_store(folder) as client:
            main([*GRID, *launcher])
            assert n_children(client) == len(before)
            newest = client.search_runs(["1"], "tags.entry_point = 'compare_optimizers'")[0]
            assert newest.info.status == "FINISHED"
            assert newest.data.metrics["fits"] == 5
    assert capsys.readouterr().out.count("found finished") == 10


@pytest.mark.slow
def test_a_process_that_is_killed_in_the_middle_is_replaced(cluster, tmp_path):
    with fresh_store(tmp_path) as client, kill_fits(1) as killed:
        main([*ENDLESS, "--epochs", "3000", *by_ray(cluster)])
        fits = children(client)
        assert n_children(client) == len(fits) == 2
    assert len(killed) == 1
    assert {run.info.status for run in fits.values()} == {"FINISHED"}


@pytest.mark.slow
def test_a_fit_whose_process_always_dies_is_a_sentence_and_the_others_are_kept(cluster, tmp_path):
    with fresh_store(tmp_path) as client:
        main([*ENDLESS[:-1], "1", "--epochs", "3000"])  # so that the exact fit is finished
        message = rf"1 of 3 fits failed: its process died {RETRIES + 1} times \(adam lr=0.1, seed 0"
        with kill_fits(RETRIES + 1) as killed, pytest.raises(RayError, match=message):
            main([*ENDLESS[:-1], "0.1,1", "--epochs", "3000", *by_ray(cluster)])
        fits = children(client)
    assert len(killed) == RETRIES + 1
    assert fits["adam lr=0.1"].info.status == "FAILED"
    assert fits["adam lr=0.1"].data.tags["error"] == f"its process died {RETRIES + 1} times"
    assert fits["adam lr=1"].info.status == "FINISHED"


@pytest.mark.slow
def test_fits_of_a_node_that_goes_down_are_done_by_the_other(cluster, tmp_path):
    extra = cluster.add_node(**cluster.usual)
    cluster.wait_for_nodes()
    (raylet,) = (psutil.Process(p.process.pid) for p in extra.all_processes["raylet"])
    lost = []

    def take_away() -> None:
        if wait_for_fit(raylet):
            lost.append(extra.node_id)
            cluster.remove_node(extra)

    thread = threading.Thread(target=take_away)
    with fresh_store(tmp_path) as client:
        thread.start()
        main([*ENDLESS[:-1], "1,0.1", "--epochs", "6000", *by_ray(cluster)])
        thread.join()
        fits = children(client)
    assert len(lost) == 1
    assert {run.info.status for run in fits.values()} == {"FINISHED"}
    nodes = {run.data.tags["ray_node"].split()[-1] for run in fits.values()}
    assert not lost[0].startswith(tuple(nodes))


def wait_for_fit(ancestor: psutil.Process) -> bool:
    """Wait for a process under `ancestor` that runs a fit; False if there is none in time."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while time.monotonic() < deadline and ancestor.is_running():
        if any("ray::_fit" in name(process) for process in ancestor.children(recursive=True)):
            return True
        time.sleep(0.02)
    return False


class kill_fits:
    """Kill a number of processes in the block, each as soon as it runs a fit."""

    def __init__(self, number: int):
        self._number, self._is_over, self._killed = number, threading.Event(), []

    def __enter__(self) -> list[int]:
        self._thread = threading.Thread(target=self._kill)
        self._thread.start()
        return self._killed

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()

    def _kill(self) -> None:
        while len(self._killed) < self._number and not self._is_over.wait(0.02):
            for process in psutil.process_iter(["pid", "name", "cmdline"]):
                if any(word == "ray::_fit" for word in process.info["cmdline"] or ()):
                    process.kill()
                    self._killed.append(process.pid)
                    break


# -------------------------------------------------------------------------------------- a local Ray


@needs_ray
@pytest.mark.slow
def test_a_ray_of_its_own_ends_with_the_run_that_is_stopped(tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    command = [
        sys.executable,
        "-m",
        "entrypoints.compare_optimizers",
        *ENDLESS,
        "--epochs",
        "90000",
    ]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [*command, "--launcher", "ray"],
            cwd=PROJECT,
            env=os.environ | {"MLFLOW_TRACKING_URI": store},
            stdout=out,
            stderr=out,
        )
        run = psutil.Process(process.pid)
        assert wait_for_fit(run)
        of_ray = run.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_AT_MOST) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(of_ray, 5)
    assert alive == []
    (parent,) = mlflow.MlflowClient(store).search_runs(["1"])
    assert (parent.info.status, parent.data.tags["stop_reason"]) == ("KILLED", "sigterm")
    assert "Traceback" not in (tmp_path / "out").read_text(encoding="utf-8")


def name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@needs_ray
@pytest.mark.slow
def test_more_cores_than_there_are_is_refused_by_a_ray_of_its_own(tmp_path):
    with (
        fresh_store(tmp_path),
        pytest.raises(
            OptionError, match=r"cpus_per_fit, gpus_per_fit: expected at most the .* CPU"
        ),
    ):
        main([*SMALL, "--launcher", "ray", "--cpus-per-fit", "5000"])


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
    assert describe_capacity(nodes, RayOptions("auto")) == text
