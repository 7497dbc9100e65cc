"""Files of molecules that a machine made up: the right result, or one line.

What is right is read to the last digit, however it is written. What is damaged is
either read or refused by one `UserError`, with no warning on the way.
"""

import contextlib
import io
import pathlib
import tempfile
import warnings
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from demetar import elements
from demetar.data import molecule_files, qm9
from demetar.data.readers import comment, text
from demetar.errors import UserError
from tests.support import molecule_texts
from tests.support.quick import quick


@contextlib.contextmanager
def written(name: str, content: bytes) -> Iterator[pathlib.Path]:
    """A file of that name and content."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        path.write_bytes(content)
        yield path


def read(path):
    """The molecules of a file; None if one line refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return molecule_files.load(*molecule_files.find(path))
        except UserError as error:
            message = str(error)
            assert message and "\n" not in message and len(message) < 1_000
            return None


def test_what_is_no_user_error_is_seen(monkeypatch):
    """The negative control of all tests below."""

    def broken(line):
        raise TypeError("not for the user")

    monkeypatch.setattr(comment, "parse", broken)
    with written("mine.xyz", b"1\n\nH 0 0 0\n") as path, pytest.raises(TypeError):
        read(path)


# --- xyz ----------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.9e}"))
forms = st.sampled_from(
    [
        repr,
        lambda value: f"{value:+.9e}",
        lambda value: f"{value:.9E}",
        lambda value: f"{value:.9e}".replace("e", "D"),
        lambda value: f"{value:.9e}".replace("e", "d"),
        lambda value: f"{value:.9e}".replace("e", "*^"),
    ]
)
words = st.sampled_from(
    ["at", '2.0"', "5'", "ångström", '"a', "note:", "-1.5", "(x)", "{", "µ"]
)
element_forms = st.sampled_from(
    [
        lambda z: elements.SYMBOLS[z - 1],
        lambda z: elements.SYMBOLS[z - 1].lower(),
        lambda z: elements.SYMBOLS[z - 1].upper(),
        str,
    ]
)


