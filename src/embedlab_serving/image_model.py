"""The served image classifier, as MLflow's models-from-code: this file is the model's code.

MLflow runs it when the model is logged and when it is loaded, and finds `embedlab` in the model's
own copy. It needs torch, torchvision, Pillow and safetensors; no pickle. It computes on the CPU.

In: a table with the column `image`, an image a row: the base64 text of a PNG, a JPEG or another
format that Pillow reads, of any size and mode (a `data:` address is taken, too). Parameter `k`:
how many labels, 1 to all; without it five, or all where there are fewer.
Out: a row an image: label, probability, and `top`, the k best labels with their probabilities.
"""

import base64
import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types.schema import (
    Array,
    ColSpec,
    DataType,
    Object,
    ParamSchema,
    ParamSpec,
    Property,
    Schema,
)
from safetensors.torch import load_file
from torchvision import models

from embedlab_serving.decode import decode_image
from embedlab_serving.digests import check_model
from embedlab_serving.errors import DataError, OptionError
from embedlab_serving.http_errors import map_errors
from embedlab_serving.preprocess import Preprocessing

ARTIFACT = "classifier"
WEIGHTS_FILE, ABOUT_FILE = "weights.safetensors", "about.json"
MAX_IMAGES = 64
MAX_CHARACTERS = 20_000_000  # of one image's base64: 15 MB
DEFAULT_K = 5  # where the caller gives none, and there are as many classes

_ANSWER = Object([Property("label", DataType.string), Property("probability", DataType.double)])
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(_ANSWER), "top"),
        ]
    ),
    # No default: MLflow would fill it in, and a k that was asked for could not be told from it.
    params=ParamSchema([ParamSpec("k", DataType.long, None)]),
)
COLUMNS = SIGNATURE.outputs.input_names()


class ImageModel(PythonModel):
    """Images in, labels out; safe for several threads once loaded."""

    def load_context(self, context: PythonModelContext) -> None:
        """Raises DataError where a file is not the one that was logged."""
        folder = Path(context.artifacts[ARTIFACT])
        # Not this file's folder: MLflow takes the last model's code where a model has lost its own.
        check_model(folder.parents[1], SIGNATURE)
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        self.classes = about["classes"]
        self.side = about["side"]
        self.flip_view = about["flip_view"]
        self.preprocessing = Preprocessing(**about["preprocessing"])
        network = models.get_model(about["backbone"], num_classes=len(self.classes))
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        self.network = network.to(memory_format=torch.channels_last).eval()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """Raises MlflowException, as `map_errors` says."""
        with map_errors():
            k = (params or {}).get("k")
            if k is None:
                k = min(DEFAULT_K, len(self.classes))
            return self._classify(model_input["image"].tolist(), k)

    def _classify(self, images: list[str], k: int) -> pd.DataFrame:
        if not 1 <= k <= len(self.classes):
            raise OptionError(f"k: expected 1 to {len(self.classes)}, got {k}")
        if len(images) > MAX_IMAGES:
            raise OptionError(
                f"expected at most {MAX_IMAGES} images in a request, got {len(images):,}: "
                "send them in parts"
            )
        if not images:
            return pd.DataFrame(columns=COLUMNS)
        pixels = np.stack([self._decode(row, text) for row, text in enumerate(images)])
        with torch.inference_mode():
            batch = self.preprocessing(torch.from_numpy(pixels))  # (n, 3, r, r)
            scores = self.network(batch)  # (n, classes)
            if self.flip_view:
                scores = (scores + self.network(batch.flip(-1))) / 2
            probabilities = scores.double().softmax(1)
        best = probabilities.topk(k)  # values and indices, (n, k)
        rows = []
        for values, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            top = [
                {"label": self.classes[label], "probability": value}
                for value, label in zip(values, labels, strict=True)
            ]
            rows.append({**top[0], "top": top})
        return pd.DataFrame(rows, columns=COLUMNS)

    def _decode(self, row: int, text: str) -> np.ndarray:
        """(3, side, side) uint8, by the same steps as the training images."""
        where = f"image in row {row}"
        if text is None or text == "":
            raise DataError(f"{where}: expected the base64 text of a PNG or JPEG, got nothing")
        if not isinstance(text, str):
            raise DataError(
                f"{where}: expected the base64 text of a PNG or JPEG, got {type(text).__name__}"
            )
        if len(text) > MAX_CHARACTERS:
            raise DataError(
                f"{where}: expected at most {MAX_CHARACTERS:,} characters of base64, got "
                f"{len(text):,}: send a smaller image"
            )
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            file = base64.b64decode("".join(text.split()), validate=True)
        except ValueError as error:  # also binascii's, for a text that was cut off
            raise DataError(
                f"{where}: expected base64 text, but it cannot be read ({error})"
            ) from None
        try:
            return decode_image(file, self.side)
        except DataError as error:
            raise DataError(
                f"{where}: expected a PNG or JPEG, but it cannot be read ({error})"
            ) from None


mlflow.models.set_model(ImageModel())
