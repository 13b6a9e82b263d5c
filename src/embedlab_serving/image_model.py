"""The served image classifier, as MLflow's models-from-code: this file is the model's code.

MLflow runs it when the model is logged and when it is loaded; its imports find the model's own copy
of this package, `embedlab_serving_<digest>`. The model needs torch, torchvision, Pillow and
safetensors, but no pickle, and computes on the CPU.

In: a table with the column `image`, one image per row: the base64 text of a PNG, a JPEG or another
format that Pillow reads, of any size and mode, or a `data:` URL. Parameter `k`: the number of
labels, 1 to all; the default is five, or all if there are fewer.
Out: one row per image: label, probability, and `top`, the k best labels with their probabilities.
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
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from embedlab_serving.decode import decode_image
from embedlab_serving.digests import check_model
from embedlab_serving.errors import DataError, OptionError
from embedlab_serving.http_errors import map_errors
from embedlab_serving.network import Preprocessing, forward, head_name

ARTIFACT = "classifier"
WEIGHTS_FILE, ABOUT_FILE = "weights.safetensors", "about.json"
MAX_IMAGES = 64
MAX_CHARACTERS = 20_000_000  # of one image's base64: 15 MB
DEFAULT_K = 5  # or the number of classes, if there are fewer

_LABEL = {"label": DataType.string, "probability": DataType.double}  # name -> type
_TOP = Array(Object([Property(name, kind) for name, kind in _LABEL.items()]))
_COLUMNS = [ColSpec(kind, name) for name, kind in _LABEL.items()]
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "image")]),
    outputs=Schema([*_COLUMNS, ColSpec(_TOP, "top")]),
    # No default: MLflow would fill it in, as if the caller had asked for it.
    params=ParamSchema([ParamSpec("k", DataType.long, None)]),
)
COLUMNS = SIGNATURE.outputs.input_names()


class ImageModel(PythonModel):
    """Images in, labels out; safe for several threads once loaded."""

    def load_context(self, context: PythonModelContext) -> None:
        """Raises DataError if a file is not the one that was logged."""
        folder = Path(context.artifacts[ARTIFACT])
        # Not this file's folder: if a model has lost its code, MLflow runs the last model's code.
        check_model(folder.parents[1], SIGNATURE)
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        self.classes = about["classes"]
        self.side = about["side"]
        self.flip_view = about["flip_view"]
        self.preprocessing = Preprocessing(**about["preprocessing"])
        network = models.get_model(about["backbone"])
        head = head_name(network)
        n_features = network.get_submodule(head).in_features
        network.set_submodule(head, nn.Linear(n_features, len(self.classes)))
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        self.network = network.to(memory_format=torch.channels_last).eval()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """A row per image: COLUMNS. Raises MlflowException, as `map_errors` says."""
        with map_errors():
            return self._classify(model_input["image"].tolist(), (params or {}).get("k"))

    def _classify(self, images: list[str], k: int | None) -> pd.DataFrame:
        k = min(DEFAULT_K, len(self.classes)) if k is None else k
        if not 1 <= k <= len(self.classes):
            raise OptionError(f"k: expected a whole number from 1 to {len(self.classes)}, got {k}")
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
            logits = forward(self.network, batch, self.flip_view)  # (n, classes)
            probabilities = logits.double().softmax(1)
        best = probabilities.topk(k)  # values and indices, (n, k)
        answers = []
        for values, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            top = [
                {"label": self.classes[label], "probability": value}
                for value, label in zip(values, labels, strict=True)
            ]
            answers.append({**top[0], "top": top})
        return pd.DataFrame(answers, columns=COLUMNS)

    def _decode(self, row: int, text: str) -> np.ndarray:
        """(3, side, side) uint8, by the same steps as the training images."""
        if not isinstance(text, str) or not text:
            found = type(text).__name__ if text else "nothing"
            fault = f"the base64 text of a PNG or JPEG, got {found}"
        elif len(text) > MAX_CHARACTERS:
            fault = (
                f"at most {MAX_CHARACTERS:,} characters of base64, got {len(text):,}: "
                "send a smaller image"
            )
        else:
            encoded = text.partition(",")[2] if text.startswith("data:") else text
            try:
                file = base64.b64decode("".join(encoded.split()), validate=True)
                return decode_image(file, self.side)
            except DataError as error:
                fault = f"a PNG or JPEG, but it cannot be read ({error})"
            except ValueError as error:  # also binascii's, for a text that was cut off
                fault = f"base64 text, but it cannot be read ({error})"
        raise DataError(f"image in row {row}: expected {fault}")


mlflow.models.set_model(ImageModel())
