"""Backbone, preprocessing, features, linear probe, metrics, comparison: against slow oracles."""

import hashlib
import http.server
import math
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from squares import CLASSES, predictions, split_of, squares
from torchvision import models
from torchvision.models import ResNet18_Weights

from embedlab.datasets.cache import cache_folder
from embedlab.errors import DataError, DivergedError, DownloadError, OptionError
from embedlab.vision.data.augmentation import Augmentation
from embedlab.vision.evaluation import plots as figures
from embedlab.vision.evaluation.comparison import ComparedRun, compare_runs, only_right
from embedlab.vision.evaluation.metrics import (
    NO_SCORE,
    ValidationScore,
    calibration_error,
    evaluate,
    mcnemar,
    predictions_of,
    top_predictions,
    wilson_interval,
)
from embedlab.vision.evaluation.projection import map_images, nearest, one_query_a_class
from embedlab.vision.features import extract_features, features_key
from embedlab.vision.inference import Classifier, choose_precision
from embedlab.vision.models.backbone import load_backbone
from embedlab.vision.options import LinearProbeOptions
from embedlab.vision.training.linear_probe import LinearProbe, probe_logits
from embedlab.vision.training.recipes import AUGMENTATIONS
from embedlab_serving.preprocess import Preprocessing
from entrypoints import extract_features as extract_features_entry

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(32, 1.0, MEAN, STD)
IMAGES = squares()
SPLIT = split_of(IMAGES)


@pytest.fixture
def backbone():
    return load_backbone("resnet18", "none", seed=1)


# -- backbone and weights ----------------------------------------------------------------------


def test_constants_come_from_the_weights_object(backbone):
    preset = ResNet18_Weights.DEFAULT.transforms()
    assert (backbone.mean, backbone.std) == (tuple(preset.mean), tuple(preset.std))
    assert backbone.n_features == 512


def test_a_state_dict_is_loaded_whatever_its_number_of_classes(tmp_path):
    other = models.resnet18(num_classes=3)
    torch.save(other.state_dict(), tmp_path / "three.pth")
    loaded = load_backbone("resnet18", str(tmp_path / "three.pth"))
    own, theirs = loaded.network.state_dict(), other.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    # The digest names the weights: these, not those of another start.
    assert loaded.digest == load_backbone("resnet18", str(tmp_path / "three.pth")).digest
    assert loaded.digest != load_backbone("resnet18", "none").digest


def test_a_file_that_does_not_fit_says_which_keys_are_missing(tmp_path):
    weights = models.resnet18().state_dict()
    del weights["layer1.0.conv1.weight"], weights["bn1.bias"]
    weights["extra"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "cut.pth")
    with pytest.raises(DataError) as error:
        load_backbone("resnet18", str(tmp_path / "cut.pth"))
    missing = 'Missing key(s) in state_dict: "bn1.bias", "layer1.0.conv1.weight".'
    for part in (missing, 'Unexpected key(s) in state_dict: "extra".', "mismatch for conv1.weight"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2"])
def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path, name):
    torch.save(models.resnet18().state_dict(), tmp_path / "18.pth")
    with pytest.raises(DataError, match="choose the backbone that the file was made for") as error:
        load_backbone(name, str(tmp_path / "18.pth"))
    assert len(str(error.value)) < 700


def test_a_state_dict_without_counters_of_batches_or_inside_another_dict_is_loaded(tmp_path):
    weights = models.resnet18().state_dict()
    without = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": without, "epoch": 3}, tmp_path / "old.pth")
    found = load_backbone("resnet18", str(tmp_path / "old.pth")).network.state_dict()
    assert all(torch.equal(found[key], weights[key]) for key in found)
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(DataError, match="is not a state dict that torch loads"):
        load_backbone("resnet18", str(tmp_path / "none.pth"))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(DataError, match="is not a state dict that torch loads"):
        load_backbone("resnet18", str(tmp_path / "broken.pth"))


class Planted:
    def __reduce__(self):
        return print, ("this must not run",)


def test_code_in_a_weights_file_is_not_run(tmp_path, capsys):
    torch.save({"fc.weight": Planted()}, tmp_path / "planted.pth")
    with pytest.raises(DataError, match="weights_only=True"):
        load_backbone("resnet18", str(tmp_path / "planted.pth"))
    assert capsys.readouterr().out == ""


