"""Several processes compute what one computes, in one run, which records a lost process.

The tests use gloo on this machine. With EMBEDLAB_LONG_TESTS they also use two processes besides
four, `mlflow run`, and two network namespaces (Linux, as root, with iproute2).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import mlflow
import numpy as np
import psutil
import pytest
import shared_work
import torch
from conftest import PROJECT, free_port, long, use_store

from entrypoints import finetune

pytestmark = pytest.mark.slow

# Allowed relative difference of the costs over 60 epochs; 2e-7 was measured, since some sums are
# float64 instead of float32. The line search of L-BFGS branches on rounding.
COST = {"adam": 1e-6, "sgd": 1e-6, "lbfgs": 1e-3}
# Allowed after four updates of the last stage, or any number of the head alone; 2e-7 was measured
# for losses and probabilities, 1e-6 for weights. With more updates of more layers, rounding decides
# sooner or later on which side of 0 an input of a ReLU lies, as it does with several threads.
TUNED, WEIGHTS = 1e-5, 1e-4
# Allowed for the L2 norm of an update of all layers; 2.5e-3 was measured, since the gradient of
# ReLU and pooling is discontinuous. BatchNorm over one process's images is off by a tenth or more.
ONE_STEP = 0.01

FIT = {"ratings": "sample", "dim": 8, "epochs": 20}
IMAGES = {"dataset": "sample", "weights": "none", "resolution": 32, "train_limit": 300}
TUNE = IMAGES | {"val_limit": 300, "batch_size": 50, "epochs": 4, "precision": "float32"}
TUNE |= {"freeze": "all-but-head"}


# -- the same result ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """The results of one process."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with patch.dict(os.environ, EMBEDLAB_CACHE=str(tmp_path_factory.mktemp("one"))):
        results = shared_work.all_results()
    torch.set_num_threads(n_threads)
    return results


@pytest.fixture(scope="module", params=[4, pytest.param(2, marks=long)])
def by_several(request, tmp_path_factory):
    """The results of several processes: rank 0's, and in `others` those of the other ranks."""
    folder, n = tmp_path_factory.mktemp("several"), request.param
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(PROJECT / name) for name in ("src", "tests/helpers")),
        "EMBEDLAB_CACHE": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    words = ["-m", "shared_work", str(folder), str(n), str(free_port())]
    subprocess.run([sys.executable, *words], env=environment, check=True, timeout=300)
    results = torch.load(folder / "results.pt", weights_only=False)
    others = [torch.load(file, weights_only=False) for file in folder.glob("other-*.pt")]
    assert len(others) == n - 1
    return results | {"others": others}


@pytest.mark.parametrize("optimizer", shared_work.FITS)
def test_the_cost_of_every_epoch_equals_that_of_one_process(by_one, by_several, optimizer):
    costs, products = by_one["fits"][optimizer]
    shared_costs, shared_products = by_several["fits"][optimizer]
    assert len(costs) == shared_work.EPOCHS + 1
    assert shared_costs == pytest.approx(costs, rel=COST[optimizer])
    most = float(np.abs(products).max())
    assert shared_products == pytest.approx(products, abs=100 * COST[optimizer] * most)


def test_features_equal_those_of_one_process_bit_for_bit(by_one, by_several):
    for part, expected in by_one["features"].items():
        assert len(expected) > shared_work.BATCH
        assert np.array_equal(by_several["features"][part], expected)


def test_a_training_equals_that_of_one_process(by_one, by_several):
    steps, weights, probabilities = by_one["tuned"]
    shared_steps, shared_weights, shared_probabilities = by_several["tuned"]
    assert len(shared_steps) == len(steps) == shared_work.LAST_STAGE.epochs
    for step, expected in zip(shared_steps, steps, strict=True):
        assert step == pytest.approx(expected, rel=TUNED)
    assert shared_probabilities == pytest.approx(probabilities, abs=TUNED)
    assert_same_weights(shared_weights, weights)


