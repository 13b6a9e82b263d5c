"""Log a model that MLflow can serve: code and arrays, no pickle, pinned requirements.

The code of `embedlab_serving` is stored in the model under a name that contains its digest, so that
models of several versions of this project can be loaded in one process, and each runs the code that
it was logged with.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import mlflow
import pandas as pd

from embedlab.errors import TrackingError
from embedlab.tracking.finished import download_artifact
from embedlab.tracking.offline.retry import outage_reason
from embedlab.tracking.project import PROJECT_ROOT
from embedlab.tracking.store import safe_first_line
from embedlab.tracking.tracked_run import TrackedRun
from embedlab_serving.digests import DIGESTS, digests_of

SERVING_PACKAGE = "embedlab_serving"
# The packages that every model needs. MLflow's server uses httptools and uvloop if they are
# installed, and then answers faster (docs/serving.md).
SERVER_PACKAGES = ("mlflow", "httptools", "uvloop", "numpy", "pandas")


def log_model(
    run: TrackedRun,
    module: ModuleType,
    write: Callable[[Path], None],
    packages: tuple[str, ...],
    example: tuple[pd.DataFrame, dict],
    about: Mapping[str, object],
) -> str:
    """Log a model whose code is `module`, and its files as the run's artifacts; returns its URI.

    module    a module of `embedlab_serving` that defines ARTIFACT and SIGNATURE.
    write     writes the model's files into a folder.
    packages  names in requirements.txt of the packages that the model needs.
    example   a request: table and parameters.
    about     the model's metadata.
    """
    with TemporaryDirectory() as temporary:
        package = _copy_of_serving(Path(temporary))
        folder = Path(temporary, module.ARTIFACT)
        folder.mkdir()
        write(folder)
        run.log_folder(folder, module.ARTIFACT)
        script = package / Path(str(module.__file__)).name
        files = {script.name: script}  # as MLflow lays them out
        files |= {f"code/{package.name}/{path.name}": path for path in package.iterdir()}
        files |= {f"artifacts/{folder.name}/{path.name}": path for path in folder.iterdir()}
        log = partial(
            mlflow.pyfunc.log_model,
            name="model",
            python_model=str(script),
            artifacts={module.ARTIFACT: str(folder)},
            code_paths=[str(package)],
            signature=module.SIGNATURE,
            input_example=example,
            pip_requirements=pinned(packages),
            metadata={**about, DIGESTS: digests_of(files)},
        )
        with _importable(package):
            return run.call_online(log).model_uri


def _copy_of_serving(folder: Path) -> Path:
    """Copy the package as `embedlab_serving_<digest>`, with its imports rewritten to that name."""
    paths = sorted((PROJECT_ROOT / "src" / SERVING_PACKAGE).glob("*.py"))
    sources = {path.name: path.read_text(encoding="utf-8") for path in paths}
    digest = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()
    package = folder / f"{SERVING_PACKAGE}_{digest[:12]}"
    package.mkdir()
    for name, source in sources.items():
        (package / name).write_text(source.replace(SERVING_PACKAGE, package.name), encoding="utf-8")
    return package


@contextmanager
def _importable(package: Path) -> Iterator[None]:
    """Make the package importable in the block: MLflow runs a model's code when it logs it.

    No bytecode is written in the block, because MLflow would log it with the model.
    """
    forget_model_code()
    sys.path.insert(0, str(package.parent))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(package.parent))
        forget_model_code()


def forget_model_code() -> None:
    """Forget imported model code, so that the next model imports its code from its own folder.

    The folder that the modules in memory came from may be gone. Loaded models keep their code.
    """
    for name in [name for name in sys.modules if name.startswith(f"{SERVING_PACKAGE}_")]:
        del sys.modules[name]


def check_answers_its_example(model_uri: str) -> None:
    """Load a logged model and query it with its own input example.

    Raises TrackingError if either fails, because the model is then of no use.
    """
    forget_model_code()
    try:
        folder = str(download_artifact(model_uri))
        loaded = mlflow.pyfunc.load_model(folder, suppress_warnings=True)  # of this environment
        params = loaded.metadata.load_input_example_params(folder)
        loaded.predict(loaded.input_example, params)
    except Exception as error:  # a model and its loader can raise anything
        if outage_reason(error) is not None:
            raise
        raise TrackingError(
            f"the model {model_uri} does not answer its own input example "
            f"({safe_first_line(error)}): it is logged, but was not registered."
        ) from error


def pinned(packages: tuple[str, ...]) -> list[str]:
    """The lines of `requirements.txt` for these packages."""
    lines = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0]: line.split("#")[0].strip() for line in lines}
    return [pins[package] for package in packages]
