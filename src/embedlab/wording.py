"""Counted nouns, as printed texts have them."""


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """`1 epoch`, `2 epochs`, `1,234 movies`; `plural` where it is not the noun and an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
