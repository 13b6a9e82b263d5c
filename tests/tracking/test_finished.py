"""Reading what finished runs have logged."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from embedlab.tracking.finished import download_artifact

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


def test_what_was_downloaded_is_still_there_when_a_fork_has_ended(tmp_path):
    (tmp_path / "kept.txt").write_text("kept", encoding="utf-8")
    copy = download_artifact((tmp_path / "kept.txt").as_uri())
    fork = multiprocessing.get_context("fork").Process(target=int)
    fork.start()
    fork.join()
    assert copy.read_text(encoding="utf-8") == "kept"
