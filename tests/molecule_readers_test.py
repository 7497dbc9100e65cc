"""Readers of molecules: other people's files, each with its right end."""

import bz2
import gzip
import io
import lzma
import os
import pathlib
import tarfile
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest

from demetar import elements
from demetar.data import molecule_files, molecules, targets
from demetar.data.readers import comment, gdb, npz, text
from demetar.errors import UserError
from tests.support import molecule_texts
from tools import prepare_qm9

WATER = "O 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n"


def load(place: pathlib.Path, with_bonds: bool = False) -> molecules.Molecules:
    return molecule_files.load(*molecule_files.find(place), with_bonds=with_bonds)


def of_text(
    folder: pathlib.Path, content: str | bytes, name: str = "mine.xyz"
) -> molecules.Molecules:
    path = folder / name
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content)
    return load(path)


@pytest.fixture
def cases(shared_dir: pathlib.Path) -> pathlib.Path:
    return shared_dir / "cases"


# --- Cases --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        *("extxyz_columns/plain.xyz", "extxyz_columns/forces_first.xyz"),
        *("xyz_comment_quote/quote.xyz", "xyz_exponents/dexp_prop.xyz"),
        *("xyz_latin1/latin1.xyz", "xyz_spaces_equal/spaces_eq.xyz"),
    ],
)
def test_files_of_one_molecule_of_water(cases, tmp_path, case):
    expected = of_text(tmp_path, f"3\nenergy=-1.5\n{WATER}")
    known = load(cases / case)
    assert known.fingerprint == expected.fingerprint
    assert known.column("energy").tolist() == [-1.5]
    assert known.notes[0].endswith("was read by demetar's own reader of extended xyz")


def test_a_periodic_cell_is_refused(cases):
    with pytest.raises(UserError, match=r"pbc\.xyz, line 1: .*periodic cell"):
        load(cases / "pbc_ignored" / "pbc.xyz")


def test_a_float_number_of_atoms_is_read(cases):
    known = load(cases / "npz_float_natoms" / "floatn.npz")
    assert (known.n_atoms == 3).all()


def test_chlorine_is_read(cases):
    known = load(cases / "npz_unknown_element" / "cl.npz")
    assert 17 in known.numbers


def test_arrays_without_axes_are_refused(cases):
    with pytest.raises(UserError, match=r"'n_atoms' of .*one\.npz, found int64\[\]"):
        load(cases / "one_molecule_npz" / "one.npz")


@pytest.mark.parametrize("name", ["hexN2.xyz", "hexNshuf2.xyz"])
def test_a_search_for_bonds_that_had_no_end(cases, name):
    known = load(cases / "bond_search_hangs" / name, with_bonds=True)
    assert known.bonds is not None and len(known.bonds) > 72
    assert known.notes[-1].startswith("1 of 1 molecules were given single bonds alone")


def parse(*arguments):
    given, _ = prepare_qm9.LINE.parse(arguments)
    return given


def test_the_source_is_never_overwritten(cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "x.npz"
    content = (cases / "prepare_overwrites" / "mine.npz").read_bytes()
    source.write_bytes(content)
    (tmp_path / "soft.npz").symlink_to(source)
    (tmp_path / "hard.npz").hardlink_to(source)
    for out in ("x.npz", "./x.npz", f"../{tmp_path.name}/x.npz", "soft.npz"):
        with pytest.raises(UserError, match="another --out than the source"):
            prepare_qm9.run(parse(f"--source={source}", f"--out={out}"))
    with pytest.raises(UserError, match="another --out than the source"):
        prepare_qm9.run(parse("--source=soft.npz", "--out=hard.npz"))
    assert source.read_bytes() == content
    prepare_qm9.run(parse("--source=x.npz", "--out=y.npz"))
    assert (tmp_path / "y.npz").exists()


# --- Comments -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, properties",
    [
        ("", {}),
        ("energy=-1.5 gap = 2 mass= 3", {"energy": -1.5, "gap": 2.0, "mass": 3.0}),
        ("energy=-0.15D+01", {"energy": -1.5}),
        ("energy=-1.5*^-6,", {"energy": -1.5e-6}),
        ("E(eV)={-1.5}; n='2'", {"E(eV)": -1.5, "n": 2.0}),
        ('title="energy=3 at 2\\" " energy=1', {"energy": 1.0}),
        ("it's 5' long, 2.0\" energy=1", {"energy": 1.0}),
        ("config=bulk dipole=[1, 2, 3] ok=T energy=1", {"energy": 1.0}),
        ("smiles=C=C energy=1", {"energy": 1.0}),
        ("smiles=[H][H] energy=1", {"energy": 1.0}),
        ('Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F" e=1', {"e": 1.0}),
    ],
)
def test_properties_of_a_comment(line, properties):
    assert comment.parse(line).properties == properties


