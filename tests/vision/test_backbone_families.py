"""Every family of torchvision's classifiers: features, one epoch of training, the served model."""

import mlflow
import numpy as np
import pytest
import torch
from conftest import fresh_store, long
from torchvision import models
from toy_dataset import split_of, squares

from embedlab.vision.backbone import attach_head, load_backbone, new_head
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.options import BACKBONES, FAMILIES, FIXED_RESOLUTION
from embedlab.vision.training.recipes import FinetuneOptions
from embedlab.vision.training.trainer import Trainer
from embedlab_serving.network import head_name
from entrypoints import finetune

# GoogLeNet and Inception have three outputs in training, the last layer of SqueezeNet is a
# convolution, ViT-H has no weights for its default size, and weights of MNASNet can be loaded only
# with a version, which files of tensors do not have.
NOT_TAKEN = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1", "vit_h_14"}
NOT_TAKEN |= {"mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"}
SMALLEST = {
    "RegNet": "regnet_y_400mf",
    "DenseNet": "densenet121",
    "ShuffleNet": "shufflenet_v2_x0_5",
    "MobileNet": "mobilenet_v3_small",
    "EfficientNet": "efficientnet_b0",
    "ConvNeXt": "convnext_tiny",
    "Swin": "swin_t",
    "ViT": "vit_b_32",
    "MaxViT": "maxvit_t",
    "VGG": "vgg11",
    "AlexNet": "alexnet",
}


def test_all_of_torchvision_s_classifiers_are_taken_or_named_here():
    assert {*BACKBONES} == {*models.list_models(module=models)} - NOT_TAKEN
    assert {*SMALLEST} == {*FAMILIES} - {"ResNet", "ResNeXt", "Wide ResNet"}  # tested everywhere


# Their random weights alone take seconds to draw.
LARGE = ("VGG", "MaxViT")
SMALLEST_OF = [
    pytest.param(name, marks=long if family in LARGE else (), id=family)
    for family, name in SMALLEST.items()
]


def new_trainer(name: str, options: FinetuneOptions, images: ImageDataset) -> Trainer:
    backbone = load_backbone(name, "none", seed=1)
    network = attach_head(backbone, new_head(backbone, 3, seed=1))
    pipeline = ImagePipeline(network, backbone.preprocessing(options.resolution[0], 1.0))
    return Trainer(pipeline, images, split_of(images), options, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST_OF)
def test_a_network_of_each_family_trains(name):
    images = squares(n_per_class=4)
    resolution = FIXED_RESOLUTION.get(name, 64)
    options = FinetuneOptions(
        epochs=2, batch_size=3, resolution=(resolution,), freeze="all-but-head", lr=0.1
    )

    whole = new_trainer(name, options, images)
    before = {key: value.clone() for key, value in whole.network.state_dict().items()}
    first, second = whole.train()
    changed = {k for k, v in whole.network.state_dict().items() if not torch.equal(v, before[k])}
    head = head_name(whole.network)
    assert changed <= {f"{head}.weight", f"{head}.bias"} and changed
    assert np.isfinite([epoch.record.metrics["val/loss"] for epoch in (first, second)]).all()


@pytest.mark.slow
def test_a_network_other_than_a_resnet_is_fine_tuned_logged_and_queried(tmp_path):
    size = ["--dataset", "sample", "--weights", "none", "--resolution", "32", "--train-limit", "60"]
    limits = ["--val-limit", "20", "--test-limit", "20", "--epochs", "1", "--batch-size", "32"]
    with fresh_store(tmp_path):
        finetune.main([*size, *limits, "--backbone", "mobilenet_v3_small"])
        run = mlflow.last_active_run()
        model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        answer = model.predict(model.input_example)
    assert answer["label"].iloc[0] in map(str, range(10))


@pytest.mark.slow
def test_a_network_with_dropout_resumes_bit_for_bit():
    images = squares(n_per_class=4)
    options = FinetuneOptions(epochs=3, batch_size=3, resolution=(32,))

    whole, stopped, resumed = (new_trainer("mobilenet_v3_small", options, images) for _ in range(3))
    assert len([*whole.train()]) == 3
    next(stopped.train())
    resumed.load_state(stopped.state())
    torch.rand(7)  # other code may draw from torch's generator
    assert len([*resumed.train()]) == 2
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)
