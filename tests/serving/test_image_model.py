"""The served image classifier: its files, its answers, and what a caller reads when it refuses.

The network is small and has random weights: its answers are wrong, but can be computed by hand.
"""

import base64
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT, free_port
from mlflow.pyfunc import PyFuncModel, scoring_server
from PIL import Image
from safetensors.torch import load_file, save_file
from served_models import (
    SERVER_PACKAGES,
    Response,
    assert_hides,
    call,
    send,
    shows_internals,
    wait_for,
    write_digests,
)
from torchvision import models

from embedlab.tracking.lifecycle import start_run
from embedlab.workflows.images.model import log_image_model
from embedlab_serving.decode import decode_image
from embedlab_serving.digests import DIGESTS

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat")
SIDE, RESOLUTION = 8, 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
ABOUT = {
    "backbone": "resnet18",
    "classes": list(CLASSES),
    "side": SIDE,
    "flip_view": True,
    "preprocessing": {"resolution": RESOLUTION, "crop_pct": 0.8, "mean": MEAN, "std": STD},
    "data": "no image at all",
}
# 18 float32 layers that add in another order (by batch size, channels last) differ by about 1e-6.
# Another image, view or crop changes a probability by at least 1e-2.
TOLERANCE = 1e-4


def image(seed: int) -> np.ndarray:
    """(side, side, 3) uint8 noise: no two pixels, channels or halves alike."""
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


IMAGE = image(0)


