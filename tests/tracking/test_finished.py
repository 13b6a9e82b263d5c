"""Reading what finished runs have logged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

pytestmark = pytest.mark.slow


def test_what_was_downloaded_is_gone_when_the_process_has_ended(tmp_path):
    code = (
        "from pathlib import Path; from embedlab.tracking.finished import download_artifact; "
        "copy = download_artifact(Path('kept.txt').resolve().as_uri()); "
        "print(copy, copy.read_text())"
    )
    (tmp_path / "kept.txt").write_text("kept", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    copy, text = ran.stdout.split()
    assert text == "kept"
    assert not Path(copy).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
