"""The project's own errors.

The text says what was expected, what was found, what to do next. Entry points print it as one line
and exit with code 1, without a traceback.
"""

from embedlab_serving.errors import DataError as DataError
from embedlab_serving.errors import EmbedlabError as EmbedlabError
from embedlab_serving.errors import OptionError as OptionError
from embedlab_serving.errors import TitleError as TitleError


class DownloadError(EmbedlabError):
    """A file could not be fetched, or is not the one that was expected."""


class TrackingError(EmbedlabError):
    """The tracking store or the model registry cannot do what was asked."""


class StoreUnavailableError(TrackingError):
    """The tracking store was unavailable for longer than a run waits for it."""


class LostProcessError(EmbedlabError):
    """Another rank has ended or cannot be reached."""

    stop_reason = "process_lost"


class MainProcessKilledError(LostProcessError):
    """Rank 0 was killed by a signal; raised in the process that launched it."""


class RayError(EmbedlabError):
    """A Ray cluster is unavailable, or could not finish a fit."""


class TaskFailedError(RayError):
    """One fit on a Ray cluster failed; other fits may succeed."""


class DivergedError(EmbedlabError):
    """A cost or loss is not finite or has grown far too large, or vectors cannot be served."""

    stop_reason = "diverged"