def saved(pixels: np.ndarray | Image.Image, kind: str = "png", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_text(file: bytes) -> str:
    return base64.b64encode(file).decode()


def expected(
    network: torch.nn.Module, pixels: np.ndarray, views: tuple[int, ...] = (1, -1)
) -> np.ndarray:
    """(classes,) probabilities of (side, side, 3) uint8, step by step; -1 is the mirrored view."""
    logits = []
    for view in views:
        image = torch.from_numpy(pixels[:, ::view].copy()).permute(2, 0, 1)[None] / 255
        # 0.8 of 40 is 32: the centre crop leaves 4 on each side.
        image = torch.nn.functional.interpolate(
            image, size=(40, 40), mode="bilinear", antialias=True
        )[..., 4:36, 4:36]
        image = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        with torch.inference_mode():
            logits.append(network(image)[0].double().numpy())
    e = np.exp(np.mean(logits, axis=0))
    return e / e.sum()


def assert_is(row: pd.Series | dict, probabilities: np.ndarray, k: int = len(CLASSES)) -> None:
    """Assert that a row of an answer has the k best of these, and the best one in its columns."""
    order = np.argsort(-probabilities)[:k]
    assert [item["label"] for item in row["top"]] == [CLASSES[label] for label in order]
    top = [item["probability"] for item in row["top"]]
    assert top == pytest.approx(probabilities[order], abs=TOLERANCE)
    assert (row["label"], row["probability"]) == (CLASSES[order[0]], top[0])


@dataclass(frozen=True)
class Served:
    """A logged model, a copy of its folder from before it was loaded, and its network."""

    uri: str
    copy: Path
    model: PyFuncModel
    network: torch.nn.Module

    def ask(self, *images: bytes | str, **params: object) -> pd.DataFrame:
        texts = [as_text(image) if isinstance(image, bytes) else image for image in images]
        return self.model.predict(pd.DataFrame({"image": texts}), params=params)

    def expected(self, pixels: np.ndarray) -> np.ndarray:
        return expected(self.network, pixels)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread of torch: on a busy machine, several would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def served(store, tmp_path_factory) -> Served:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.resnet18(num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        network.fc.weight *= 20  # else all classes are about equally likely
    with start_run("finetune", "random", {}) as run:
        uri = log_image_model(run, network, ABOUT, IMAGE.transpose(2, 0, 1))
    copy = mlflow.artifacts.download_artifacts(uri, dst_path=tmp_path_factory.mktemp("copy"))
    return Served(uri, Path(copy), mlflow.pyfunc.load_model(uri), network)


@pytest.fixture(scope="module")
def model_folder(served) -> Path:
    return served.copy


@pytest.fixture
def limit(served, monkeypatch):
    """Change a constant of the model's code as MLflow loaded it."""
    code = type(served.model.unwrap_python_model()).load_context.__globals__

    def limit(name: str, value: int) -> None:
        assert name in code
        monkeypatch.setitem(code, name, value)

    return limit


def changed(model_folder: Path, copy: Path, **about: object) -> PyFuncModel:
    """The model with another `about.json`, and a head with as many classes as it names."""
    shutil.copytree(model_folder, copy)
    folder = copy / "artifacts/classifier"
    about = ABOUT | about
    (folder / "about.json").write_text(json.dumps(about))
    weights = load_file(folder / "weights.safetensors")
    rows = torch.arange(len(about["classes"])) % len(CLASSES)  # the classes again, from the first
    weights |= {key: weights[key][rows] for key in ("fc.weight", "fc.bias")}
    save_file(weights, folder / "weights.safetensors")
    write_digests(copy)
    return mlflow.pyfunc.load_model(str(copy))


# -- what is in it -----------------------------------------------------------------------------


def test_the_model_holds_code_and_arrays_and_no_pickle(model_folder):
    files = {str(path.relative_to(model_folder)) for path in model_folder.rglob("*.*")}
    (code,) = (model_folder / "code").iterdir()
    assert files >= {
        "artifacts/classifier/weights.safetensors",
        "artifacts/classifier/about.json",
        "image_model.py",
        f"code/{code.name}/decode.py",
        f"code/{code.name}/network.py",
    }
    suffixes = {Path(name).suffix for name in files}
    assert suffixes <= {".py", ".safetensors", ".json", ".yaml", ".txt"}
    pickle_or_archive = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")  # torch.save writes the latter
    for path in filter(Path.is_file, model_folder.rglob("*")):
        assert not pickle_or_archive.match(path.read_bytes()[:4]), path


def test_the_weights_are_those_of_the_network(served, model_folder):
    kept = load_file(model_folder / "artifacts/classifier/weights.safetensors")
    state = served.network.state_dict()
    assert kept.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(kept[key], value), key


def test_the_run_has_the_classifier_as_files_readable_without_mlflow(served, model_folder):
    run_id = served.model.metadata.run_id
    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/classifier"))
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "about.json"}
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    assert about == json.loads(json.dumps(ABOUT))
    for path in folder.iterdir():
        assert path.read_bytes() == (model_folder / "artifacts/classifier" / path.name).read_bytes()


def test_the_signature_says_what_goes_in_and_out(served):
    signature = served.model.metadata.signature
    assert [(c.name, c.type.name, c.required) for c in signature.inputs] == [
        ("image", "string", True)
    ]
    assert [(p.name, p.dtype.name, p.default) for p in signature.params] == [("k", "long", None)]
    label, probability, top = signature.outputs
    assert [(c.name, c.type.name) for c in (label, probability)] == [
        ("label", "string"),
        ("probability", "double"),
    ]
    assert top.name == "top"
    assert {p.name: p.dtype.name for p in top.type.dtype.properties} == {
        "label": "string",
        "probability": "double",
    }
    metadata = served.model.metadata.metadata
    assert metadata == json.loads(json.dumps(ABOUT)) | {DIGESTS: metadata[DIGESTS]}


def test_the_input_example_is_an_image_and_works(served, model_folder, post):
    request = (model_folder / "serving_input_example.json").read_text(encoding="utf-8")
    assert json.loads(request) == {
        "dataframe_split": {"columns": ["image"], "data": [[as_text(saved(IMAGE))]]},
        "params": {"k": 3},
    }
    (row,) = json.loads(post(request).text)["predictions"]
    assert_is(row, served.expected(IMAGE))


def test_requirements_are_exact_and_few(model_folder):
    lines = (model_folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [re.fullmatch(r"(\w+)==\d[\w.]*(; sys_platform .*)?", line)[1] for line in lines]
    assert names == [*SERVER_PACKAGES, "pillow", "safetensors", "torch", "torchvision"]
    project = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    assert set(lines) <= {line.partition("#")[0].strip() for line in project.splitlines()}


# -- what it answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_k_best_are_those_of_the_network(served, k):
    answer = served.ask(saved(IMAGE), k=k)
    assert list(answer.columns) == ["label", "probability", "top"]
    assert_is(answer.iloc[0], served.expected(IMAGE), k)


@pytest.mark.parametrize("params", [{}, {"k": None}], ids=["no k", "null"])
def test_without_k_all_classes_where_there_are_fewer_than_five(served, params):
    assert_is(served.ask(saved(IMAGE), **params).iloc[0], served.expected(IMAGE))


def test_without_k_five_classes_where_there_are_more_and_more_if_asked(model_folder, tmp_path):
    model = changed(model_folder, tmp_path / "model", classes=list("abcdefg"))
    images = pd.DataFrame({"image": [as_text(saved(IMAGE))]})
    by_itself, seven = (model.predict(images, params=params) for params in ({}, {"k": 7}))
    assert len(by_itself["top"][0]) == 5
    assert by_itself["top"][0] == seven["top"][0][:5]
    assert sorted(item["label"] for item in seven["top"][0]) == list("abcdefg")
    assert sum(item["probability"] for item in seven["top"][0]) == pytest.approx(1)


def test_both_views_of_test_time_augmentation_count_the_same(served, model_folder, tmp_path):
    both, one = served.expected(IMAGE), expected(served.network, IMAGE, views=(1,))
    assert abs(both - one).max() > 100 * TOLERANCE  # so the test can distinguish them
    assert_is(served.ask(saved(IMAGE)).iloc[0], both)
    mirrored = served.ask(saved(IMAGE[:, ::-1].copy())).iloc[0]
    assert_is(mirrored, both)
    model = changed(model_folder, tmp_path / "model", flip_view=False)
    assert_is(model.predict(pd.DataFrame({"image": [as_text(saved(IMAGE))]})).iloc[0], one)


def test_a_batch_is_answered_as_its_rows_one_by_one_and_in_their_order(served):
    images = [image(seed) for seed in range(7)]
    answer = served.ask(*map(saved, images))
    assert len(answer) == 7
    for row, pixels in zip(answer.to_dict("records"), images, strict=True):
        assert_is(row, served.expected(pixels))
        (alone,) = served.ask(saved(pixels)).to_dict("records")
        assert row["probability"] == pytest.approx(alone["probability"], abs=TOLERANCE)


def test_several_threads_ask_at_once_and_each_gets_its_own_answer(served):
    n_threads, n_requests = 8, 4
    together = Barrier(n_threads)

    def ask_some(thread: int) -> list[tuple[int, dict]]:
        answers = []
        for number in range(n_requests):
            seeds = [100 * thread + number, 100 * thread + number + 50][: 1 + thread % 2]
            together.wait(timeout=60)
            answer = served.ask(*(saved(image(seed)) for seed in seeds), k=1 + thread % 3)
            answers += zip(seeds, answer.to_dict("records"), strict=True)
        return answers

    with ThreadPoolExecutor(n_threads) as pool:
        by_thread = list(pool.map(ask_some, range(n_threads)))
    for thread, answers in enumerate(by_thread):
        assert len(answers) == n_requests * (1 + thread % 2)
        for seed, row in answers:
            assert_is(row, served.expected(image(seed)), 1 + thread % 3)


# -- images of any size and mode -------------------------------------------------------------

RED, GREEN = IMAGE[..., 0], IMAGE[..., 1]
IS_SEEN = RED > 127
SOLID = np.full((SIDE, SIDE, 3), (200, 30, 90), np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (60, 100, 3), dtype=np.uint8)
LARGE_MIDDLE = np.asarray(
    Image.fromarray(LARGE).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(20, 0, 80, 60))
)
PALETTE = np.random.default_rng(2).integers(0, 256, (64, 3), dtype=np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def on_white(pixels: np.ndarray) -> np.ndarray:
    return np.where(IS_SEEN[..., None], pixels, 255).astype(np.uint8)


def with_palette() -> Image.Image:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(SIDE, SIDE), "P")
    image.putpalette(PALETTE.tobytes())
    return image


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def as_pillow_reads(file: bytes) -> np.ndarray:
    """The pixels that a lossy format has kept of an image of the right size."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


ALPHA = np.where(IS_SEEN, 255, 0).astype(np.uint8)
JPEG = saved(IMAGE, "jpeg", quality=95)
CMYK_JPEG = saved(Image.fromarray(np.dstack([IMAGE, RED]), "CMYK"), "jpeg", quality=95)
FILES = {  # a file, and the (side, side, 3) square that the network should see
    "png": (saved(IMAGE), IMAGE),
    "bmp": (saved(IMAGE, "bmp"), IMAGE),
    "webp": (saved(IMAGE, "webp", lossless=True), IMAGE),
    "jpeg": (JPEG, as_pillow_reads(JPEG)),
    "wide": (saved(np.pad(IMAGE, ((0, 0), (5, 5), (0, 0)))), IMAGE),
    "tall": (saved(np.pad(IMAGE, ((3, 3), (0, 0), (0, 0)))), IMAGE),
    "one pixel": (saved(SOLID[:1, :1]), SOLID),
    "one colour, large": (saved(np.tile(SOLID, (60, 80, 1))), SOLID),
    "large": (saved(LARGE), LARGE_MIDDLE),
    "grey": (saved(RED), grey(RED)),
    "grey, 16 bits": (saved(RED.astype(np.uint16) * 256 + GREEN), grey(RED)),
    "black and white": (saved(Image.fromarray(RED).convert("1", dither=0)), grey(255 * IS_SEEN)),
    "grey with alpha": (saved(Image.fromarray(np.dstack([RED, ALPHA]), "LA")), on_white(grey(RED))),
    "rgba": (saved(np.dstack([IMAGE, ALPHA])), on_white(IMAGE)),
    "palette": (saved(with_palette()), PALETTE.reshape(SIDE, SIDE, 3)),
    "palette with a clear colour": (
        saved(with_palette(), transparency=5),
        np.where(np.arange(64)[:, None] == 5, 255, PALETTE).astype(np.uint8).reshape(SIDE, SIDE, 3),
    ),
    "cmyk": (  # without black, cyan is 255 minus red
        saved(Image.fromarray(np.dstack([255 - IMAGE, 0 * RED]), "CMYK"), "tiff"),
        IMAGE,
    ),
    "cmyk jpeg": (CMYK_JPEG, as_pillow_reads(CMYK_JPEG)),
    # Orientation 6: to be turned a quarter clockwise; 2: mirrored.
    "exif, turned": (saved(np.rot90(IMAGE).copy(), exif=turned(6)), IMAGE),
    "exif, mirrored": (saved(IMAGE[::, ::-1].copy(), exif=turned(2)), IMAGE),
}


@pytest.mark.parametrize(("file", "pixels"), FILES.values(), ids=FILES)
def test_images_of_any_size_and_mode(served, file, pixels):
    assert_is(served.ask(file).iloc[0], served.expected(pixels))


PNG_TEXT = as_text(saved(IMAGE))


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{PNG_TEXT}",
        base64.encodebytes(saved(IMAGE)).decode(),
        "\r\n".join(re.findall(".{1,64}", PNG_TEXT)),
        f" \t{PNG_TEXT}\n",
        f"data:image/png;base64,\n{PNG_TEXT}",
    ],
    ids=["data address", "lines", "lines of Windows", "blanks around it", "both"],
)
def test_base64_as_browsers_and_tools_write_it(served, text):
    assert_is(served.ask(text).iloc[0], served.expected(IMAGE))


# -- what a caller reads -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def post(served):
    app = scoring_server.init(served.model)

    def post(body: object, content_type: str = "application/json") -> Response:
        return call(
            app, (body if isinstance(body, str) else json.dumps(body)).encode(), content_type
        )

    return post


def ask(*images: object, **params: object) -> dict:
    """The body of a request, in the form that docs/serving.md shows."""
    texts = [as_text(image) if isinstance(image, bytes) else image for image in images]
    return {"dataframe_records": [{"image": text} for text in texts], "params": params}


@pytest.mark.parametrize(
    "body",
    [
        ask(PNG_TEXT, k=2),
        {"dataframe_split": {"columns": ["image"], "data": [[PNG_TEXT]]}, "params": {"k": 2}},
        {"inputs": {"image": [PNG_TEXT]}, "params": {"k": 2}},
        {"inputs": [{"image": PNG_TEXT}], "params": {"k": 2}},
        {"instances": [{"image": PNG_TEXT}], "params": {"k": 2}},
    ],
    ids=["records", "split", "inputs", "inputs-list", "instances"],
)
def test_every_json_form_is_answered(served, post, body):
    response = post(body)
    assert response.status == 200
    answer = json.loads(response.text)
    assert answer == {"predictions": served.ask(PNG_TEXT, k=2).to_dict("records")}
    assert_is(answer["predictions"][0], served.expected(IMAGE), k=2)


def test_csv_is_answered_with_the_default_k(served, post):
    response = post(f"image\n{PNG_TEXT}\n", "text/csv")
    assert response.status == 200
    (row,) = json.loads(response.text)["predictions"]
    assert_is(row, served.expected(IMAGE))


def test_a_table_without_rows_is_answered_without_rows(post):
    assert post("image\n", "text/csv") == Response(200, '{"predictions": []}')


def test_64_images_fit_in_a_request(served, post):
    images = [image(seed) for seed in range(64)]
    response = post(ask(*map(saved, images), k=1))
    assert response.status == 200
    rows = json.loads(response.text)["predictions"]
    for row, pixels in zip(rows, images, strict=True):
        assert_is(row, served.expected(pixels), k=1)


def header(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", b"")


FIRST = r"image in row 0: "
NOT_THERE = FIRST + r"expected the base64 text of a PNG or JPEG, got nothing"
NOT_BASE64 = FIRST + r"expected base64 text, but it cannot be read \({}\)"
NOT_READ = FIRST + r"expected a PNG or JPEG, but it cannot be read \({}\)"
NO_IMAGE = r"Model is missing inputs \['image'\]\."
NOT_A_NUMBER = r"Can not safely convert `<class '{}'>` to `DataType.long` for value `{}`"
REFUSED = {
    "not base64": (ask("an image!"), NOT_BASE64.format("Only base64 data is allowed")),
    "a file's name": (ask("/home/me/ant.png"), NOT_BASE64.format("Only base64 data is allowed")),
    "not ASCII": (ask("é" * 8), NOT_BASE64.format(".*ASCII.*")),
    "base64 cut off": (ask(PNG_TEXT[:-3]), NOT_BASE64.format(".+")),
    "empty": (ask(""), NOT_THERE),
    "null": (ask(None), NOT_THERE),
    "list": (ask([PNG_TEXT]), FIRST + r"expected the base64 text .*, got list"),
    "blank": (ask(" \n"), NOT_READ.format("not an image")),
    "data address without data": (ask("data:image/png"), NOT_READ.format("not an image")),
    "text": (ask(b"an ant on a leaf"), NOT_READ.format("not an image")),
    "svg": (ask(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), NOT_READ.format("not an image")),
    "png cut off": (ask(saved(LARGE)[:5000]), NOT_READ.format(".*truncated.*")),
    "png header cut off": (ask(saved(IMAGE)[:20]), NOT_READ.format(".+")),
    "jpeg cut off": (ask(saved(LARGE, "jpeg")[:1500]), NOT_READ.format(".*truncated.*")),
    "81 million pixels": (
        ask(header(9_000, 9_000)),
        NOT_READ.format("9,000 × 9,000 pixels, more than 64,000,000"),
    ),
    "10 billion pixels": (
        ask(header(100_000, 100_000)),
        NOT_READ.format("more than 64,000,000 pixels"),
    ),
    "one of several": (
        ask(PNG_TEXT, b"no image", PNG_TEXT),
        r"image in row 1: expected a PNG or JPEG, but it cannot be read \(not an image\)",
    ),
    "65 images": (
        ask(*[PNG_TEXT] * 65),
        r"expected at most 64 images in a request, got 65: send them in parts",
    ),
    "k=0": (ask(PNG_TEXT, k=0), r"k: expected a whole number from 1 to 3, got 0"),
    "k=-1": (ask(PNG_TEXT, k=-1), r"k: expected a whole number from 1 to 3, got -1"),
    "k=4": (ask(PNG_TEXT, k=4), r"k: expected a whole number from 1 to 3, got 4"),
    "k=5": (
        ask(PNG_TEXT, k=5),
        r"k: expected a whole number from 1 to 3, got 5",
    ),  # the number of a missing k
    "k='3'": (ask(PNG_TEXT, k="3"), f".*{NOT_A_NUMBER.format('str', '3')}.*"),
    "k=2.5": (ask(PNG_TEXT, k=2.5), f".*{NOT_A_NUMBER.format('float', '2.5')}.*"),
    "k=true": (ask(PNG_TEXT, k=True), f".*{NOT_A_NUMBER.format('bool', 'True')}.*"),
    "number": (ask(1984), FIRST + r"expected the base64 text .*, got int"),
    "no column": ({"dataframe_records": [{"picture": PNG_TEXT}]}, f".*{NO_IMAGE}.*"),
    "no rows": (ask(), f".*{NO_IMAGE}.*"),
}


def assert_refused(response: Response, sentence: str) -> None:
    assert response.status == 400
    answer = json.loads(response.text)
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    # MLflow prepends the table of the request, in which it truncates long texts.
    assert re.fullmatch(
        rf"Failed to predict data '.*'\. \nError: {sentence}", answer["message"], re.S
    )
    assert len(response.text) < 1_000
    assert not shows_internals(response.text)


@pytest.mark.parametrize(("body", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_400_with_a_sentence(post, body, sentence):
    assert_refused(post(body), sentence)


def test_a_text_that_is_too_long_is_refused_before_it_is_decoded(post, limit):
    limit("MAX_CHARACTERS", 1_234)
    assert post(ask(PNG_TEXT.ljust(1_234))).status == 200
    assert_refused(
        post(ask("!" * 1_235)),
        FIRST + r"expected at most 1,234 characters of base64, got 1,235: send a smaller image",
    )


def test_a_failure_inside_is_500_without_any_detail(served, post, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("secret of /home/someone")

    preprocessing = served.model.unwrap_python_model().preprocessing
    monkeypatch.setattr(type(preprocessing), "__call__", broken)
    response = post(ask(PNG_TEXT))
    assert_hides(response, "secret of /home/someone", caplog.text)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_a_real_server_without_the_project_and_without_pickle(served, model_folder, tmp_path):
    """It runs in another folder, so that the model finds only its own copy of the code."""
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment.pop("PYTHONPATH", None)
    port, log = free_port(), tmp_path / "server.log"
    command = ["mlflow", "models", "serve", "-m", str(model_folder), "--env-manager", "local"]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, log)
        response = send(address, ask(saved(IMAGE), JPEG))
        refused = send(address, ask(b"no image"))
        large = saved(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
        answers = [by_the_page(address, large, tmp_path, shell) for shell in ("bash", "sh")]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=20)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
    assert response.status == 200
    rows = json.loads(response.text)["predictions"]
    for row, pixels in zip(rows, (IMAGE, as_pillow_reads(JPEG)), strict=True):
        assert_is(row, served.expected(pixels))
    assert_refused(refused, NOT_READ.format("not an image"))
    for answer in answers:
        (row,) = answer["predictions"]
        assert_is(row, served.expected(decode_image(large, SIDE).transpose(1, 2, 0)))


def by_the_page(address: str, file: bytes, folder: Path, shell: str) -> dict:
    """The answer to the command of docs/serving.md, in which only the address is changed."""
    assert len(file) > 150_000  # too long for one argument of a command
    (folder / "image.png").write_bytes(file)
    page = (PROJECT / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (block,) = (block for block in blocks if "--data-binary" in block)
    command = block.replace("http://127.0.0.1:5001", address)
    assert command != block
    ended = subprocess.run([shell, "-c", command], cwd=folder, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)
