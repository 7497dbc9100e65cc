"""Readers of JSON, .npz and text: right, or one line."""

import codecs
import io
import zipfile
from typing import Any

import numpy as np
import pytest

from demetar import archives, files, places
from demetar.errors import UserError


def refused(function, *args, match=None):
    with pytest.raises(UserError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "as JSON"),
        (b"{", "as JSON"),
        (b"[1, 2]", "a JSON object, found list"),
        (b"null", "a JSON object, found NoneType"),
        (b"[" * 100_000, "as JSON"),
        (b'{"a": \xff}', "as JSON"),
        ('{"a": 1}'.encode("utf-16"), "as JSON"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": 1, "a": 2}', "'a' more than once"),
        (b'{"a": ' + b"9" * 5000 + b"}", "as JSON"),
    ],
)
def test_bad_json_is_one_line(tmp_path, content, match):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    refused(files.read_json, path, match=match)


def test_json_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": [1, 2.5, "\xc3\xa5"]}')
    assert files.read_json(path) == {"a": [1, 2.5, "å"]}
    refused(files.read_json, tmp_path / "none.json", "remove it", match="; remove it")
    refused(files.read_json, tmp_path)


ARRAYS: dict[str, Any] = {
    "floats": np.linspace(0, 1, 12).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(5, dtype=">i4"),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "text": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    for mapped in (False, True):
        if mapped and save is np.savez_compressed:
            refused(lambda: archives.read_npz(path, mapped=True), match="is compressed")
            continue
        found = archives.read_npz(path, mapped=mapped)
        assert set(found) == set(ARRAYS)
        for name, expected in ARRAYS.items():
            np.testing.assert_array_equal(found[name], expected)
            assert found[name].dtype == expected.dtype.newbyteorder("=")
            assert found[name].dtype.isnative
    assert set(archives.parse_npz(path.read_bytes(), path)) == set(ARRAYS)


def member(array=None, raw=None):
    content = io.BytesIO()
    if raw is None:
        np.lib.format.write_array(content, array)
        return content.getvalue()
    return raw


def header(shape, descr="'<f8'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    padded = text + " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


@pytest.mark.parametrize(
    "raw, match",
    [
        (header("(1000000000000,)"), "claims 8000000000000 bytes, 0 are there"),
        (header("(-4,)"), "shape"),
        (header("(2,)") + b"\0" * 8, "claims 16 bytes, 8"),
        (header("(1,)", "'|O'") + b"\0" * 8, "expected plain numbers"),
        (header("(1,)", "[('a', '<f8')]") + b"\0" * 8, "expected plain numbers"),
        (header("(1,)", "'<M8[s]'") + b"\0" * 8, "expected plain numbers"),
        (header("(" * 3000), "damaged"),
        (b"junk", "damaged"),
        (b"", "damaged"),
    ],
)
def test_bad_arrays_are_one_line(tmp_path, raw, match):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", raw)
    refused(archives.read_npz, path, match=match)


def test_bad_archives_are_one_line(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY" + b"\0" * 100, b"junk" * 100):
        path.write_bytes(content)
        refused(archives.read_npz, path, match="no .npz")
        refused(lambda: archives.read_npz(path, mapped=True), match="no .npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", member(np.arange(5)))
    refused(archives.read_npz, path, match="method 12")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "text")
    refused(archives.read_npz, path, match="is no array")
    np.savez(path, x=np.arange(5))
    flagged = bytearray(path.read_bytes())
    flagged[flagged.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(flagged))
    refused(archives.read_npz, path, match="encrypted")


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.npz"
    size = 2**28 + 2**24
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as stream,
    ):
        stream.write(header(f"({size},)", "'|u1'"))
        for _ in range(size // 2**24):
            stream.write(bytes(2**24))
    assert path.stat().st_size < 2**21
    refused(archives.read_npz, path, match="more than 50 times")


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **ARRAYS)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refusals = 0
    for place in generator.integers(0, len(content), 300).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(damaged))
        for mapped in (False, True):
            try:
                found = archives.read_npz(path, mapped=mapped)
            except UserError:
                refusals += 1
                continue
            for name in set(found) & set(ARRAYS):
                np.testing.assert_array_equal(found[name], ARRAYS[name])
    assert refusals > 100


def test_numbers_are_checked():
    real, whole = files.real_numbers, files.whole_numbers
    found = real(np.array([1, 2]), "x", "f", (None,))
    assert found.dtype == np.float64
    assert whole(np.array([8.0, 3.0]), "n", "f", (2,)).tolist() == [8, 3]
    for bad in (np.array([True]), np.array([1j]), np.array(["1"]), np.array([[1.0]])):
        refused(real, bad, "x", "f.npz", (None,), match="'x' of f.npz, found")
        refused(whole, bad, "x", "f.npz", (None,), match="'x' of f.npz, found")
    bad = np.array([[1.0, np.nan], [np.inf, 0]])
    refused(real, bad, "x", "f", (2, 2), match=r"found nan at \[0, 1\].*2 in all")
    for value in (6.9, np.nan, np.inf, -1, 1e30):
        refused(whole, np.array([1, value]), "n", "f", (2,), match=r"at \[1\]")


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"plain", "utf-8"),
        ("å".encode(), "utf-8"),
        (b"\xc5", "latin-1"),
        (b"a" * 2**20 + b"\xc3", "latin-1"),
        (b"a" * (2**20 - 1) + "å".encode(), "utf-8"),
        (codecs.BOM_UTF8 + b"a", "utf-8-sig"),
        ("å".encode("utf-16"), "utf-16"),
        ("å".encode("utf-32"), "utf-32"),
    ],
)
def test_encodings(tmp_path, content, expected):
    path = tmp_path / "text"
    path.write_bytes(content)
    assert files.text_encoding(path) == expected
    content.decode(expected)


def test_a_folder_in_place_of_a_file_is_told_and_left(tmp_path):
    place = tmp_path / "made.npz"
    (place / "precious").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught, files.replacing(place) as file:
        file.write(b"x")
    told = str(places.unwritten(place, caught.value))
    assert told == (
        f"cannot write {place}: it is a folder; move it elsewhere and run the same "
        "command again"
    )
    with pytest.raises(UserError, match="cannot replace .*made.npz: it is a folder"):
        places.remove(place)
    assert [path.name for path in tmp_path.iterdir()] == ["made.npz"]
    (place / "precious").rmdir()
    place.rmdir()
    places.remove(place)
    with files.replacing(place) as file:
        file.write(b"x")
    places.remove(place)
    assert not list(tmp_path.iterdir())


def test_binary_is_no_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"ab\0cd")
    refused(files.text_encoding, path, match="no text")
    refused(files.text_encoding, tmp_path / "none", match="No such file")
