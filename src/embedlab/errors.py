"""The project's own errors.

The text of each is what a user reads: what was expected, what was found, what to do next.
Entry points print it as one line and exit with code 1; none of them shows a traceback.
"""

from embedlab_serving.errors import DataError, EmbedlabError, OptionError, TitleError

__all__ = [
    "DataError",
    "DivergedError",
    "DownloadError",
    "EmbedlabError",
    "LostProcessError",
    "MainProcessKilledError",
    "OptionError",
    "RayError",
    "ServerAwayError",
    "TitleError",
    "TrackingError",
]


class DownloadError(EmbedlabError):
    """A file could not be fetched, or is not the one that was expected."""


class TrackingError(EmbedlabError):
    """The tracking store or the model registry cannot do what was asked."""


class ServerAwayError(TrackingError):
    """The tracking store did not come back in the time that a run waits for it."""


class LostProcessError(EmbedlabError):
    """Of several processes that work on one run, another has ended or cannot be reached."""

    stop_reason = "process_lost"


class MainProcessKilledError(LostProcessError):
    """The process that had the run was killed by a signal; seen by the process that launched it."""


class RayError(EmbedlabError):
    """A Ray cluster is not there, or could not finish a fit."""


class DivergedError(EmbedlabError):
    """A fit's cost is no longer a finite number."""

    stop_reason = "diverged"
