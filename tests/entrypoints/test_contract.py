"""What users type and see stays, unless somebody changes it on purpose."""

import json

import contract
import pytest

pytestmark = pytest.mark.slow


def test_what_users_type_and_see_is_what_the_contract_says():
    """After a change on purpose: a line in CHANGELOG.md, and `python tests/contract.py`."""
    expected = json.loads(contract.FILE.read_text(encoding="utf-8"))
    found = contract.contract()
    assert found["entry_points"] == expected["entry_points"]
    assert found["environment"] == expected["environment"]
    assert found["runs"].keys() == expected["runs"].keys()
    for name, contents in expected["runs"].items():
        assert found["runs"][name] == contents, name
