"""Counts, values, costs, durations, errors and file names, as printed text."""

import math
import re

# Python decodes a byte 0xNN of a name that is not UTF-8 to the surrogate U+DCNN (PEP 383).
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
FAR_GAP = 1.0  # from here on a multiple is easier to read than a percentage


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 epoch`, `1,234 movies`; `plural` if it is not the noun plus s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def value_as_text(value: object) -> str:
    """A value as it is written on the command line: `true`, `64,96`, `0.01`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def cost_as_text(cost: float) -> str:
    """A cost as text: `733,625`; three digits below 100 (`24.4`, weighted likes) and from 10^15."""
    return f"{cost:,.0f}" if 100 <= abs(cost) < 1e15 else f"{cost:.3g}"


def score_as_text(score: float) -> str:
    """An inner product as text: `145.3`; three digits below 10 (`0.0123`, weighted likes)."""
    return f"{score:.1f}" if abs(score) >= 10 else f"{score:.3g}"


def gap_as_text(gap: float) -> str:
    """A gap as a phrase, to be followed by the reference: `0.03% above` or `21 times`."""
    if gap < FAR_GAP:
        return f"{gap:z.2%} above"
    return f"{cost_as_text(gap + 1) if gap >= 99 else f'{gap + 1:.3g}'} times"


def signed_gap_as_text(gap: float) -> str:
    """A gap as a label: `+0.03%` or `+523%`; nan is `diverged`."""
    if math.isnan(gap):
        return "diverged"
    return f"{gap:+z.2%}" if gap < FAR_GAP else f"+{percent(gap)}"


def percent(share: float) -> str:
    """A fraction as a percentage: `0.01%`, `523%`, `12,000%`, `3.1e+08%`."""
    return f"{100 * share:,.0f}%" if 1 <= share < 1e6 else f"{100 * share:.2g}%"


def escape_markdown(text: str) -> str:
    """The text escaped for Markdown, so that `M*A*S*H` is not emphasis."""
    return re.sub(r"([\\*_`\[\]<>])", r"\\\1", text)


def first_line(error: BaseException) -> str:
    """The first line of the error's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shortened(text: str, length: int = 36) -> str:
    """The text, cut to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def duration(seconds: float) -> str:
    """A duration as people write it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def printable(name: str) -> str:
    r"""A file's name, with `\xNN` for bytes that are not UTF-8 and for control characters."""
    return UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)
