"""Load test of both models behind `mlflow models serve` with two workers.

python -m benchmarks.serving [--requests 50000] [--clients 8]

A separate process sends the requests. The models are small, are trained on the built-in samples,
and are in a temporary store. Each model gets two rounds: valid requests, then valid requests mixed
with malformed, oversized and slow ones. Every answer is compared with the model's own, every
refusal with its expected status, and both are searched for a stack trace or a path. The servers'
memory is sampled every 0.5 s.
"""

import argparse
import base64
import io
import json
import math
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
import requests

from benchmarks.startup import PROJECT
from benchmarks.timing import print_table

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

HEADINGS = (
    "model", "round", "requests", "per second", "p50 ms", "p99 ms", "wrong",
    "MiB, first to last tenth",
)  # fmt: skip
JSON = {"Content-Type": "application/json"}
SHARE_OF_BAD = 0.3
# A stack trace, or an absolute path of two or more parts, but not the base64 of a JPEG (/9j/…).
LEAK = re.compile(r'Traceback|File "|(?<![\w./])/(?!9j/)[\w.-]+/[\w.-]|site-packages|mlruns')

Body = tuple[bytes, int, str | None]  # request, expected status, expected answer if that is 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="requests per round and model")
    parser.add_argument("--clients", type=int, default=8, help="concurrent clients")
    args = parser.parse_args()
    rows = []
    is_fine = True
    with TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        os.environ |= {"MLFLOW_TRACKING_URI": store, "EMBEDLAB_CACHE": f"{folder}/cache"}
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for kind in (movie_bodies, image_bodies):
            name, good, bad = kind(Path(folder))
            with Server(name, Path(folder)) as server:
                for round_, mixed_in in (("right", []), ("mixed", bad)):
                    result = server.load(good, mixed_in, args.requests, args.clients)
                    rows.append([name, round_, *result.cells()])
                    is_fine &= not result.wrong
                    for said, n in result.wrong.most_common(5):
                        print(f"{name}, {round_}: {n} × {said}")
    print_table("mlflow models serve, 2 workers", HEADINGS, rows, n_names=2)
    sys.exit(0 if is_fine else 1)


def run(folder: Path, entry_point: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", f"entrypoints.{entry_point}", "--register", "true", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{PROJECT}"},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def load_model(name: str) -> "PyFuncModel":
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/{name}@champion")


def ask(column: str, value: object, **params: object) -> bytes:
    return json.dumps({"dataframe_records": [{column: value}], "params": params}).encode()


def answered(model: "PyFuncModel", column: str, value: object, **params: object) -> Body:
    """A valid request, and the model's own answer as the server would write it."""
    import pandas as pd

    answer = model.predict(pd.DataFrame({column: [value]}), params=params)
    assert isinstance(answer, pd.DataFrame)
    return ask(column, value, **params), 200, answer.to_json(orient="records", double_precision=12)


def refused(bodies: list[bytes]) -> list[Body]:
    """Requests that must get the status 400."""
    return [(body, 400, None) for body in bodies]


def movie_bodies(folder: Path) -> tuple[str, list[Body], list[Body]]:
    run(folder, "fit_embedding", "--ratings", "sample", "--optimizer", "exact", "--dim", "20")
    model = load_model("movie-embedding")
    titles = list(model.unwrap_python_model().titles.titles)
    good = [answered(model, "title", title, k=k) for title in titles for k in (3, 10)]
    many = {"dataframe_records": [{"title": "Toy Story"}] * 2_000}
    bad = [
        b"{not json",
        b"[]",
        ask("title", "no such movie at all"),
        ask("film", "Toy Story"),
        ask("title", "Toy Story", k=0),
        ask("title", "Toy Story", k=10**9),
        ask("title", "Toy Story", score="best"),
        ask("title", "x" * 2_000_000),
        json.dumps(many).encode(),
    ]
    return "movie-embedding", good, refused(bad)


