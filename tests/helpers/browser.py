"""Headless Chromium: open a page as MLflow's artifact viewer does, and run a script in it.

In: the text of a page and JavaScript whose last value is to be read. Out: that value, or a failure
with what the console said.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (on Debian: apt install chromium)"
)
# No process for the frame, because Chromium's virtual time would not wait for it.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,900",
    "--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom",
    "--disable-site-isolation-trials", "--disable-features=IsolateSandboxedIframes",
)  # fmt: skip
# MLflow's viewer shows an artifact in a frame like this one.
VIEWER = """<!doctype html><body>
<script>onmessage = (event) => {{ const answer = document.createElement("output");
answer.textContent = event.data; document.body.replaceChildren(answer); }}</script>
<iframe sandbox="allow-scripts" width="1400" height="860" srcdoc="{page}"></iframe></body>"""
RUN = """<script>(async () => {{
let answer; try {{ answer = {{value: await (async () => {{ {script} }})()}}; }}
catch (error) {{ answer = {{error: String(error)}}; }}
parent.postMessage(JSON.stringify(answer), "*"); }})();</script></body>"""


def run_in_page(page: str, script: str, folder: Path) -> object:
    """Run `script`, the body of an async function, in the page, and return its result.

    An error on the page's console fails the test.

    folder  an empty folder for the files that Chromium needs.
    """
    with_script = page.replace("</body>", RUN.format(script=script))
    file = folder / "viewer.html"
    file.write_text(VIEWER.format(page=html.escape(with_script)), encoding="utf-8")
    assert CHROMIUM
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    assert console == [], "\n".join(console)
    output = re.search("<output>(.*?)</output>", ended.stdout, re.DOTALL)
    assert output, ended.stdout[-500:] + ended.stderr[-1000:]
    answer = json.loads(html.unescape(output[1]))
    assert "error" not in answer, answer
    return answer["value"]
