"""What users type stays, unless somebody changes it on purpose.

`test_same_seed` holds what they see to the same contract.
"""

import json

import contract


def test_what_users_type_is_what_the_contract_says():
    """After a change on purpose: a line in CHANGELOG.md, and `python tests/contract.py`."""
    expected = json.loads(contract.FILE.read_text(encoding="utf-8"))
    assert contract.entry_points() == expected["entry_points"]
    assert contract.environment_variables() == expected["environment"]