@st.composite
def molecules_of(draw):
    """Atomic numbers, positions and an energy of some molecules."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 4))
        species = draw(st.lists(st.integers(1, 118), min_size=size, max_size=size))
        positions = [[draw(numbers) for _ in range(3)] for _ in range(size)]
        found.append((species, positions, draw(numbers)))
    return found


@st.composite
def xyz_files(draw):
    """Molecules, and a file that has them in some legal way."""
    found = draw(molecules_of())
    space = st.sampled_from([" ", "  ", "\t"])
    lines = []
    for species, positions, energy in found:
        order = draw(st.permutations(["element", "pos", "forces", "tag"]))
        extended = draw(st.booleans())
        if not extended:
            order = ["element", "pos"]
        value = draw(forms)(energy)
        value = draw(st.sampled_from(["{}", '"{}"', "'{}'"])).format(value)
        equals = draw(st.sampled_from(["=", " = ", "= ", " ="]))
        told = [*draw(st.lists(words, max_size=3)), f"energy{equals}{value}"]
        if extended:
            symbol = draw(st.sampled_from(["species:S:1", "Z:I:1"]))
            names = {"element": symbol, "pos": "pos:R:3", "forces": "forces:R:3"}
            declared = ":".join(names.get(one, "tag:S:1") for one in order)
            told.insert(0, f"Properties={declared}")
        lines += [" " * draw(st.integers(0, 2)) + str(len(species)), " ".join(told)]
        for z, position in zip(species, positions, strict=True):
            cells = {
                "element": [str(z)]
                if extended and symbol[0] == "Z"
                else [draw(element_forms)(z)],
                "pos": [draw(forms)(value) for value in position],
                "forces": ["9", "nan", "***"],
                "tag": ["7x"],
            }
            row = [cell for one in order for cell in cells[one]]
            lines.append(draw(space).join(row) + draw(st.sampled_from(["", " "])))
        lines += [""] * draw(st.integers(0, 2))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return found, (end.join(lines) + end).encode(encoding)


@quick
@hypothesis.given(xyz_files())
def test_xyz_is_read_however_it_is_written(example):
    expected, content = example
    with written("mine.xyz", content) as path:
        known = molecule_files.load(*molecule_files.find(path), with_bonds=False)
    assert known.numbers.tolist() == [z for species, _, _ in expected for z in species]
    assert known.column("energy").tolist() == [energy for _, _, energy in expected]
    positions = [row for _, rows, _ in expected for row in rows]
    np.testing.assert_array_equal(known.positions, positions)


XYZ = b"""3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F" smiles=O
O 0.0 0.0 0.119 0 0 0
H 0.0 0.763 -0.477 0 0 0
H 0.0 -0.763 -0.477 0 0 0
2
energy = 1.5D+01 title="a note"
H 0 0 0
H 0 0 0.74
"""
pieces = st.one_of(
    st.binary(max_size=4),
    st.sampled_from(
        [
            b"9999999999",
            b"-3",
            b"1_0",
            b"********",
            b"nan",
            b"inf",
            b"1e999",
            b"energy=",
        ]
        + [b'"', b"\xff\xfe", b"\0", b"\n\n", b"\xd9\xa3", b"Lattice=", b"pbc=", b"="]
    ),
)
damages = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 12), pieces), min_size=1, max_size=3
)


def damaged(content, damage):
    """The content with some pieces replaced by others."""
    for place, length, piece in damage:
        start = place % (len(content) + 1)
        content = content[:start] + piece + content[start + length :]
    return content


@quick
@hypothesis.given(damages)
def test_damaged_xyz(damage):
    with written("mine.xyz", damaged(XYZ, damage)) as path:
        known = read(path)
    if known is not None:
        assert np.isfinite(known.positions).all()


@quick
@hypothesis.given(st.integers(0, len(XYZ) - 1))
def test_truncated_xyz(length):
    with written("mine.xyz", XYZ[:length]) as path:
        known = read(path)
    whole = len(XYZ.splitlines()[-1]) + 1
    if known is not None and length < len(XYZ) - whole:
        assert len(known.index) == 1


# --- Comments -----------------------------------------------------------------------


@quick
@hypothesis.given(st.text(st.characters(exclude_characters="\n\r"), max_size=60))
def test_any_comment_is_read_or_refused(line):
    try:
        found = comment.parse(line)
    except ValueError as error:
        assert str(error)
    else:
        assert not any(map(np.isinf, found.properties.values()))


keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True).filter(
    lambda key: (
        key.lower() not in ("properties", "lattice", "pbc", "smiles", "stress")
        and key.lower() not in ("virial", "virials", "orig_cell")
    )
)
values = st.one_of(
    numbers.map(repr),
    st.integers(-(10**9), 10**9).map(str),
    st.sampled_from(["T", "F", "bulk", '"two words"', "{1 2 3}", "[1, 2]", '"0.5"']),
)


@quick
@hypothesis.given(
    st.dictionaries(keys, st.tuples(values, st.sampled_from(["=", " = "])), max_size=5),
    st.lists(st.sampled_from(["note", "at", "300"]), max_size=2),
)
def test_comments_say_what_ase_reads_in_them(pairs, free):
    extxyz = pytest.importorskip("ase.io.extxyz")
    told = [f"{key}{equals}{value}" for key, (value, equals) in pairs.items()]
    line = " ".join([*told, *free])
    expected = {
        key: float(value)
        for key, value in extxyz.key_val_str_to_dict(line).items()
        if np.ndim(value) == 0 and isinstance(value, np.number)
    }
    assert comment.parse(line).properties == expected


@quick
@hypothesis.given(st.permutations(["species:S:1", "pos:R:3", "a:R:2", "b:L:1"]))
def test_columns_are_those_of_ase(order):
    extxyz = pytest.importorskip("ase.io.extxyz")
    widths = {"species:S:1": "He", "pos:R:3": "1.5 2 -3", "a:R:2": "8 8", "b:L:1": "T"}
    row = " ".join(widths[one] for one in order)
    content = f'1\nProperties={":".join(order)} pbc="F F F"\n{row}\n'
    (atoms,) = extxyz.read_xyz(io.StringIO(content), slice(None))
    with written("mine.xyz", content.encode()) as path:
        known = read(path)
    assert known.numbers.tolist() == atoms.numbers.tolist()
    np.testing.assert_array_equal(known.positions, atoms.positions)


@quick
@hypothesis.given(st.text(max_size=12))
def test_any_word_is_a_finite_number_or_none(word):
    with contextlib.suppress(ValueError):
        assert np.isfinite(text.number(word))


# --- QM9's own files ----------------------------------------------------------------


@quick
@hypothesis.given(st.sampled_from(["sdf", "table", "gdb"]), damages)
def test_damaged_files_of_qm9(which, damage):
    structures, table = molecule_texts.sdf((1, 2))
    contents = {
        "gdb9.sdf": structures.encode(),
        "gdb9.sdf.csv": table.encode(),
    }
    if which == "gdb":
        contents = {"dsgdb9nsd_000001.xyz": molecule_texts.gdb(1).encode()}
    name = list(contents)[int(which == "table")]
    contents[name] = damaged(contents[name], damage)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            (pathlib.Path(folder) / name).write_bytes(content)
        read(pathlib.Path(folder))


@quick
@hypothesis.given(st.integers(0, 10**6))
def test_a_truncated_sdf_is_refused(place):
    structures, table = molecule_texts.sdf((1, 2))
    cut = structures.rstrip()[: place % (len(structures) - 2)]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "gdb9.sdf"
        path.write_text(cut)
        path.with_name("gdb9.sdf.csv").write_text(table)
        assert read(path) is None
        path.write_text(structures)
        assert len(read(path).index) == 2


@quick
@hypothesis.given(damages)
def test_a_damaged_archive(damage):
    content = molecule_texts.archive([molecule_texts.gdb(1), molecule_texts.gdb(2)])
    with written("dsgdb9nsd.xyz.tar.bz2", damaged(content, damage)) as path:
        read(path)


# --- npz ----------------------------------------------------------------------------

types = st.sampled_from(
    [np.float64, np.float32, np.float16, ">f8", np.int64, np.uint8, bool, complex, "U3"]
)
shapes = st.sampled_from([(), (0,), (2,), (3,), (3, 3), (3, 1), (1, 3), (2, 2)])
fills = st.sampled_from([0, 1, 2, 6.9, 17, 119, -1, 1e300, np.nan, np.inf, 2**62])


@st.composite
def arrays(draw):
    """An array of any type, shape and content."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.full(draw(shapes), draw(fills)).astype(draw(types))


