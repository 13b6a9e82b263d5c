"""How a served model refuses: part of every served model's own copy of the code."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from embedlab_serving.errors import EmbedlabError


@contextmanager
def map_errors() -> Iterator[None]:
    """Raises MlflowException: INVALID_PARAMETER_VALUE (400) with one sentence for what the caller
    can put right, INTERNAL_ERROR (500) without any inner detail for everything else."""
    try:
        yield
    except EmbedlabError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
    except Exception:
        logging.getLogger(__name__).exception("prediction failed")
        message = "the model failed on this request; the server's log says why"
        raise MlflowException(message, error_code=INTERNAL_ERROR) from None
