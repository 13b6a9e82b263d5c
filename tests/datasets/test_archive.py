"""Archives give the wanted files, and are refused in one sentence when hostile or damaged."""

import random
import stat
import zipfile
from pathlib import Path

import pytest
from rating_files import GOOD_ZIP, MOVIES, RATINGS, files_under, zip_bytes
from sentences import one_sentence

from embedlab.datasets import archive
from embedlab.datasets.archive import unpack
from embedlab.errors import DataError


def write_zip(path: Path, entries: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return path


def test_an_archive_that_points_before_its_start_is_one_sentence(tmp_path):
    data = bytearray(GOOD_ZIP)
    data[-6:-2] = (2**31).to_bytes(4, "little")  # the offset of the central directory
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="is not a zip archive or is damaged") as error:
        unpack(tmp_path / "a.zip", ["ratings.csv"], tmp_path)
    one_sentence(error)


def test_only_the_wanted_files_come_out_flat(tmp_path):
    path = write_zip(
        tmp_path / "a.zip",
        {
            "deep/er/ratings.csv": RATINGS,
            "movies.csv": MOVIES,
            "deep/tags.csv": b"x",
            "__MACOSX/deep/._ratings.csv": b"x",
        },
    )
    out = tmp_path / "out"
    out.mkdir()
    unpack(path, ["ratings.csv", "movies.csv"], out)
    assert files_under(out) == {"ratings.csv", "movies.csv"}
    assert (out / "ratings.csv").read_bytes() == RATINGS
    assert (out / "movies.csv").read_bytes() == MOVIES


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"../ratings.csv": RATINGS}, "points outside"),
        ({"ratings.csv": RATINGS, "a/../../evil": b"x"}, "points outside"),
        ({"ratings.csv": RATINGS, "..\\evil": b"x"}, "points outside"),
        ({"/etc/ratings.csv": RATINGS}, "points outside"),
        ({"C:\\ratings.csv": RATINGS}, "points outside"),
        ({link("ratings.csv"): b"/etc/passwd"}, "a link or device"),
        ({"ratings.csv": bytes(5_000_000)}, "packed more than 100 to 1"),
        ({"movies.csv": MOVIES}, "holds no ratings.csv"),
        ({"ratings.csv/": b"", "movies.csv": MOVIES}, "holds no ratings.csv"),
        ({"a/ratings.csv": RATINGS, "b/ratings.csv": RATINGS}, "2 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_archive_is_refused_and_nothing_written(tmp_path, entries, problem):
    path = write_zip(tmp_path / "a.zip", entries)
    out = tmp_path / "in" / "out"
    out.mkdir(parents=True)
    with pytest.raises(DataError) as error:
        unpack(path, ["ratings.csv"], out)
    assert problem in one_sentence(error)
    assert files_under(tmp_path) == {"a.zip"}


def test_a_file_too_large_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", len(RATINGS) - 1)
    with pytest.raises(DataError, match="bytes unpacked, more than"):
        unpack(write_zip(tmp_path / "a.zip", {"ratings.csv": RATINGS}), ["ratings.csv"], tmp_path)


def test_ml_32m_is_within_the_bounds():
    # Its ratings.csv is about 0.9 GB, at four bytes for one packed; a factor of two to spare.
    assert archive.MAX_BYTES > 2 * 0.9e9
    assert archive.MAX_RATIO > 2 * 4


def test_an_encrypted_file_is_refused(tmp_path):
    data = bytearray(zip_bytes({"ratings.csv": RATINGS}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1  # the flag "encrypted"; the content stays
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        unpack(tmp_path / "a.zip", ["ratings.csv"], tmp_path)


def test_a_damaged_archive_is_one_sentence_or_its_true_content(tmp_path):
    """200 seeded damages, a flipped byte or a cut, give no other exception and no other bytes."""
    rng = random.Random(0)
    content = b"".join(b"%d,%d,4.0,9\n" % (i, rng.randrange(9999)) for i in range(300))
    good = zip_bytes({"ml/ratings.csv": content})
    out = tmp_path / "out"
    out.mkdir()
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / "a.zip"
        path.write_bytes(data)
        try:
            unpack(path, ["ratings.csv"], out)
        except DataError:
            refused += 1
        else:
            assert (out / "ratings.csv").read_bytes() == content
    assert refused > 150