def test_what_is_no_single_number_is_told(tmp_path):
    line = "config=bulk dipole='1 2 3' energy=1 2=3"
    known = of_text(tmp_path, f"3\n{line}\n{WATER}")
    assert known.names == ("energy",)
    assert known.notes[1].endswith("as no single numbers: 2, config, dipole")
    assert comment.parse("smiles=[NH4+] e=1").smiles == "[NH4+]"
    assert comment.parse('smiles="C=C" e=1').smiles == "C=C"


@pytest.mark.parametrize(
    "line, message",
    [
        ("energy=********", "'energy': .* is no number"),
        ("energy=-1.5eV", "'energy': '-1.5eV' is no number"),
        ('energy="-1.5 eV"', "'energy': 'eV' is no number"),
        ("energy=1e999", "is no finite number"),
        ("energy=inf", "is no finite number"),
        ("energy=1_0", "is no finite number"),
        ("energy=", "'energy' has no value"),
        ("energy= gap=2", "'energy' has no value"),
        ('energy="-1.5', "'energy': "),
        ("energy=1 energy=1", "'energy' has two values"),
        ("Lattice='9 0 0 0 9 0 0 0 9' energy=1", "periodic cell"),
        ("pbc='F F T' energy=1", "periodic cell"),
        ("pbc=T energy=1", "periodic cell"),
        ("pbc='F F' energy=1", "neither T nor F for each direction"),
        ("Properties=species:S:1 energy=1", "has no pos:R:3"),
        ("Properties=species:S:1:pos:R energy=1", "no list of name:type:count"),
        ("Properties=pos:R:3 energy=1", "neither species:S:1 nor Z:I:1"),
        ("Properties=species:S:1:pos:R:3:pos:R:3", "has 'pos' twice"),
        ("Properties=species:S:1:pos:R:x", "'x' is no number of things"),
        ("Properties=species:S:1:pos:R:3:x:Q:1", "has a column x:Q:1"),
    ],
)
def test_comments_that_are_refused(line, message):
    with pytest.raises(ValueError, match=message):
        comment.parse(line)


def test_labels_beside_atomic_numbers(tmp_path):
    """ASE too takes Z where both columns are there."""
    lines = "2\nProperties=species:S:1:pos:R:3:Z:I:1 e=1\nOW1 0 0 0 8\nHW2 0 0 1 1\n"
    assert of_text(tmp_path, lines).numbers.tolist() == [8, 1]