def good_arrays():
    return {
        "numbers": np.array([8, 1, 17]),
        "positions": np.eye(3),
        "n_atoms": np.array([2, 1]),
        "energy": np.array([0.5, np.nan]),
    }


@quick
@hypothesis.given(st.dictionaries(st.sampled_from([*good_arrays(), "x"]), arrays()))
def test_npz_of_any_arrays(changes):
    buffer = io.BytesIO()
    np.savez(buffer, **{**good_arrays(), **changes})
    with written("mine.npz", buffer.getvalue()) as path:
        known = read(path)
    if not changes:
        assert known.numbers.tolist() == [8, 1, 17]
    if known is not None:
        assert all(array.dtype.kind not in "bcU" for array in changes.values())
        assert not np.isinf(known.properties).any()


@quick
@hypothesis.given(damages)
def test_damaged_npz(damage):
    buffer = io.BytesIO()
    np.savez(buffer, **good_arrays())
    with written("mine.npz", damaged(buffer.getvalue(), damage)) as path:
        read(path)


# --- Splits -------------------------------------------------------------------------

rows = st.one_of(
    st.lists(st.integers(-1, 6), max_size=3).map(np.array),
    st.lists(st.integers(0, 5), min_size=1, max_size=2).map(
        lambda found: np.array(found, float)
    ),
    arrays(),
)


@quick
@hypothesis.given(rows, rows, rows)
def test_splits_of_any_rows(train, valid, test):
    parts = dict(zip(qm9.PARTS, (train, valid, test), strict=True))
    buffer = io.BytesIO()
    np.savez(buffer, **parts)
    with written("split.npz", buffer.getvalue()) as path:
        try:
            found = qm9.split_rows(str(path), 6)
        except UserError as error:
            assert "\n" not in str(error)
            return
    everything = np.concatenate(list(found.values()))
    assert len(set(everything.tolist())) == len(everything)
    assert everything.min() >= 0 and everything.max() < 6
    for part, given in parts.items():
        assert found[part].dtype.kind == "i" and given.dtype.kind in "iuf"
        np.testing.assert_array_equal(found[part], given)
