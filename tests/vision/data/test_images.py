"""Images of a folder or the sample: classes, order, what is left out, and their digest."""

import shutil

import numpy as np
import pytest
from image_files import (
    ANIMALS,
    BLACK,
    BLUE,
    GREEN,
    JPEG,
    RED,
    WHITE,
    colours,
    encoded,
    write_images,
)
from PIL import Image

from embedlab.datasets.image_source import SAMPLE, ImageSource, locate_images
from embedlab.vision.data.images import from_arrays, read_images


def test_the_sample_is_the_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = locate_images("sample")
    assert source == ImageSource(SAMPLE, "digits sample", None, "built-in sample")
    images = read_images(source)
    assert images.pixels.shape == (1797, 3, 8, 8) and images.pixels.dtype == np.uint8
    assert images.labels.dtype == np.int64
    assert images.classes == tuple("0123456789")
    assert (images.part_sizes, images.left_out) == ({}, ())
    assert str(images) == "digits sample: 1,797 images of 10 classes, 8 px a side"
    digits = load_digits()
    assert np.array_equal(images.labels, digits.target)
    for colour in range(3):
        # 17 greys from 0 to 255 are 15.94 apart; rounding changes a grey by at most half a level.
        off = np.abs(images.pixels[:, colour] - digits.images * 255 / 16)
        assert off.max() <= 0.5
    assert (images.pixels.min(), images.pixels.max()) == (0, 255)
    assert read_images(source).digest == images.digest


def test_a_folder_of_classes_has_no_test_images_of_its_own(tmp_path):
    images = read_images(write_images(tmp_path / "animals", ANIMALS))
    assert images.name == "animals"
    assert images.classes == ("cat", "dog")
    assert colours(images) == [RED, GREEN, BLUE, BLACK]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert (images.pixels.dtype, images.labels.dtype) == (np.uint8, np.int64)
    assert (images.part_sizes, images.side, images.left_out) == ({}, 4, ())
    assert str(images) == "animals: 4 images of 2 classes, 4 px a side"


def test_training_images_come_before_validation_and_test_images(tmp_path):
    files = {
        "valid/cat/1.png": GREEN,
        "valid/dog/1.png": BLACK,
        "test/cat/1.png": RED,
        "test/dog/1.png": GREEN,
        "train/cat/1.png": BLUE,
        "train/dog/1.png": WHITE,
        "train/dog/2.png": BLACK,
        "train/dog/3.png": b"broken",
    }
    images = read_images(write_images(tmp_path, files))
    assert colours(images) == [BLUE, WHITE, BLACK, GREEN, BLACK, RED, GREEN]
    assert images.labels.tolist() == [0, 1, 1, 0, 1, 0, 1]
    # Only files that can be read count.
    assert images.part_sizes == {"train": 3, "val": 2, "test": 2}
    assert images.notes == ()
    assert images.left_out == (("train/dog/3.png", "not an image"),)


def test_folders_in_a_class_are_its_images_and_hidden_files_are_none(tmp_path):
    files = {
        **ANIMALS,
        "cat/old/b.png": WHITE,
        "cat/old/a.png": BLACK,
        "cat/young/1.png": RED,
        "cat/lost/1.png": GREEN,
        "cat/big/1.png": BLUE,
        "cat/.DS_Store": b"x",
        ".git/config": b"x",
        "readme.txt": b"beside the classes",
    }
    images = read_images(write_images(tmp_path, files))
    assert images.classes == ("cat", "dog")
    big, lost, old, young = [BLUE], [GREEN], [BLACK, WHITE], [RED]
    assert colours(images) == [RED, GREEN, *big, *lost, *old, *young, BLUE, BLACK]
    assert images.left_out == ()


def test_files_that_cannot_be_read_are_named_and_counted(tmp_path):
    files = {**ANIMALS, "cat/0.png": b"", "cat/half.jpg": JPEG[: len(JPEG) // 2], "dog/z.txt": b"z"}
    images = read_images(write_images(tmp_path / "animals", files))
    assert [name for name, _ in images.left_out] == ["cat/0.png", "cat/half.jpg", "dog/z.txt"]
    assert str(images.left_out[0]) == "cat/0.png: not an image"
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")


@pytest.mark.parametrize(
    "files",
    [
        {**ANIMALS, "dog/2.png": (0, 0, 1)},
        {"cat/1.png": RED, "dog/0.png": GREEN, "dog/1.png": BLUE, "dog/2.png": BLACK},
        {name.replace("dog", "fox"): colour for name, colour in ANIMALS.items()},
        {**ANIMALS, "dog/3.png": BLACK},
    ],
    ids=["a pixel", "a label", "a class name", "one more"],
)
def test_the_digest_changes_with_any_file(tmp_path, files):
    first = read_images(write_images(tmp_path / "first", ANIMALS))
    assert read_images(write_images(tmp_path / "second", files)).digest != first.digest


def test_the_digest_is_that_of_the_content_wherever_it_lies(tmp_path):
    first = read_images(write_images(tmp_path / "here", ANIMALS))
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = read_images(locate_images(f"folder:{tmp_path / 'there'}"))
    assert (moved.name, moved.digest) == ("there", first.digest)
    # The same as in all earlier versions, so that runs on the same images can be compared.
    assert first.digest == "b82e35beada9b475f3a62e3f68344129832c5daa594406ac94cf2cc03b4a10c7"
    as_bmp = {
        name.replace("png", "bmp"): encoded(Image.new("RGB", (4, 4), colour), "BMP")
        for name, colour in ANIMALS.items()
    }
    assert read_images(write_images(tmp_path / "bmp", as_bmp)).digest == first.digest


def test_the_digest_of_arrays_changes_with_pixels_labels_names_and_shape():
    images = np.zeros((50, 3, 1, 1), dtype=np.uint8)
    labels = np.zeros(50, dtype=np.int64)
    changed, relabelled = images.copy(), labels.copy()
    changed[-1, -1] = 1
    relabelled[-1] = 1
    digests = {
        from_arrays("toy", classes, given_images, given_labels, None).digest
        for classes, given_labels, given_images in (
            (("a", "b"), labels, images),
            (("a", "b"), labels, changed),
            (("a", "b"), relabelled, images),
            (("a", "c"), labels, images),
            (("a", "b"), labels, images.reshape(50, 1, 3, 1)),
        )
    }
    assert len(digests) == 5
