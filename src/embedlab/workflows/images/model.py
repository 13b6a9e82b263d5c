"""Log an image classifier as a model that MLflow can serve."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from embedlab.tracking.model_logging import SERVER_PACKAGES, log_model
from embedlab.tracking.tracked_run import TrackedRun
from embedlab_serving import image_model

PACKAGES = (*SERVER_PACKAGES, "pillow", "safetensors", "torch", "torchvision")


def log_image_model(
    run: TrackedRun, network: nn.Module, about: Mapping[str, object], example: np.ndarray
) -> str:
    """Log a classifier as artifacts `classifier/` and as the model `model`; returns its URI.

    network  a classifier of torchvision with its head.
    about    backbone, classes, side, flip_view and preprocessing, which loading needs; and metadata
             for a reader of the artifacts: data, training, accuracy.
    example  (3, side, side) uint8: the image of the model's input example.
    """
    image = io.BytesIO()
    Image.fromarray(example.transpose(1, 2, 0)).save(image, "png")
    request = pd.DataFrame({"image": [base64.b64encode(image.getvalue()).decode()]})
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}

    def write(folder: Path) -> None:
        save_file(weights, folder / image_model.WEIGHTS_FILE)
        text = json.dumps(about, indent=2) + "\n"
        (folder / image_model.ABOUT_FILE).write_text(text, encoding="utf-8")

    example_request = (request, {"k": min(3, len(cast("Sequence[str]", about["classes"])))})
    return log_model(run, image_model, write, PACKAGES, example_request, about)