# --- xyz ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        ("0\n\n", "line 1: .*expected 1 to 255 atoms, found 0"),
        ("-3\n\n", "line 1: .*'-3' is no number of atoms"),
        ("9999999999\n\n", "expected 1 to 255 atoms, found 9999999999"),
        ("9" * 5000 + "\n\n", "expected 1 to 255 atoms, found 9999"),
        ("1\n", "1 atoms announced, 0 there"),
        ("1", "1 atoms announced, 0 there"),
        ("2\n\nH 0 0 0\n\n", "line 4 has 0 columns"),
        ("1\nProperties=species:S:1:pos:R:3\nH 0 0 0 1\n", "has 5 columns, Prop"),
        ("1\n\nXx 0 0 0\n", "'Xx' is no element"),
        ("1\n\nH 0 0 1e12\n", "coordinates up to 1e.09 Å, found 1e.12"),
        ("1\n\nH 0 0 0\nH 0 0 1\n", "line 4: .*is no number of atoms"),
        (b"1\n\0\nH 0 0 0\n", "is no text"),
        (b"\xff\xfe1\x00\n", "cannot read"),
    ],
)
def test_xyz_that_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        of_text(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "mine.xyz"
    os.mkfifo(path)
    with pytest.raises(UserError, match="found a device, pipe or folder"):
        load(path)


def test_many_names_are_cut(tmp_path):
    many = " ".join(f"p{number}=1" for number in range(5_000))
    content = f"1\n{many}\nH 0 0 0\n1\na=1\nH 0 0 0\n"
    with pytest.raises(UserError, match="p9 and 4,990 more, found a") as caught:
        of_text(tmp_path, content)
    assert len(str(caught.value)) < 300
    known = of_text(tmp_path, f"1\n{many}\nH 0 0 0\n")
    with pytest.raises(UserError, match="p9 and 4,990 more"):
        targets.target_values(known, "q")
    for number in range(30):
        (tmp_path / f"{number}.xyz").write_text("")
    with pytest.raises(UserError, match="and 21 more"):
        molecule_files.find(tmp_path)


def test_elements_are_known_by_all_their_names():
    for number, symbol in enumerate(elements.SYMBOLS, 1):
        for name in (symbol, symbol.lower(), symbol.upper(), str(number)):
            assert elements.number_of(name) == number
    assert elements.name(17) == "17 (Cl)" and elements.name(119) == "119"
    assert len(elements.RADII) == 96 and elements.RADII[96] == 1.69
    for name in ("", "0", "119", "C1", "X", "9" * 30):
        with pytest.raises(ValueError, match="is no element"):
            elements.number_of(name)


# --- npz ---------------------------------------------------------------------------


def test_any_number_type_gives_the_same_molecules(tmp_path):
    expected: dict[str, Any] = {
        "numbers": np.array([8, 1, 17]),
        "positions": np.eye(3),
        "n_atoms": np.array([2, 1]),
        "energy": np.array([0.5, np.nan]),
    }
    for kind in ("f8", ">f8", "f4", ">i4", "u1"):
        np.savez(
            tmp_path / "mine.npz",
            **{
                **expected,
                "numbers": expected["numbers"].astype(kind),
                "n_atoms": expected["n_atoms"].astype(kind),
            },
        )
        records, names = npz.read(tmp_path / "mine.npz")
        assert [record.numbers for record in records] == [[8, 1], [17]]
        assert names == ["energy"]


# --- QM9's own files ----------------------------------------------------------------


def test_single_files_of_qm9(tmp_path):
    for index in (1, 2):
        path = tmp_path / f"dsgdb9nsd_{index:06}.xyz"
        path.write_text(molecule_texts.gdb(index))
    known = load(tmp_path)
    assert known.index.tolist() == [1, 2] and known.source == "qm9"
    assert known.notes == ("2 of the 130,831 molecules of QM9 are there",)
    other = load(path)
    assert other.index.tolist() == [2] and other.names == molecule_files.PROPERTIES
    for cut in (20, 60, 200):
        path.write_text(molecule_texts.gdb(2)[:cut])
        with pytest.raises(UserError, match=r"dsgdb9nsd_000002\.xyz: expected a mol"):
            load(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (("gdb 1\t", "gdb 99999999999999\t"), "'99999999999999' is no number of thi"),
        (("gdb 1\t", "gdb 4294967297\t"), "a number from 1 to 2147483647"),
        (("gdb 1\t", "gdb -1\t"), "'-1' is no number of things"),
        (("C\t", "Si\t"), "expected the elements H, C, N, O, F, found 14 .Si"),
        (("5\n", "6\n"), "expected an element, x, y, z and a charge"),
        (("5\n", "99999999999\n"), "99999999999 atoms announced"),
        (("6.469", "6.4x"), "'6.4x' is no number"),
        (("InChI", "x\nInChI"), "it goes on behind the molecule"),
        (("\t6.469", ""), "expected 15 properties, found 14"),
        (("\t6.469", "\té"), "'ascii' codec"),
    ],
)
def test_files_of_qm9_that_are_refused(tmp_path, change, message):
    old, new = change
    content = molecule_texts.gdb(1).replace(old, new, 1)
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_an_archive_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(gdb, "MOST_BYTES", 10_000)
    monkeypatch.setattr(gdb, "MOST_TOTAL", 100_000)
    path = tmp_path / molecule_files.ARCHIVE
    for kind, size, count, message in (
        (tarfile.REGTYPE, 20_000, 1, "files of at most 10,000 bytes .*found 20,000"),
        (tarfile.GNUTYPE_LONGNAME, 20_000, 1, "at most 10,000 bytes .*found 20,000"),
        (tarfile.XHDTYPE, 20_000, 1, "at most 10,000 bytes .*found 20,000"),
        (tarfile.REGTYPE, 9_000, 12, "at most 100,000 bytes of files"),
    ):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as file:
            for _ in range(count):
                member = tarfile.TarInfo("README")
                member.size, member.type = size, kind
                file.addfile(member, io.BytesIO(bytes(size)))
        path.write_bytes(bz2.compress(content.getvalue()))
        with pytest.raises(UserError, match=message):
            load(path)


