"""What users type changes only on purpose.

`test_same_seed` compares what they see with the same contract.
"""

import json

import contract


def test_what_users_type_is_what_the_contract_says():
    """After an intended change, run `python tests/contract.py` and edit CHANGELOG.md."""
    expected = json.loads(contract.FILE.read_text(encoding="utf-8"))
    assert contract.entry_points() == expected["entry_points"]
    assert contract.environment_variables() == expected["environment"]
