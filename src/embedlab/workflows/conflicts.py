"""Parameters that conflict with those of a matrix or a resumed run."""

from collections.abc import Mapping

from embedlab.errors import OptionError
from embedlab.formatting import value_as_text


def refuse_conflicts(source: str, own: Mapping[str, object], changed: Mapping[str, object]) -> None:
    """Raises OptionError if a parameter was given a value other than that of `source`."""
    for name, value in changed.items():
        if name in own and own[name] != value:
            raise OptionError(
                f"{name}: expected {value_as_text(own[name])}, the value in {source}, got "
                f"{value_as_text(value)}: leave {name} out, or leave {source} out"
            )