def image_bodies(folder: Path) -> tuple[str, list[Body], list[Body]]:
    import numpy as np
    from PIL import Image

    options = ["--weights", "none", "--resolution", "32", "--train-limit", "500"]
    run(folder, "extract_features", "--dataset", "sample", *options)
    model = load_model("image-classifier")
    rng = np.random.default_rng(0)
    good = []
    for kind in ("png", "jpeg"):
        for _ in range(20):
            image = io.BytesIO()
            pixels = rng.integers(0, 255, (*rng.integers(8, 64, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, kind)
            text = base64.b64encode(image.getvalue()).decode()
            good.append(answered(model, "image", text, k=3))
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "png")
    bad = [
        b"{not json",
        ask("image", "no base64!"),
        ask("image", base64.b64encode(b"no image").decode()),
        ask("image", base64.b64encode(image.getvalue()[:200]).decode()),
        ask("image", base64.b64encode(huge.getvalue()).decode()),
        ask("image", "A" * 40_000_000),
        ask("image", text, k=0),
        ask("picture", text),
    ]
    return "image-classifier", good, refused(bad)


@dataclass
class Result:
    """Result of a round: seconds per valid request, faults, wall time, memory samples in MiB."""

    seconds: list[float]
    wrong: Counter[str]
    wall: float
    memory: list[float]

    def cells(self) -> list[str]:
        ordered = sorted(self.seconds)
        tenth = max(1, len(self.memory) // 10)
        first, last = (statistics.mean(p) for p in (self.memory[:tenth], self.memory[-tenth:]))
        return [
            f"{len(ordered):,}",
            f"{len(ordered) / self.wall:,.0f}",
            f"{1000 * ordered[len(ordered) // 2]:,.1f}",
            f"{1000 * ordered[len(ordered) * 99 // 100]:,.1f}",
            f"{sum(self.wrong.values()):,}",
            f"{first:,.0f} to {last:,.0f}",
        ]


class Server:
    """`mlflow models serve` with two workers, in a process group of its own."""

    def __init__(self, name: str, folder: Path):
        self.command = ["mlflow", "models", "serve", "-m", f"models:/{name}@champion"]
        self.log = folder / f"{name}.log"

    def __enter__(self) -> "Server":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [*self.command, *options, "--workers", "2"],
                cwd=self.log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            try:
                requests.get(f"{self.url}/ping", timeout=5).raise_for_status()
                return self
            except requests.RequestException:
                time.sleep(0.2)
        raise SystemExit(f"the server did not start:\n{self.log.read_text()}")

    def __exit__(self, *error: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=30)

    def memory(self) -> float:
        """Resident memory of all processes of the server, in MiB."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        return sum(process.memory_info().rss for process in family) / 2**20

    def load(self, good: list[Body], bad: list[Body], n_requests: int, n_clients: int) -> Result:
        self._round(good, bad, min(n_requests, 500), n_clients)  # warms up
        return self._round(good, bad, n_requests, n_clients)

    def _round(self, good: list[Body], bad: list[Body], n: int, n_clients: int) -> Result:
        memory = []
        context = get_context("spawn")
        with context.Pool(1) as other_process:
            task = (self.url, good, bad, n, n_clients)
            started = time.perf_counter()
            waiting = other_process.apply_async(send_all, task)
            while not waiting.ready():
                memory.append(self.memory())
                waiting.wait(0.5)
            seconds, wrong = waiting.get()
            wall = time.perf_counter() - started
        return Result(seconds, wrong, wall, memory)


def send_all(
    url: str, good: list[Body], bad: list[Body], n: int, n_clients: int
) -> tuple[list[float], Counter]:
    """Send `n` requests from `n_clients` threads.

    Returns the seconds of the valid requests, and the faults in words, counted.
    """
    shares = [n // n_clients + (i < n % n_clients) for i in range(n_clients)]
    with ThreadPoolExecutor(n_clients + 1) as pool:
        if bad:
            pool.submit(send_slowly, url, good[0][0])
        work = (pool.submit(send_some, url, good, bad, k, i) for i, k in enumerate(shares))
        results = [future.result() for future in list(work)]
    seconds = [s for of_client, _ in results for s in of_client]
    return seconds, sum((wrong for _, wrong in results), Counter())


def send_some(
    url: str, good: list[Body], bad: list[Body], n: int, seed: int
) -> tuple[list[float], Counter]:
    draw, seconds = random.Random(seed), []
    wrong: Counter[str] = Counter()
    session = requests.Session()
    for _ in range(n):
        is_bad = bool(bad) and draw.random() < SHARE_OF_BAD
        body, status, expected = draw.choice(bad if is_bad else good)
        started = time.perf_counter()
        answer = session.post(f"{url}/invocations", data=body, headers=JSON, timeout=120)
        if not is_bad:
            seconds.append(time.perf_counter() - started)
        said = what_is_wrong(answer, status, expected)
        if said:
            wrong[said] += 1
    return seconds, wrong


def what_is_wrong(answer: requests.Response, status: int, expected: str | None) -> str:
    """What is wrong with an answer, in words; empty if it is right."""
    if answer.status_code != status:
        return f"status {answer.status_code} in place of {status}: {answer.text[:100]}"
    if expected is not None and not is_same(answer.json()["predictions"], json.loads(expected)):
        return f"another answer than the model's own: {answer.text[:100]}"
    leak = LEAK.search(answer.text)
    return f"{leak.group()} in {answer.text[:200]}" if leak else ""


def is_same(one: object, other: object) -> bool:
    """Whether both are equal. Numbers are compared to 9 digits; the expected answer has more."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(is_same(one[k], other[k]) for k in one)
        case list(), list():
            return len(one) == len(other) and all(map(is_same, one, other))
        case float(), float() | int():
            return math.isclose(one, other, rel_tol=1e-9)
    return one == other


def send_slowly(url: str, body: bytes) -> None:
    """Send a body's first ten bytes, and the rest 10 s later, which must delay no other client."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST /invocations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
        time.sleep(10)
        connection.sendall(body[10:])
        connection.recv(100)


if __name__ == "__main__":
    main()
