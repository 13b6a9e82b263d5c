"""Maps errors to HTTP 400 and 500, for a served model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from embedlab_serving.errors import EmbedlabError


@contextmanager
def map_errors() -> Iterator[None]:
    """Turn errors raised inside the block into MlflowException.

    An EmbedlabError becomes INVALID_PARAMETER_VALUE (400) with its own sentence, every other error
    INTERNAL_ERROR (500) without any internal detail.
    """
    try:
        yield
    except EmbedlabError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
    except Exception:
        logging.getLogger(__name__).exception("prediction failed")
        message = "the model failed on this request; the server's log says why"
        raise MlflowException(message, error_code=INTERNAL_ERROR) from None
