"""Parameters that conflict with those of a matrix or a resumed run."""

from collections.abc import Mapping

from embedlab.errors import OptionError
from embedlab.formatting import value_as_text


def refuse_conflicts(
    source: str, recorded: Mapping[str, object], non_default: Mapping[str, object]
) -> None:
    """Raises OptionError if `source` has recorded another value of one of these parameters."""
    for name, value in non_default.items():
        if name in recorded and recorded[name] != value:
            raise OptionError(
                f"{name}: expected {value_as_text(recorded[name])}, the value in {source}, got "
                f"{value_as_text(value)}: leave {name} out, or leave {source} out"
            )
