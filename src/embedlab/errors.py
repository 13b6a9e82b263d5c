"""The project's own errors.

The text of each is what a user reads: what was expected, what was found, what to do next.
Entry points print it as one line and exit with code 1; none of them shows a traceback.
"""


class EmbedlabError(Exception):
    """Anything that a user can put right: the text says how.

    `stop_reason` is the tag of a run that ends with it.
    """

    stop_reason = "error"


class OptionError(EmbedlabError):
    """A parameter is out of its range or not one of its choices."""


class DataError(EmbedlabError):
    """A file is missing, unreadable, or does not hold what it should."""


class DownloadError(EmbedlabError):
    """A file could not be fetched, or is not the one that was expected."""


class TitleError(EmbedlabError):
    """A title names no movie, or several; `candidates` holds the titles that may be meant."""

    def __init__(self, message: str, candidates: tuple[str, ...] = ()):
        super().__init__(message)
        self.candidates = candidates


class TrackingError(EmbedlabError):
    """The tracking store or the model registry cannot do what was asked."""


class ServerAwayError(TrackingError):
    """The tracking store did not come back in the time that a run waits for it."""


class LostProcessError(EmbedlabError):
    """Of several processes that work on one run, another has ended or cannot be reached."""

    stop_reason = "process_lost"


class RayError(EmbedlabError):
    """A Ray cluster is not there, or could not finish a fit."""


class DivergedError(EmbedlabError):
    """A fit's cost is no longer a finite number."""

    stop_reason = "diverged"
