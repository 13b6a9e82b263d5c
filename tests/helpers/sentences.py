"""The text of an error, checked to be one sentence."""

import pytest


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?")), text
    return text