def assert_same_weights(actual: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> None:
    for name, expected in weights.items():
        assert np.abs(actual[name] - expected).max() <= WEIGHTS * np.abs(expected).max(), name


def test_an_update_of_all_layers_equals_that_of_one_process(by_one, by_several):
    for name, taken in by_one["one step"].items():
        off = np.linalg.norm(by_several["one step"][name] - taken)
        assert off <= ONE_STEP * np.linalg.norm(taken), name


def test_all_processes_have_the_same_bits(by_several):
    for fits, (steps, weights, probabilities) in by_several["others"]:
        assert steps == by_several["tuned"][0]
        assert probabilities is None  # rank 0 alone has predictions
        for optimizer, (costs, products) in fits.items():
            assert costs == by_several["fits"][optimizer][0]
            assert np.array_equal(products, by_several["fits"][optimizer][1])
        for name, expected in by_several["tuned"][1].items():
            assert np.array_equal(weights[name], expected), name


def test_one_process_resumes_the_checkpoint_of_several(by_one, by_several):
    trainer = shared_work.trainer_of(shared_work.LAST_STAGE)
    trainer.load_state(by_several["state"])
    steps, weights, _ = shared_work.tune(trainer)
    for step, expected in zip(steps, by_one["tuned"][0], strict=True):
        assert step == pytest.approx(expected, rel=TUNED)
    assert_same_weights(weights, by_one["tuned"][1])


def test_processes_with_other_data_are_refused(by_several):
    sentence = by_several["refused"]
    assert sentence.startswith("dataset: expected the same at all ")
    assert "rank 1 differs from rank 0" in sentence


# -- one run, whatever happens --------------------------------------------------------------------


@pytest.fixture
def client(tmp_path, monkeypatch) -> mlflow.MlflowClient:
    """An empty store and cache, for entry points that are started as processes."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("EMBEDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.chdir(tmp_path)  # where local artifacts go
    return mlflow.MlflowClient(uri)


def words(parameters: dict[str, object]) -> list[str]:
    return [word for k, v in parameters.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def start(name: str, folder: Path, **parameters: object) -> subprocess.Popen:
    """Start an entry point, whose output goes to `output.txt`."""
    command = [sys.executable, "-m", f"entrypoints.{name}", *words(parameters)]
    with open(folder / "output.txt", "wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def run(name: str, folder: Path, **parameters: object) -> str:
    """Run an entry point to its end; returns its output."""
    code = start(name, folder, **parameters).wait(300)
    output = (folder / "output.txt").read_text(encoding="utf-8")
    assert code == 0, output
    return output


def runs_of(client: mlflow.MlflowClient) -> list[mlflow.entities.Run]:
    """All runs of the store, oldest first."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, order_by=["start_time ASC"]))


def costs_of(client: mlflow.MlflowClient, run: mlflow.entities.Run) -> list[float]:
    return [m.value for m in client.get_metric_history(run.info.run_id, "train/cost")]


@long
def test_two_processes_are_one_run_and_rank_0_alone_prints(client, tmp_path):
    output = run("fit_embedding", tmp_path, **FIT, processes=2)
    assert output.count("after 20 epochs") == output.count("Query it with") == 1
    (fit,) = runs_of(client)
    assert (fit.info.status, fit.data.params["processes"]) == ("FINISHED", "2")
    assert len(costs_of(client, fit)) == FIT["epochs"] + 1


def wait_for(text: str, folder: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while text not in (output := (folder / "output.txt").read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < until, output
        time.sleep(0.1)


def rank(launcher: subprocess.Popen, number: int) -> psutil.Process:
    children = psutil.Process(launcher.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(number))


@pytest.mark.parametrize(
    ("victim", "how", "code", "status", "reason"),
    [
        (1, signal.SIGKILL, 1, "FAILED", "process_lost"),
        pytest.param(0, signal.SIGKILL, 1, "KILLED", "died", marks=long),
        pytest.param(None, signal.SIGTERM, 143, "KILLED", "sigterm", marks=long),
        pytest.param(None, signal.SIGINT, 130, "KILLED", "ctrl-c", marks=long),
    ],
)
def test_a_run_whose_process_dies_records_it_and_can_be_resumed(
    client, tmp_path, victim, how, code, status, reason
):
    launcher = start("finetune", tmp_path, **TUNE, processes=2)
    wait_for("\n    1  ", tmp_path, launcher)  # the first epoch's line
    ranks = [rank(launcher, number) for number in (0, 1)]
    psutil.Process(launcher.pid if victim is None else ranks[victim].pid).send_signal(how)
    assert launcher.wait(60) == code
    assert not any(process.is_running() for process in ranks)
    (stopped,) = runs_of(client)
    assert (stopped.info.status, stopped.data.tags["stop_reason"]) == (status, reason)
    output = (tmp_path / "output.txt").read_text(encoding="utf-8")
    assert "Traceback" not in output
    if victim == 1:
        assert f"rank 1 (pid {ranks[1].pid} on " in stopped.data.tags["error"]
        assert f"embedlab: {stopped.data.tags['error']}" in output
        assert f"-P resume={stopped.info.run_id}" in output

    with use_store(os.environ["MLFLOW_TRACKING_URI"]):
        finetune.main(words(TUNE | {"resume": stopped.info.run_id}))  # by one process
    resumed = runs_of(client)[-1]
    assert resumed.info.status == "FINISHED"
    losses = client.get_metric_history(resumed.info.run_id, "train/loss")
    assert [loss.step for loss in losses] == [1, 2, 3, 4]


@long
def test_image_runs_and_mlflow_run(client, tmp_path):
    """Two processes share the features, a whole training, and a fit under `mlflow run`."""
    run("extract_features", tmp_path, **IMAGES, epochs=2)
    shutil.rmtree(tmp_path / "cache" / "features")
    run("extract_features", tmp_path, **IMAGES, epochs=2, processes=2)
    one, two = runs_of(client)
    assert two.data.tags["features_cached"] == "False"
    for name in ("test/loss", "val/loss", "train/loss"):
        assert one.data.metrics[name] == two.data.metrics[name]

    for processes in (1, 2):
        run("finetune", tmp_path, **TUNE, processes=processes)
    one, two = runs_of(client)[-2:]
    for name in ("test/loss", "val/loss", "train/loss"):
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], rel=TUNED)

    options = [word for key, value in FIT.items() for word in ("-P", f"{key}={value}")]
    command = [
        "mlflow",
        "run",
        str(PROJECT),
        "-e",
        "fit_embedding",
        "--env-manager",
        "local",
        *options,
    ]
    subprocess.run([*command, "-P", "processes=2"], check=True)
    fit = runs_of(client)[-1]
    assert (fit.info.status, fit.data.params["processes"]) == ("FINISHED", "2")
    assert fit.data.tags["mlflow.project.entryPoint"] == "fit_embedding"


# -- several hosts --------------------------------------------------------------------------------


@contextmanager
def two_hosts() -> Iterator[list[tuple[str, str, str]]]:
    """Two network namespaces, joined by a virtual cable: (name, interface, address) of each."""
    if not shutil.which("ip"):
        pytest.skip("there is no `ip` (iproute2)")
    hosts = [(f"embedlab{i}", f"cable{i}", f"10.77.0.{i}") for i in (1, 2)]
    (a, cable_a, _), (b, cable_b, _) = hosts
    made = subprocess.run(["ip", "netns", "add", a], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"`ip netns add` does not work here: {made.stderr.strip()}")
    try:
        cable = f"link add {cable_a} netns {a} type veth peer name {cable_b} netns {b}"
        commands = [f"netns add {b}", cable]
        for name, interface, address in hosts:
            commands += [
                f"-n {name} addr add {address}/24 dev {interface}",
                f"-n {name} link set {interface} up",
                f"-n {name} link set lo up",
            ]
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield hosts
    finally:
        for name, *_ in hosts:
            subprocess.run(["ip", "netns", "del", name], check=False)


@long
@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize(
    ("name", "parameters", "metric"),
    [("fit_embedding", FIT, "train/cost"), ("finetune", TUNE, "train/loss")],
)
def test_torchrun_on_two_hosts_is_one_run_of_the_same_result(
    client, tmp_path, each, name, parameters, metric
):
    run(name, tmp_path, **parameters)
    with two_hosts() as hosts:
        (_, _, first_address), _ = hosts
        processes = []
        for i, (host, interface, address) in enumerate(hosts):
            # Both have the same host name, so each gets its address, and whether it is the host.
            where = f"--local-addr {address} --rdzv-endpoint {first_address}:29500"
            options = f"--nnodes 2 --nproc-per-node {each} --rdzv-backend c10d --rdzv-id 1 {where}"
            torchrun = f"torchrun {options} --rdzv-conf is_host={1 - i} -m entrypoints.{name}"
            command = ["ip", "netns", "exec", host, *torchrun.split(), *words(parameters)]
            of_host = {"GLOO_SOCKET_IFNAME": interface, "EMBEDLAB_CACHE": str(tmp_path / host)}
            processes.append(subprocess.Popen(command, env=os.environ | of_host))
        assert [process.wait(300) for process in processes] == [0, 0]
    one, two = runs_of(client)
    assert two.info.status == "FINISHED"
    assert two.data.params["processes"] == str(2 * each)
    values = [
        [m.value for m in client.get_metric_history(fit.info.run_id, metric)] for fit in (one, two)
    ]
    assert values[1] == pytest.approx(values[0], rel=TUNED)
