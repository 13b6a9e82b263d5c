"""Fixtures that test files share: own caches and stores, free ports, and the real data sets."""

import gc
import os
import socket
import sqlite3
import sys
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, chdir, closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

if TYPE_CHECKING:
    import mlflow

PROJECT = Path(__file__).resolve().parents[1]

# Tests that take minutes; the short tests of the same file cover most of what they check.
long = pytest.mark.skipif(not os.environ.get("EMBEDLAB_LONG_TESTS"), reason="EMBEDLAB_LONG_TESTS")

# The slowest files, which begin first so that no worker waits for another at the end.
LONGEST = (
    "test_entry_points", "test_team_server", "test_same_seed", "test_sweep", "test_degenerate",
    "test_trainer", "test_real_images", "test_distributed", "test_damaged_models",
    "test_weighting", "test_real_ratings", "test_lifecycle", "test_outage", "test_image_model",
    "test_movie_model", "test_older_models", "test_backbone_families",
    "test_concurrent_registration", "test_faults", "test_report", "test_environments",
)  # fmt: skip

# No test uses the network, or a store or cache that another run left behind.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers with several threads each would compete for cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MATPLOTLIBRC"] = str(PROJECT / "tests/matplotlibrc")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# Python writes bytecode, as by default, also in containers that turn that off: no test passes only
# because a model's folder has no bytecode there.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Collect garbage as entry points do, and not among the modules that are imported now."""
    # Not at the top: `python -m tests.kill` imports this file without the project's `src`.
    from embedlab.cli.parser import NEW_OBJECTS_PER_COLLECTION

    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_PER_COLLECTION)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_files(tmp_path_factory) -> Iterator[None]:
    """What MLflow and killed processes leave among temporary files is removed after the tests."""
    tmp_path_factory.getbasetemp()  # before: files of tests that failed are kept
    with (
        TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, TMPDIR=folder),
        patch("tempfile.tempdir", folder),
    ):
        yield


@pytest.fixture(autouse=True)
def own_cache(monkeypatch) -> Iterator[None]:
    """Every test starts with an empty cache."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("EMBEDLAB_CACHE", folder)
        yield


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch):
    """Every test has its own `sys.path`: MLflow adds the code of each model that it loads, and then
    searches all of these folders for each package that is not installed."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def fresh_store(folder: Path) -> Iterator["mlflow.MlflowClient"]:
    """Use an empty store in `folder` in the block, with its artifacts there. Yields its client."""
    import mlflow  # not at the top: it reads the environment set above

    with chdir(folder), use_store(empty_store(folder / "mlflow.db")):
        yield mlflow.MlflowClient()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The client of an empty store, which the tests of one file share."""
    with fresh_store(tmp_path_factory.mktemp("store")) as client:
        yield client


@pytest.fixture
def experiment(store, request) -> str:
    """The id of a new experiment, named after the test."""
    return store.create_experiment(request.node.name)


def empty_store(file: Path) -> str:
    """Make an empty store with artifacts beside it, unless `file` exists. Returns its URI."""
    if not file.exists():
        file.write_bytes(_content_of_an_empty_store())
        with closing(sqlite3.connect(file)) as connection, connection:
            location = f"{file.parent}/mlruns/0"
            connection.execute("UPDATE experiments SET artifact_location = ?", [location])
    return f"sqlite:///{file}"


@cache
def _content_of_an_empty_store() -> bytes:
    """The bytes of an empty SQLite store, made once: MLflow takes seconds to make the tables."""
    import mlflow

    with TemporaryDirectory() as folder, use_store(f"sqlite:///{folder}/mlflow.db"):
        mlflow.search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


@contextmanager
def use_store(uri: str) -> Iterator[None]:
    """Use this store in the block, with MLflow in the state of a new process; blocks may nest."""
    import mlflow

    with patch.dict(os.environ), no_experiment_chosen():
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)


def no_experiment_chosen() -> AbstractContextManager[object]:
    """Undo `mlflow.set_experiment` until the block ends: MLflow has no public way to do that, so
    this is the one place that names its variable."""
    from mlflow.tracking import fluent

    return patch.object(fluent, "_active_experiment_id", None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: $EMBEDLAB_DATA, or `../shared/data` beside the project."""
    for candidate in (os.environ.get("EMBEDLAB_DATA"), PROJECT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip("real data: neither $EMBEDLAB_DATA nor ../shared/data is there")


@pytest.fixture(scope="session")
def real_movielens(real_data) -> Path:
    """The folder of the real ml-latest-small, or a skip with the reason."""
    folder = real_data / "ml-latest-small"
    if not folder.is_dir():
        pytest.skip(f"real data: there is no ml-latest-small in {real_data}")
    return folder


@pytest.fixture(scope="session")
def real_images(real_data, tmp_path_factory) -> Path:
    """A folder of real CIFAR-10 images, 150 of each class to train and 50 to test, or a skip."""
    archive = real_data / "cifar10-jpeg.zip"
    if not archive.is_file():
        pytest.skip(f"real data: there is no cifar10-jpeg.zip in {real_data}")
    folder = tmp_path_factory.mktemp("pictures")
    with zipfile.ZipFile(archive) as images:
        names: dict[str, list[str]] = {}
        for name in sorted(images.namelist()):
            if name.endswith(".jpg"):
                names.setdefault(name.rpartition("/")[0], []).append(name)
        for part, of_part in names.items():
            images.extractall(folder, of_part[: 150 if "/train/" in part else 50])
    return folder / "cifar10"


@pytest.fixture(scope="session")
def real_weights(real_data) -> Path:
    """A real ImageNet ResNet-18 as a state dict, or a skip with the reason."""
    files = sorted((real_data / "weights").glob("resnet18*.pth"))
    if not files:
        pytest.skip(f"real data: there is no weights/resnet18*.pth in {real_data}")
    return files[0]