def test_a_missing_file_and_a_failed_download_say_what_to_do(monkeypatch):
    with pytest.raises(DataError, match=r"no file 'nowhere.pth'.*give an absolute path"):
        load_backbone("resnet18", "nowhere.pth")

    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", refused)
    with pytest.raises(DownloadError, match=r"no route to host.*weights=<path>"):
        load_backbone("resnet18", "imagenet")


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """A file that stands for torchvision's weights of ResNet-18, where its URL points to."""
    file = tmp_path / "weights.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.save(models.resnet18().state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file = file.rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", file.as_uri())
    return file


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def tampered(content: bytes) -> bytes:
    """The same file, but for one weight."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, tampered])
def test_weights_are_checked_when_they_come_and_when_they_are_found(published, damage):
    right = published.read_bytes()
    published.write_bytes(damage(right))
    with pytest.raises(DownloadError, match=r"^Could not download .*hash.*weights=<path>\.$"):
        load_backbone("resnet18", "imagenet")
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]

    published.write_bytes(right)
    digest = load_backbone("resnet18", "imagenet").digest
    (cached,) = (path for path in cache_folder().rglob("*") if path.is_file())
    cached.write_bytes(damage(right))
    assert load_backbone("resnet18", "imagenet").digest == digest  # fetched again
    assert cached.read_bytes() == right
    published.unlink()
    assert load_backbone("resnet18", "imagenet").digest == digest  # not fetched again


class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)

    def log_message(self, *_):
        pass


def test_no_network_and_a_server_that_fails_are_a_sentence_each(published, monkeypatch):
    weights, right = ResNet18_Weights.DEFAULT.value, published.as_uri()
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Failing) as server:
        address = f"http://127.0.0.1:{server.server_port}/{published.name}"
        monkeypatch.setattr(weights, "url", address)
        answer = threading.Thread(target=server.handle_request)
        answer.start()
        with pytest.raises(DownloadError, match=r"\(Internal Server Error\); try again later"):
            load_backbone("resnet18", "imagenet")
        answer.join()
    with pytest.raises(DownloadError, match=r"Connection refused\); try again later, or fetch"):
        load_backbone("resnet18", "imagenet")
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]
    monkeypatch.setattr(weights, "url", right)
    load_backbone("resnet18", "imagenet")


# -- preprocessing and augmentation ----------------------------------------------------------


def test_preprocessing_is_torchvisions_own():
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    preset = ResNet18_Weights.DEFAULT.transforms()
    ours = Preprocessing(224, 224 / 256, MEAN, STD)(images)
    # Theirs rounds to whole numbers of 0 to 255 after scaling: half a step, by the smallest std.
    assert (ours - preset(images)).abs().max() <= 0.51 / 255 / min(STD)


def test_an_image_of_the_right_size_is_only_normalised():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(PREPROCESSING(images), expected)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_differs_by_image_and_repeats_by_seed(name):
    images = torch.from_numpy(np.repeat(squares(n_per_class=1).pixels[:1], 12, axis=0))
    augment = Augmentation(name, side=8, resolution=24)
    once = augment(images, torch.Generator().manual_seed(0))
    assert torch.equal(augment(images, torch.Generator().manual_seed(0)), once)
    assert once.dtype == torch.uint8
    assert once.shape[-1] == (24 if name in ("zoom_flip", "notebook") else 8)
    n_different = len({image.numpy().tobytes() for image in once})
    assert n_different == 1 if name == "none" else n_different > 1


def test_crop_does_not_mirror_and_crop_flip_does():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :, :4] = 255  # bright on the left, whatever the shift by one pixel is
    batch = image.repeat(40, 1, 1, 1)

    def n_bright_right(name):
        changed = Augmentation(name, 8, 32)(batch, torch.Generator().manual_seed(0)).float()
        return int((changed[..., 4:].mean((1, 2, 3)) > changed[..., :4].mean((1, 2, 3))).sum())

    assert n_bright_right("crop") == 0
    assert 5 < n_bright_right("crop_flip") < 35


# -- features ----------------------------------------------------------------------------------


def extract(backbone, images=IMAGES, tta_flip=False):
    extractor = Classifier(backbone.network, PREPROCESSING, tta_flip=tta_flip)
    return extract_features(backbone.digest, extractor, images, SPLIT)


def test_frozen_means_frozen(backbone):
    backbone.network.train()
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    extract(backbone)
    after = backbone.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in backbone.network.parameters())


def test_features_are_the_penultimate_layer(backbone):
    found = extract(backbone).parts["val"]
    assert found.shape == (len(SPLIT.val), 512)
    plain = models.resnet18()
    plain.fc = torch.nn.Identity()
    plain.load_state_dict(backbone.network.state_dict())
    images = torch.from_numpy(IMAGES.pixels[SPLIT.val])
    with torch.inference_mode():
        expected = plain.eval()(PREPROCESSING(images)).numpy()
    # float32 convolutions of other batch sizes add in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_features_do_not_depend_on_the_batch(backbone, monkeypatch):
    extractor = Classifier(backbone.network, PREPROCESSING)
    monkeypatch.setattr("embedlab.vision.inference.BATCH_SIZE", 64)
    together = extractor.predict_logits(IMAGES, SPLIT.train)
    monkeypatch.setattr("embedlab.vision.inference.BATCH_SIZE", 1)
    alone = extractor.predict_logits(IMAGES, SPLIT.train)
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)  # as above


def test_test_time_augmentation_is_the_mean_of_an_image_and_its_mirror_image(backbone):
    mirrored = replace(IMAGES, pixels=IMAGES.pixels[..., ::-1].copy(), digest="mirrored")
    both = extract(backbone, tta_flip=True).parts["test"]
    plain, flipped = (extract(backbone, p).parts["test"] for p in (IMAGES, mirrored))
    np.testing.assert_allclose(both, (plain + flipped) / 2, rtol=1e-4, atol=1e-4)


def test_a_second_run_reads_the_cache(backbone, monkeypatch):
    first = extract(backbone)

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(Classifier, "predict_logits", forbidden)
    second = extract(backbone)
    assert (first.was_cached, second.was_cached) == (False, True)
    assert second.seconds == first.seconds
    assert all(np.array_equal(first.parts[part], second.parts[part]) for part in first.parts)


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda content: content[:10], lambda content: content[:-1], tampered]
)
def test_features_that_are_damaged_in_the_cache_are_computed_again(backbone, damage):
    first = extract(backbone)
    (file,) = cache_folder().rglob("features.npz")
    file.write_bytes(damage(file.read_bytes()))
    again = extract(backbone)
    assert not again.was_cached
    assert all(np.array_equal(first.parts[part], again.parts[part]) for part in first.parts)
    assert extract(backbone).was_cached


def test_the_key_changes_with_everything_that_matters(backbone):
    extractor = Classifier(backbone.network, PREPROCESSING)
    usual = ("weights", extractor, IMAGES, SPLIT)
    preprocessings = (
        replace(PREPROCESSING, resolution=48),
        replace(PREPROCESSING, crop_pct=0.9),
        replace(PREPROCESSING, mean=(0.5, 0.5, 0.5)),
    )
    changes = [
        (0, "other weights"),
        *((1, replace(extractor, preprocessing=other)) for other in preprocessings),
        (1, replace(extractor, precision="bfloat16")),
        (1, replace(extractor, tta_flip=True)),
        (2, replace(IMAGES, digest="other data")),
        (3, replace(SPLIT, train=SPLIT.train[1:])),
    ]
    keys = {features_key(*usual)}
    for position, value in changes:
        keys.add(features_key(*usual[:position], value, *usual[position + 1 :]))
    assert len(keys) == 1 + len(changes)
    assert features_key(*usual) in keys


def test_precisions_that_the_cpu_has_not_are_refused():
    assert choose_precision("auto", "cpu") in ("float32", "bfloat16")
    with pytest.raises(OptionError, match="float16 needs a GPU"):
        choose_precision("float16", "cpu")


# -- the linear probe ---------------------------------------------------------------------------


def blobs(n=300, d=6, seed=0):
    """Features and labels of three classes that overlap a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centres = np.random.default_rng(9).normal(size=(3, d))
    features = centres[labels] * 1.5 + rng.normal(size=(n, d))
    return (features * 3 + 7).astype(np.float32), labels  # neither centred nor scaled


