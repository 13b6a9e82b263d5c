"""The README's screenshots and the figures of docs/optimizers.md, made again: `make screenshots`.

    python docs/screenshots.py --ratings ml-latest-small

Fits the exact embedding and the published grid into a store of its own, and lets headless Chromium
(Debian's `chromium`) show the movie explorer, the lists by epoch and the MLflow UI's charts.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from PIL import Image

DOCS = Path(__file__).parent
PORT = 5907
SIZE = (1440, 900)
SECONDS_TO_START = 120
FIGURES = ("best", "gap", "overlap", "overlap_by_gap")  # of docs/optimizers.md
MOVIE = "Toy Story (1995)"
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def run(folder: Path, entry_point: str, **parameters: object) -> str:
    """What the entry point prints; artifacts are kept in `folder`, where it is started."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    command = [sys.executable, "-m", f"entrypoints.{entry_point}", *flags]
    ended = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return ended.stdout


@contextmanager
def mlflow_ui(store: str) -> Iterator[None]:
    """The MLflow UI on PORT until the block ends."""
    options = ["--backend-store-uri", store, "--port", str(PORT)]
    command = [sys.executable, "-m", "mlflow", "ui", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(SECONDS_TO_START):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health").close()
                break
            except OSError:
                time.sleep(1)
        else:
            sys.exit(f"screenshots: the MLflow UI did not start in {SECONDS_TO_START} s")
        yield
    finally:
        server.terminate()
        server.wait()


def take(address: str, name: str, folder: Path, milliseconds: int, width: int = SIZE[0]) -> None:
    """The left `width` pixels of the page, when it had so much time to draw, as
    `figures/<name>.jpg`."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("screenshots: chromium is not installed (on Debian: apt install chromium)")
    shot = folder / f"{name}.png"
    options = [*OPTIONS, f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={shot}"]
    options += [f"--virtual-time-budget={milliseconds}", f"--user-data-dir={folder / 'profile'}"]
    subprocess.run([chromium, *options, address], check=True, capture_output=True)
    with Image.open(shot) as image:
        image.convert("RGB").crop((0, 0, width, SIZE[1])).save(
            DOCS / "figures" / f"{name}.jpg", quality=85
        )
    print(f"docs/figures/{name}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratings", default="ml-latest-small", help="as of the entry points")
    ratings = parser.parse_args().ratings
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = f"sqlite:///{folder}/mlflow.db"
        os.environ |= {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "embedlab"}
        os.environ["PYTHONPATH"] = str(DOCS.parent)
        fitted = run(folder, "fit_embedding", ratings=ratings, optimizer="exact")
        page = re.search(r"Walk through the movies: (\S+)", fitted)
        assert page, fitted
        explorer = Path(page[1]).as_uri()
        take(f"{explorer}#{quote(MOVIE)}", "explorer", folder, 5_000)
        compared = run(folder, "compare_optimizers", ratings=ratings)
        page = re.search(r"Watch the lists converge: (\S+)", compared)
        assert page, compared
        take(Path(page[1]).as_uri(), "compare", folder, 3_000)
        for figure in FIGURES:
            shutil.copy(Path(page[1]).parent / "figures" / f"{figure}.png", DOCS / "figures")
        *_, charts = re.findall(r"Open\s+http://[^/]+/(\S+)", compared)
        with mlflow_ui(store):
            # Without the assistant that MLflow opens on the right.
            take(f"http://127.0.0.1:{PORT}/{charts}", "charts", folder, 30_000, width=1068)


if __name__ == "__main__":
    main()
