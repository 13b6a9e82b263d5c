"""Load a registered or logged movie embedding and query it, as `mlflow models serve` would."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.model import MODEL_CODE_PATH

from embedlab.errors import TitleError, TrackingError
from embedlab.tracking.finished import download_artifact
from embedlab.tracking.model_logging import forget_model_code
from embedlab.tracking.project import command
from embedlab.tracking.store import safe_first_line, store_address
from embedlab_serving.movie_model import COLUMNS, SIGNATURE

MODEL_HINT = "give one that fit_embedding has logged, such as models:/movie-embedding@champion."


def load_model(uri: str) -> PyFuncModel:
    """Load a movie embedding.

    Raises TrackingError if `uri` names no model, another kind of model or a damaged one. Code of
    another kind of model is not run, and no pickle is read.
    """
    try:
        with warnings.catch_warnings(), _without_own_modules():
            warnings.simplefilter("ignore")
            _check_kind(uri, mlflow.models.get_model_info(uri))
            # MLflow's check of the installed packages takes a second; the model needs few of them.
            return mlflow.pyfunc.load_model(str(download_artifact(uri)), suppress_warnings=True)
    except TrackingError:
        raise
    except Exception as error:  # a damaged model can raise anything, in MLflow or in its own code
        raise TrackingError(
            f"model: '{uri}' cannot be loaded from {store_address()} ({_reason(error)}): "
            f"fit and register one with `{command('fit_embedding', register=True)}`, or give "
            "model=runs:/<run id>/model."
        ) from error


@contextmanager
def _without_own_modules() -> Iterator[None]:
    """Hide this process's `embedlab` inside the block, so that an import finds a model's own copy.

    Models of version 0.1 hold such a copy, and would find this process's package instead.
    """
    forget_model_code()
    own = _pop_modules()
    try:
        yield
    finally:
        _pop_modules()
        sys.modules.update(own)


def _pop_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "embedlab"]
    return {name: sys.modules.pop(name) for name in names}


def _check_kind(uri: str, info: ModelInfo) -> None:
    wanted = _columns(SIGNATURE)
    if MODEL_CODE_PATH not in info.flavors.get("python_function", {}):
        found = "is not an MLflow model from code"
    elif info.signature is None:
        found = "does not say what it takes"
    elif (found := _columns(info.signature)) == wanted:
        return
    raise TrackingError(
        f"model: expected a movie embedding, which {wanted}, but '{uri}' {found}: {MODEL_HINT}"
    )


def _columns(signature: ModelSignature) -> str:
    """What a model takes and gives, as a phrase: `takes title and gives query, rank`."""
    names = [
        ", ".join(map(str, schema.input_names())) if schema else "nothing"
        for schema in (signature.inputs, signature.outputs)
    ]
    return f"takes {names[0]} and gives {names[1]}"


def query(model: PyFuncModel, titles: list[str], params: dict) -> pd.DataFrame:
    """The model's answer, one row per recommendation, by the same call as a served request.

    Raises TitleError if the model refuses the request, TrackingError if it fails.
    """
    try:
        answer = model.predict(pd.DataFrame({"title": titles}), params=params)
    except Exception as error:
        if isinstance(error, MlflowException) and error.error_code != "INTERNAL_ERROR":
            raise TitleError(error.message) from None
        raise TrackingError(
            f"model: its prediction failed ({_reason(error)}): {MODEL_HINT}"
        ) from error
    if not isinstance(answer, pd.DataFrame) or list(answer.columns) != COLUMNS:
        raise TrackingError(
            f"model: expected an answer of {', '.join(COLUMNS)}, but found another: {MODEL_HINT}"
        )
    return answer


def _reason(error: Exception) -> str:
    # EmbedlabError of this process, or of the model's own copy of the code, has a stop reason.
    message = safe_first_line(error)
    is_a_sentence = isinstance(error, MlflowException | OSError) or hasattr(error, "stop_reason")
    return message if is_a_sentence else f"{type(error).__name__}: {message}"
