"""Load a registered or logged model and ask it, as `mlflow models serve` would."""

import warnings

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from embedlab.errors import TitleError, TrackingError
from embedlab.tracking.store import first_line, store_address


def load_model(uri: str) -> mlflow.pyfunc.PyFuncModel:
    """Raises TrackingError where `uri` names no model, with what to do next."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mlflow.pyfunc.load_model(uri)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"model: '{uri}' cannot be loaded from {store_address()} ({first_line(error)}): "
            "fit and register one with `mlflow run . -e fit_embedding -P register=true`, or give "
            "model=runs:/<run id>/model."
        ) from None


def ask(model: mlflow.pyfunc.PyFuncModel, titles: list[str], params: dict) -> pd.DataFrame:
    """The model's answer, through the same door as a served request."""
    try:
        return model.predict(pd.DataFrame({"title": titles}), params=params)
    except MlflowException as error:
        raise TitleError(error.message) from None
