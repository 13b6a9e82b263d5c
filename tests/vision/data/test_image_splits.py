"""Training, validation and test parts: stratified, by seed, with all copies found."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import BLACK, BLUE, GREEN, RED, encoded, write_images
from PIL import Image
from sentences import one_sentence

from embedlab.errors import DataError, OptionError
from embedlab.vision.data.images import ImageDataset, read_images
from embedlab.vision.data.splits import Split, duplicates_across_parts, split_images


def with_labels(labels: np.ndarray | list[int], n_train: int | None = None) -> ImageDataset:
    labels = np.array(labels, dtype=np.int64)
    classes = tuple(f"kind {k}" for k in range(labels.max() + 1))
    images = np.zeros((len(labels), 3, 1, 1), dtype=np.uint8)
    part_sizes = {} if n_train is None else {"train": n_train, "test": len(labels) - n_train}
    digest, fingerprints = "digest of the images", np.arange(len(labels))
    return ImageDataset("toy", classes, images, labels, part_sizes, digest, fingerprints)


def parts(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return split.train, split.val, split.test


def counts(images: ImageDataset, split: Split) -> list[list[int]]:
    """Images of each class in each part."""
    n_classes = len(images.classes)
    return [np.bincount(images.labels[p], minlength=n_classes).tolist() for p in parts(split)]


def check_rows(images: ImageDataset, split: Split) -> None:
    together = np.concatenate(parts(split))
    assert len(set(together.tolist())) == len(together)  # no row twice, none in two parts
    for part in parts(split):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    assert set(together.tolist()) <= set(range(len(images.labels)))


THREE_KINDS = with_labels(np.repeat([0, 1, 2], [60, 120, 180]))


def test_cifar10_is_split_into_42500_7500_and_10000():
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    images = with_labels(np.concatenate([shuffled, np.arange(10_000) % 10]), n_train=50_000)
    split = split_images(images, seed=0)
    assert counts(images, split) == [[4250] * 10, [750] * 10, [1000] * 10]
    assert np.array_equal(split.test, np.arange(50_000, 60_000))
    check_rows(images, split)


def test_without_test_images_a_sixth_is_taken_for_them():
    split = split_images(THREE_KINDS, seed=0)
    # A sixth of 360 is 60, and 15% of the other 300 is 45; classes are in the ratio 1 : 2 : 3.
    test, val = [10, 20, 30], [7.5, 15, 22.5]
    sizes = counts(THREE_KINDS, split)
    assert sizes[2] == test
    assert np.abs(np.subtract(sizes[1], val)).max() <= 0.5 and sum(sizes[1]) == 45
    assert np.array_equal(np.sum(sizes, axis=0), [60, 120, 180])
    check_rows(THREE_KINDS, split)


def test_the_seed_decides_the_split():
    one, again, other = (split_images(THREE_KINDS, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(parts(one), parts(again), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(parts(one), parts(other), strict=True))
    assert one.digest == again.digest != other.digest


def test_a_seed_does_not_touch_official_test_images():
    images = with_labels(np.arange(300) % 3, n_train=240)
    one, other = (split_images(images, seed) for seed in (1, 2))
    assert np.array_equal(one.test, np.arange(240, 300)) and np.array_equal(one.test, other.test)
    assert not np.array_equal(one.val, other.val)


def test_a_limit_of_the_training_images_leaves_the_rest_alone():
    whole = split_images(THREE_KINDS, seed=0)
    for limit in (3, 60, 254, 255, 1000):
        less = split_images(THREE_KINDS, seed=0, train_limit=limit)
        assert len(less.train) == min(limit, 255)
        assert set(less.train.tolist()) <= set(whole.train.tolist())
        assert np.array_equal(less.val, whole.val) and np.array_equal(less.test, whole.test)
        assert less.digest == whole.digest


def test_the_digest_is_that_of_what_a_model_is_evaluated_by():
    other_images = ImageDataset(**{**vars(THREE_KINDS), "digest": "other images"})
    digests = {
        split_images(THREE_KINDS, seed=0).digest,
        split_images(other_images, seed=0).digest,
        split_images(THREE_KINDS, seed=0, val_limit=30).digest,
        split_images(THREE_KINDS, seed=0, test_limit=30).digest,
    }
    assert len(digests) == 4


def test_limits_keep_the_shares_of_the_classes():
    split = split_images(THREE_KINDS, seed=0, train_limit=60, val_limit=12, test_limit=6)
    check_rows(THREE_KINDS, split)
    sizes = counts(THREE_KINDS, split)
    # The ratio is 1 : 2 : 3, up to one image per class, because of rounding.
    for part, expected in zip(sizes, ([10, 20, 30], [2, 4, 6], [1, 2, 3]), strict=True):
        assert sum(part) == sum(expected)
        assert np.abs(np.subtract(part, expected)).max() <= 1
    even = with_labels(np.arange(600) % 3)
    split = split_images(even, seed=0, train_limit=90, val_limit=9, test_limit=99)
    assert counts(even, split) == [[30] * 3, [3] * 3, [33] * 3]


def test_a_smaller_limit_takes_some_of_what_a_larger_takes():
    rows = [
        set(split_images(THREE_KINDS, 0, train_limit=n).train.tolist()) for n in (3, 50, 200, 0)
    ]
    assert rows[0] < rows[1] < rows[2] < rows[3]


def test_every_class_is_within_a_limit():
    images = with_labels(np.repeat([0, 1], [100, 8]))  # one image of kind 1 validates
    assert counts(images, split_images(images, 0, 2, 2, 2)) == [[1, 1]] * 3
    sizes = counts(images, split_images(images, 0, val_limit=13, test_limit=17))
    assert sizes[1:] == [[12, 1], [16, 1]]


@pytest.mark.parametrize("name", ["train_limit", "val_limit", "test_limit"])
def test_a_limit_below_the_number_of_classes_is_refused(name):
    assert split_images(THREE_KINDS, 0, **{name: 3})
    with pytest.raises(OptionError) as error:
        split_images(THREE_KINDS, 0, **{name: 2})
    text = f"{name}: expected 0 for all, or at least 3, one per class, got 2"
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("labels", "n_train", "problem"),
    [
        ([0, 1] * 3, None, "too few images to split 2 classes"),
        ([0] * 30 + [1], None, "the smallest class is 'kind 1'"),
        ([0] * 30, 30, "has no test image of kind 0"),
        ([0] * 30, 0, "too few images to split 1 classes"),
        ([0, 1] * 30 + [0] * 10, 60, "has no test image of kind 1"),
        ([0] * 30 + [0, 1] * 10, 30, "has no training image of kind 1"),
        ([0] * 100 + [1, 1], None, "image of kind 1"),
    ],
)
def test_a_class_that_is_not_in_every_part_is_one_sentence(labels, n_train, problem):
    with pytest.raises(DataError) as error:
        split_images(with_labels(labels, n_train), seed=0)
    sentence = one_sentence(error)
    assert problem in sentence and "about 20 per class" in sentence


def test_copies_in_another_part_are_found_by_their_pixels(tmp_path):
    """Format and metadata do not matter; copies within a part, or unused ones, do not count."""
    exif = Image.Exif()
    exif[0x010E] = "a copy"
    as_bmp = encoded(Image.new("RGB", (4, 4), RED), "BMP")
    described = encoded(Image.new("RGB", (4, 4), BLUE), exif=exif)
    files = {
        **{"train/cat/1.png": RED, "train/cat/2.png": RED, "train/dog/1.png": GREEN},
        **{"train/dog/2.png": BLUE, "test/cat/1.bmp": as_bmp, "test/dog/1.png": described},
        **{"test/dog/2.png": BLUE, "test/dog/3.png": BLACK},
    }
    images = read_images(write_images(tmp_path, files))
    row = {name: number for number, name in enumerate(images.files)}
    train, val, test = np.array([0, 1]), np.array([2, 3]), np.arange(4, 8)
    pairs = duplicates_across_parts(images, Split(train, val, test, ""))
    assert {(images.files[a], images.files[b]) for a, b in pairs} <= {
        ("test/cat/1.bmp", "train/cat/1.png"),
        ("test/cat/1.bmp", "train/cat/2.png"),
        ("test/dog/1.png", "train/dog/2.png"),
        ("test/dog/2.png", "train/dog/2.png"),
    }
    assert [a for a, _ in pairs] == [
        row[f"test/{name}"] for name in ("cat/1.bmp", "dog/1.png", "dog/2.png")
    ]
    assert duplicates_across_parts(images, Split(train, val[:1], test[1:3], "")) == []


def test_given_validation_images_validate_and_the_test_set_is_a_share_of_the_others():
    images = replace(with_labels(np.arange(150) % 3), part_sizes={"train": 120, "val": 30})
    split = split_images(images, seed=0)
    assert split.val.tolist() == list(range(120, 150))
    assert (len(split.train), len(split.test)) == (100, 20)
    whole = replace(images, part_sizes={"train": 90, "val": 30, "test": 30})
    assert [*map(len, parts(split_images(whole, seed=0)))] == [90, 30, 30]
    assert np.array_equal(split_images(whole, seed=0).test, np.arange(120, 150))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    n_official=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
    limits=st.tuples(*[st.integers(0, 60)] * 3),
)
def test_any_split_is_whole_or_one_of_our_errors(sizes, n_official, seed, limits):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).permutation(labels)
    official = np.arange(n_official) % len(sizes)
    images = with_labels(
        np.concatenate([labels, official]), n_train=len(labels) if n_official else None
    )
    try:
        split = split_images(images, seed, *limits)
    except (DataError, OptionError):
        return
    check_rows(images, split)
    assert np.min(counts(images, split)) >= 1
    whole = split_images(images, seed)
    for part, whole_part, limit in zip(parts(split), parts(whole), limits, strict=True):
        assert len(part) == (min(limit, len(whole_part)) or len(whole_part))
        assert set(part.tolist()) <= set(whole_part.tolist())
    assert sum(map(len, parts(whole))) == len(images.labels)