def fit(options, train=None, val=None):
    """The fitted probe and its epochs."""
    probe = LinearProbe(train or blobs(), val or blobs(150, seed=1), 3, options, 0, "cpu")
    return probe, list(probe.train())


def test_lbfgs_is_scikit_learns_logistic_regression():
    decay, (x, y) = 0.01, blobs()
    probe, _ = fit(LinearProbeOptions("lbfgs", weight_decay=decay, epochs=15), (x, y))
    standardised = (x - x.mean(0)) / x.std(0, ddof=1)
    oracle = LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=1000)
    oracle.fit(standardised, y)
    ours = softmax(probe_logits(probe.layer(), x), axis=1)
    # The best epoch by validation need not be the last; both have converged to three digits.
    np.testing.assert_allclose(ours, oracle.predict_proba(standardised), atol=2e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lbfgs"])
def test_the_loss_falls_and_the_best_epoch_is_kept(optimizer):
    lr = 0.0 if optimizer == "lbfgs" else 0.05
    probe, epochs = fit(LinearProbeOptions(optimizer, lr, batch_size=32, epochs=8))
    assert [epoch.step.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].step.metrics["train/loss"] < math.log(3) / 2
    scores = [epoch.predictions.score for epoch in epochs]
    assert [s.accuracy for s in scores] == [e.step.metrics["val/accuracy"] for e in epochs]
    assert [s.loss for s in scores] == [e.step.metrics["val/loss"] for e in epochs]
    assert probe.best.score == scores[probe.best.epoch - 1]
    assert not any(score.beats(probe.best.score) for score in scores)
    # The folded layer of plain features predicts what the standardised one did.
    x, _ = blobs(150, seed=1)
    expected = epochs[probe.best.epoch - 1].predictions.probabilities
    found = softmax(probe_logits(probe.layer(), x), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_of_epochs_with_equal_accuracy_the_one_with_the_lowest_loss_is_kept():
    apart = blobs(60)[0] + 100 * np.eye(6, dtype=np.float32)[np.arange(60) % 3], np.arange(60) % 3
    probe, epochs = fit(LinearProbeOptions(epochs=15), apart, apart)
    assert {epoch.step.metrics["val/accuracy"] for epoch in epochs} == {1.0}
    assert probe.best.epoch == 15
    assert probe.best.score == (1.0, min(epoch.step.metrics["val/loss"] for epoch in epochs))


@pytest.mark.parametrize(
    ("one", "other", "beats"),
    [
        ((0.8, 9.0), (0.7, 0.1), True),
        ((0.8, 0.4), (0.8, 0.5), True),
        ((0.8, 0.5), (0.8, 0.5), False),
        ((0.8, math.nan), (0.8, 0.5), False),
        ((0.0, math.inf), NO_SCORE, True),
    ],
)
def test_the_higher_accuracy_is_better_and_of_equal_ones_the_lower_loss(one, other, beats):
    assert ValidationScore(*one).beats(ValidationScore(*other)) is beats


@pytest.mark.parametrize(
    ("n_images", "batch_size", "expected"),
    [(42_500, 256, 256), (1_273, 256, 63), (126, 256, 8), (3, 256, 8), (126, 4, 4)],
)
def test_an_epoch_over_few_images_has_several_updates(n_images, batch_size, expected):
    assert LinearProbeOptions(batch_size=batch_size).batch_size_for(n_images) == expected


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_probe_of_few_images_leaves_its_start(optimizer):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = rng.normal(size=(90, 512)) + 3 * rng.normal(size=(3, 512))[labels] / 512**0.25
    one = features.astype(np.float32), labels
    _, epochs = fit(LinearProbeOptions(optimizer), one, one)
    # Chance is ln 3 = 1.1. By one update an epoch, as of 90 images in one batch, it ends at 0.059,
    # by eleven at 0.004.
    assert epochs[-1].step.metrics["train/loss"] < 0.02


def test_a_probe_that_diverges_says_so():
    with pytest.raises(DivergedError, match=r"not finite after epoch 1.*lr=1e"):
        fit(LinearProbeOptions("sgd", lr=1e38))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("optimizer", "lion", "optimizer: expected one of sgd, adam, adamw, lbfgs"),
        ("lr", "-1", "lr: expected 'auto' or a number above 0"),
        ("weight-decay", "-1", "weight_decay: expected a number from 0 up"),
        ("epochs", "0", "epochs: expected a whole number from 1 up"),
        ("batch-size", "0", "batch_size: expected a whole number from 1 up"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_parser(name, value, sentence):
    with pytest.raises(OptionError, match=sentence):
        extract_features_entry.build_parser().parse_args([f"--{name}", value])


def test_each_optimizer_has_its_own_learning_rate():
    assert LinearProbeOptions("sgd").lr == 0.01
    assert LinearProbeOptions("sgd", 0.5).lr == 0.5


# -- metrics -----------------------------------------------------------------------------------

#                      labels              predicted           confidence
HAND = predictions([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], [0.9, 0.7, 0.6, 0.8, 0.5, 0.9])


def test_metrics_against_a_hand_worked_example():
    report = evaluate(HAND, CLASSES)
    assert report.accuracy == 4 / 6
    assert report.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    table = report.per_class.set_index("class")
    assert table["pictures"].tolist() == [3, 2, 1]
    assert table["precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["f1"].tolist() == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    of_truth = [0.9, 0.7, 0.2, 0.8, 0.25, 0.9]
    assert report.loss == pytest.approx(-np.log(of_truth).mean())
    metrics = report.as_metrics()
    assert metrics["test/accuracy_low"] < 4 / 6 < metrics["test/accuracy_high"]


def test_calibration_error_by_hand():
    """Fifteen bins: 0.9 and 0.9 share one, 0.7, 0.6, 0.8 and 0.5 have one each."""
    excess = [2 - 1.8, 1 - 0.7, 0 - 0.6, 1 - 0.8, 0 - 0.5]
    assert calibration_error(HAND) == pytest.approx(sum(map(abs, excess)) / 6)


def test_wilsons_interval_is_the_closed_formula():
    n, p, z = 50, 0.8, 1.959964
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert wilson_interval(40, 50) == pytest.approx(expected, rel=1e-6)


def test_top_predictions_are_the_most_confident_of_each_true_class():
    top = top_predictions(HAND, CLASSES, k=1)
    assert top.to_dict("list") == {
        "class": ["red", "red", "green", "green", "blue"],
        "kind": ["right", "wrong", "right", "wrong", "right"],
        "rank": [1] * 5,
        "predicted": ["red", "green", "green", "blue", "blue"],
        "confidence": [0.9, 0.6, 0.8, 0.5, 0.9],
        "row": [100, 102, 103, 104, 105],
    }


def test_top_predictions_against_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    found = predictions_of(rng.normal(size=(200, 3)), labels, np.arange(200))
    top = top_predictions(found, CLASSES, k=5)
    assert len(top) == 3 * 2 * 5
    for label, name in enumerate(CLASSES):
        for kind in ("right", "wrong"):
            candidates = [
                (-found.probabilities[i].max(), i)
                for i in range(200)
                if labels[i] == label
                and (found.probabilities[i].argmax() == label) == (kind == "right")
            ]
            expected = [i for _, i in sorted(candidates)[:5]]
            of_kind = top[(top["class"] == name) & (top["kind"] == kind)]
            assert of_kind["row"].tolist() == expected


def test_mcnemar_by_hand():
    """Of 6 images on which they differ, 5 to 1: two-sided p = 2 · (6 + 1) / 2⁶."""
    labels = [0] * 8
    first = predictions(labels, [0] * 6 + [1, 1], [0.9] * 8)
    second = predictions(labels, [0] + [1] * 5 + [0, 1], [0.9] * 8)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (5, 1)
    assert test.p_value == pytest.approx(14 / 64)
    assert mcnemar(first, first).p_value == 1.0


# -- the embedding -----------------------------------------------------------------------------


def test_nearest_images_against_a_loop():
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    features[7] = features[3]  # a twin: it is the nearest, and the query itself never is
    z = (features - features.mean(0)) / features.std(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    for query, found in zip([3, 11], nearest(features, np.array([3, 11]), 4), strict=True):
        others = sorted((-z[query] @ z[i], i) for i in range(30) if i != query)
        assert found.tolist() == [i for _, i in others[:4]]


@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_the_map_separates_what_is_separate(how):
    features, labels = blobs(90)
    points, rows = map_images(features + 100 * labels[:, None].astype(np.float32), how, seed=0)
    assert points.shape == (90, 2)
    assert rows.tolist() == list(range(90))
    centres = np.array([points[labels == label].mean(0) for label in range(3)])
    nearest_centre = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    assert (nearest_centre == labels).all()
    assert one_query_a_class(labels).tolist() == [0, 1, 2]


# -- figures -----------------------------------------------------------------------------------


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_prediction_grid_has_a_row_a_class_right_left_and_wrong_right():
    rows = replace(HAND, rows=np.arange(6))
    top = top_predictions(rows, CLASSES)
    (figure,) = figures.plot_top_predictions(top, IMAGES, "title")
    (axes,) = figure.axes
    assert len(axes.images) == len(top) == 6
    shown = texts(figure)
    assert shown[:3] == ["true class", "most confident, right", "most confident, wrong"]
    assert shown[3:] == [
        "red", "red 90%", "red 70%", "green 60%", "no more\nmistakes",
        "green", "green 80%", "blue 50%", "no more\nmistakes",
        "blue", "blue 90%", "no\nmistakes",
    ]  # fmt: skip
    left, right = ([i.get_extent()[0] for i in axes.images[:2]], axes.images[2].get_extent()[0])
    assert max(left) < right
    heights = [image.get_extent()[3] for image in axes.images]
    assert heights[0] == heights[1] == heights[2] < heights[3] == heights[4] < heights[5]


def test_many_classes_get_several_pages():
    classes = tuple(f"class {i}" for i in range(60))
    images = replace(IMAGES, classes=classes)
    empty = top_predictions(HAND, CLASSES).iloc[:0]
    assert len(figures.plot_top_predictions(empty, images, "title")) == 3


def test_the_other_figures_are_drawn():
    report = evaluate(HAND, CLASSES)
    rows = replace(HAND, rows=np.arange(6))
    points = np.random.default_rng(0).normal(size=(6, 2))
    for figure in (
        figures.plot_confusion(report, "t"),
        figures.plot_predictions(rows, IMAGES.pixels[rows.rows], CLASSES, "t"),
        figures.plot_embedding_map(points, HAND.labels, IMAGES.pixels[:6], CLASSES, "t"),
        figures.plot_neighbours(np.array([0]), np.array([[1, 2]]), IMAGES, "t"),
        figures.plot_disagreements(
            rows, rows.take(np.array([], dtype=int)), ("a", "b"), IMAGES, "t"
        ),
    ):
        pixels = figures.as_pixels(figure)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels.std() > 0


# -- comparison --------------------------------------------------------------------------------


def compared_runs():
    labels = [0, 1, 2] * 20
    good = predictions(labels, labels, [0.9] * 60)
    worse = [(label + 1) % 3 if i < 12 else label for i, label in enumerate(labels)]
    bad = predictions(labels, worse, [0.7] * 60)
    return [
        ComparedRun("features", "extract_features", 0.79, 60.0, bad),
        ComparedRun("tuned", "finetune", 0.99, 600.0, good),
    ]


def test_runs_are_compared_in_numbers_and_words():
    found = compare_runs(compared_runs(), CLASSES)
    assert [run.name for run in found.runs] == found.table["run"].tolist() == ["tuned", "features"]
    assert found.table["accuracy"].tolist() == [1.0, 0.8]
    assert found.table["minutes"].tolist() == [10.0, 1.0]
    (pair,) = found.pairs.to_dict("records")
    assert (pair["first"], pair["only_first_right"], pair["only_second_right"]) == ("tuned", 12, 0)
    assert pair["p_value"] == pytest.approx(2 / 2**12)
    assert found.recall["features"].tolist() == [0.8, 0.8, 0.8]
    words = found.to_markdown("squares")
    assert words.startswith("### tuned is the best of 2 on squares\n")
    assert "+20.00 points, significant (McNemar" in words
    assert re.search(r"gains most is \w+ \(\+20\.0 points\)", words)


def test_a_difference_that_is_not_significant_is_called_that():
    first, _ = compared_runs()
    twin = replace(first, name="twin", test=first.test)
    words = compare_runs([first, twin], CLASSES).to_markdown("squares")
    heading = "### features leads on squares; its lead over twin is not significant (p = 1)\n"
    assert words.startswith(heading)
    assert "+0.00 points, not significant (McNemar" in words
    assert "chance" not in words


def test_disagreements_show_the_wrong_answers_most_confident_first():
    bad, good = (run.test for run in compared_runs())
    shown = only_right(good, bad, max_shown=5)
    assert len(shown.rows) == 5
    assert not shown.is_right.any()
    assert len(only_right(bad, good).rows) == 0
