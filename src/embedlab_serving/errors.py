"""The errors of served models, which `embedlab.errors` extends."""


class EmbedlabError(Exception):
    """An error that a user can put right: the text says how.

    stop_reason  value of the tag `stop_reason` of a run that ends with this error.
    """

    stop_reason = "error"


class OptionError(EmbedlabError):
    """A parameter is out of its range or not one of its choices."""


class DataError(EmbedlabError):
    """A file is missing, unreadable, or does not hold what it should."""


class TitleError(EmbedlabError):
    """A title names no movie, or several.

    candidates  titles that may be meant.
    """

    def __init__(self, message: str, candidates: tuple[str, ...] = ()):
        super().__init__(message)
        self.candidates = candidates