@pytest.mark.parametrize("module", [bz2, gzip, lzma])
def test_an_archive_is_unpacked_only_as_far_as_it_is_read(tmp_path, module):
    size = 2**26
    path = tmp_path / "archive.tar.bz2"
    path.write_bytes(module.compress(bytes(size)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="at least one molecule|cannot read"):
            load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 4


def test_structures_and_table_must_be_of_the_same_molecules(tmp_path):
    structures, table = molecule_texts.sdf((1, 2))
    other, _ = molecule_texts.sdf((1,))
    path = tmp_path / "gdb9.sdf"
    path.with_name("gdb9.sdf.csv").write_text(table)
    for content, message in (
        (other, "expected the 2 molecules of gdb9.sdf.csv .* found 1"),
        (structures.replace("gdb_2", "gdb_3"), "gdb9.sdf.csv has no 'gdb_3'"),
        (structures[: structures.rindex("$$$$")], "ends within a molecule"),
        (structures.replace("  5  4", " -5  4"), "'-5' is no number of things"),
        (structures.replace("V2000", "V3000"), "no molecule of version V2000"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load(path)
    path.write_text(structures)
    path.with_name("gdb9.sdf.csv").write_text(table + table.splitlines()[1])
    with pytest.raises(UserError, match="row 4: .*'gdb_1' is there twice"):
        load(path)
    path.with_name("gdb9.sdf.csv").write_text(table.replace("mol_id", "A", 1))
    with pytest.raises(UserError, match="one column 'mol_id' .* found none"):
        load(path)


def test_a_table_with_a_huge_cell(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1," + "9" * 200_000 + "\n")
    with pytest.raises(UserError, match="cannot read .* after row 1 .field larger"):
        list(text.table(path))


@pytest.mark.parametrize(
    ("found", "changed", "message"),
    [
        ("  5  4", "  4  4", "4 atoms announced, 5 there"),
        ("  5  4", "  6  4", "6 atoms announced, 5 there"),
        ("M  END", "M  ISO", "then M END is missing"),
    ],
)
def test_a_structure_has_what_it_announces(tmp_path, found, changed, message):
    structures, table = molecule_texts.sdf((1,))
    (tmp_path / molecule_files.SDF_TABLE).write_text(table)
    path = tmp_path / molecule_files.SDF
    path.write_text(structures.replace("M  END", "M  CHG  1   1   1\nM  END"))
    assert load(path).n_atoms.tolist() == [5]
    assert found in structures
    path.write_text(structures.replace(found, changed, 1))
    with pytest.raises(UserError, match=message):
        load(path)


def test_what_float64_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        numbers=[2],
        positions=np.zeros((1, 3)),
        n_atoms=[1],
        energy=np.array(["1e4000"], np.longdouble),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="expected finite numbers in 'energy'"):
            load(path)
