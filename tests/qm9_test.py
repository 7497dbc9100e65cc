"""QM9: what is read, its targets and units, bonds, splits, graphs and batches."""

import bz2
import dataclasses
import io
import tarfile

import numpy as np
import pytest

from demetar import elements
from demetar.connectivity import complete_edges
from demetar.data import (
    bonds,
    molecule_files,
    molecules,
    qm9,
    smiles,
    splits,
    targets,
)
from demetar.errors import UserError

WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.467], [0.0, -0.757, -0.467]])


def ring(count, radius, height=0.0, turn=0.0):
    angles = 2 * np.pi * np.arange(count) / count + turn
    columns = radius * np.cos(angles), radius * np.sin(angles), np.full(count, height)
    return np.stack(columns, axis=1)


BENZENE = np.concatenate([ring(6, 1.39), ring(6, 2.48)])
METHANE = np.array(
    [[0, 0, 0], [0.63, 0.63, 0.63], [0.63, -0.63, -0.63], [-0.63, 0.63, -0.63]]
    + [[-0.63, -0.63, 0.63]],
    float,
)
KNOWN = {
    "water": ("OHH", WATER, "O"),
    "methane": ("CHHHH", METHANE, "C"),
    "benzene": ("C" * 6 + "H" * 6, BENZENE, "c1ccccc1"),
    "hydrogen": ("HH", np.array([[0.0, 0, 0], [0, 0, 0.74]]), ""),
    "nitrogen": ("NN", np.array([[0.0, 0, 0], [0, 0, 1.1]]), "N#N"),
}


def make_molecules(count=40, seed=0, names=("gap",)):
    """Known molecules in turn, shaken a little, with random properties."""
    generator = np.random.default_rng(seed)
    records = []
    for row in range(count):
        symbols, positions, text = list(KNOWN.values())[row % len(KNOWN)]
        species = [elements.NUMBERS[symbol] for symbol in symbols]
        shaken = positions + generator.normal(0, 0.01, positions.shape)
        properties = generator.normal(size=len(names)).tolist()
        records.append(
            molecules.Record(
                *(f"row {row}", row + 1, species, shaken.ravel().tolist()),
                *(properties, text),
            )
        )
    return molecules.build(records, names, ["eV"] * len(names), "own")


# --- Bonds --------------------------------------------------------------------------


def bonds_of(symbols, positions, text):
    numbers = np.array([[elements.NUMBERS[symbol] for symbol in symbols]])
    (pairs,) = bonds.connections(numbers, positions[None])
    codes, right = bonds.codes(numbers[0].tolist(), list(map(tuple, pairs)), text)
    return dict(zip(map(tuple, pairs.tolist()), codes, strict=True)), right


@pytest.mark.parametrize("with_smiles", [True, False])
def test_bonds_of_known_molecules(with_smiles):
    expected = {
        "water": {(0, 1): 1, (0, 2): 1},
        "methane": {(0, k): 1 for k in range(1, 5)},
        "benzene": {(k, k + 6): 1 for k in range(6)}
        | {tuple(sorted((k, (k + 1) % 6))): bonds.AROMATIC for k in range(6)},
        "hydrogen": {(0, 1): 1},
        "nitrogen": {(0, 1): 3},
    }
    for name, (symbols, positions, text) in KNOWN.items():
        found, right = bonds_of(symbols, positions, text if with_smiles else "")
        assert right and found == expected[name], name


def test_every_kekule_structure_gives_the_same_types():
    symbols, positions, _ = KNOWN["benzene"]
    found = [
        bonds_of(symbols, positions, text)
        for text in ("C1=CC=CC=C1", "C=1C=CC=CC1", "c1ccccc1", "")
    ]
    assert all(one == found[0] for one in found)


def test_a_broken_molecule_has_no_valences():
    symbols, positions, text = KNOWN["methane"]
    stretched = positions * np.array([1, 1, 1, 1, 3])[:, None]
    found, right = bonds_of(symbols, stretched, text)
    assert not right and len(found) == 3


RING = {(1, 2): 1, (2, 3): 1, (1, 3): 1}


@pytest.mark.parametrize(
    "text, numbers, charges, orders",
    [
        (
            "O=C1CC1",
            (8, 6, 6, 6),
            (0,) * 4,
            {(0, 1): 2, (1, 2): 1, (2, 3): 1, (1, 3): 1},
        ),
        ("[NH3+]CC([O-])=O", (7, 6, 6, 8, 8), (1, 0, 0, -1, 0), None),
        ("C#N", (6, 7), (0, 0), {(0, 1): 3}),
        ("[C@@H](F)(O)C", (6, 9, 8, 6), (0,) * 4, {(0, 1): 1, (0, 2): 1, (0, 3): 1}),
    ],
)
def test_smiles(text, numbers, charges, orders):
    parsed = smiles.parse_smiles(text)
    assert parsed is not None
    assert parsed.numbers == numbers and parsed.charges == charges
    assert orders is None or parsed.bonds == orders


@pytest.mark.parametrize("text", ["C(", "C)", "C1CC", "Cl", "C11", "1C", "[Xx]"])
def test_smiles_that_make_no_sense(text):
    assert smiles.parse_smiles(text) is None


# --- The file -----------------------------------------------------------------------


def test_the_file_comes_back_and_damage_is_seen(tmp_path):
    known, path = make_molecules(), tmp_path / "some" / "m.npz"
    molecules.write(path, known)
    again = molecules.read(path)
    for field in dataclasses.fields(known):
        found, expected = (getattr(one, field.name) for one in (again, known))
        np.testing.assert_array_equal(found, expected)
    assert again.positions.base is not None  # mapped, not copied
    assert [other.name for other in path.parent.iterdir()] == ["m.npz"]
    whole = bytearray(path.read_bytes())
    for position in (len(whole) // 2, 100, len(whole) - 200):
        damaged = whole.copy()
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"m\.npz.* is damaged or no"):
            molecules.read(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="damaged"):
        molecules.read(path)
    with pytest.raises(UserError, match="no such file"):
        molecules.read(tmp_path / "other.npz")


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(molecules, "VERSION", 7)
    molecules.write(tmp_path / "m.npz", make_molecules())
    monkeypatch.undo()
    with pytest.raises(UserError, match="has version 7, expected 1"):
        molecules.read(tmp_path / "m.npz")


# --- Sources ------------------------------------------------------------------------

# Methane and an excluded molecule, as QM9 publishes them.
GDB = """5
gdb {index}\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t\
35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


def write_archive(path, texts):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number, text in enumerate(texts, 1):
            member = tarfile.TarInfo(f"dsgdb9nsd_{number:06}.xyz")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    path.write_bytes(bz2.compress(content.getvalue()))


def test_the_archive_of_figshare(tmp_path):
    excluded = min(molecule_files.excluded())
    texts = [GDB.format(index=index) for index in (2, excluded, 1)]
    write_archive(tmp_path / molecule_files.ARCHIVE, texts)
    known, cache = qm9.cached(tmp_path, tmp_path / "cache")
    assert known.index.tolist() == [1, 2] and known.source == "qm9"
    assert known.positions[2, 2] == 2.765748e-4
    assert known.column("homo").tolist() == [-0.3877] * 2
    assert known.bonds is not None
    assert known.bonds[:4].tolist() == [[0, k, 1] for k in range(1, 5)]
    # The next reading is of the cache; damage makes it anew.
    before = cache.stat().st_mtime_ns
    assert qm9.cached(tmp_path, tmp_path / "cache")[1] == cache
    assert cache.stat().st_mtime_ns == before
    cache.write_bytes(b"")
    again, _ = qm9.cached(tmp_path, tmp_path / "cache")
    assert again.fingerprint == known.fingerprint
    # Another content has another cache.
    write_archive(tmp_path / molecule_files.ARCHIVE, texts[:1])
    assert len(qm9.cached(tmp_path, tmp_path / "cache")[0].index) == 1


def test_structures_with_their_table(tmp_path):
    lines = GDB.format(index=1).splitlines()
    atoms = [line.replace("*^", "e").split() for line in lines[2:7]]
    rows = [f"{float(x):10.4f}{float(y):10.4f}{float(z):10.4f} {name}   0  0"
            for name, x, y, z, _ in atoms]  # fmt: skip
    block = ["gdb_1", "  -OEChem-", "", "  5  4  0     0  0  0  0  0  0999 V2000"]
    block += [*rows, "  1  2  1  0", "M  END", "$$$$"]
    (tmp_path / "gdb9.sdf").write_text("\n".join(block) + "\n")
    header = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom"
    values = ",".join(lines[1].split()[2:])
    (tmp_path / "gdb9.sdf.csv").write_text(f"{header}\ngdb_1,{values},0\n")
    for place in (tmp_path, tmp_path / "gdb9.sdf"):
        known, _ = qm9.cached(place, tmp_path / "cache")
        assert known.column("Cv").tolist() == [6.469]
        assert known.bonds is not None
        assert known.numbers.tolist() == [6, 1, 1, 1, 1] and len(known.bonds) == 4
    (tmp_path / "gdb9.sdf.csv").write_text(f"{header}\ngdb_1,x{values},0\n")
    with pytest.raises(UserError, match=r"gdb9\.sdf\.csv, row 2: expected a molecule"):
        qm9.cached(tmp_path, tmp_path / "cache")


def test_own_molecules(tmp_path):
    known = make_molecules(names=("gap", "mass"))
    stops = np.cumsum(known.n_atoms)
    text = []
    for row, stop in enumerate(stops):
        own = slice(stop - known.n_atoms[row], stop)
        gap, mass = known.properties[row].tolist()
        text += [str(known.n_atoms[row])]
        text += [
            f"Properties=species:S:1:pos:R:3 gap={gap!r} mass={mass!r} pbc='F F F'"
        ]
        for number, position in zip(
            known.numbers[own], known.positions[own], strict=True
        ):
            text.append(
                " ".join([elements.SYMBOLS[number - 1], *map(repr, position.tolist())])
            )
    (tmp_path / "mine.xyz").write_text("\n".join(text) + "\n")
    np.savez(
        tmp_path / "mine.npz",
        **{name: getattr(known, name) for name in ("numbers", "positions", "n_atoms")},
        **{name: known.column(name) for name in known.names},
    )
    for name in ("mine.xyz", "mine.npz"):
        found, _ = qm9.cached(tmp_path / name, tmp_path / "cache")
        assert found.fingerprint == known.fingerprint
        assert found.names == known.names and found.source == "own"
        np.testing.assert_array_equal(found.bonds, known.bonds)


BAD_XYZ = {
    "no size": ("two\n\nH 0 0 0\n", "line 1: expected a molecule"),
    "too few atoms": ("1\n\nH 0 0 0\n2\n\nH 0 0 0\n", "line 4: .*2 atoms announced"),
    "element": ("1\n\nSj 0 0 0\n", "line 1: .*line 3: 'Sj' is no element"),
    "unknown": ("1\n\n119 0 0 0\n", "line 1: .*line 3: '119' is no element"),
    "coordinate": ("1\n\nH 0 zero 0\n", "line 1: .*'zero'"),
    "two coordinates": ("1\n\nH 0 0\n", "line 1: .*line 3 has 3 columns"),
    "not finite": ("1\n\nH 0 nan 0\n", "line 1: .*'nan' is no finite"),
    "other names": ("1\na=1\nH 0 0 0\n1\nb=1\nH 0 0 0\n", "line 4: .*properties a, fo"),
    "nothing": ("", "at least one molecule"),
}


@pytest.mark.parametrize("fault", BAD_XYZ)
def test_the_first_bad_row_is_named(tmp_path, fault):
    text, message = BAD_XYZ[fault]
    (tmp_path / "mine.xyz").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        qm9.cached(tmp_path / "mine.xyz", tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"numbers": None}, "an array 'numbers'"),
        ({"positions": np.zeros((2, 3))}, r"positions \[3, 3\] for the 3 atoms"),
        ({"numbers": np.array([1, 1, 119])}, "from 1 to 118 in 'numbers'.*119 at"),
        ({"gap": np.array(["1", "2"])}, r"real numbers \[2\] in 'gap'"),
        ({"n_atoms": np.array([0, 3])}, "molecule 0 .*1 to 255 atoms, found 0"),
    ],
)
def test_a_bad_array_is_named(tmp_path, change, message):
    arrays = {
        "numbers": np.array([1, 1, 1]),
        "positions": np.eye(3),
        "n_atoms": np.array([2, 1]),
        "gap": np.zeros(2),
    } | change
    kept = {name: value for name, value in arrays.items() if value is not None}
    np.savez(tmp_path / "mine.npz", **kept)
    with pytest.raises(UserError, match=message):
        qm9.cached(tmp_path, tmp_path / "cache")


def test_an_archive_that_is_cut_short(tmp_path):
    path = tmp_path / molecule_files.ARCHIVE
    write_archive(path, [GDB.format(index=1)] * 40)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match="it may be truncated: fetch it again"):
        qm9.cached(tmp_path, tmp_path / "cache")
    bad = GDB.format(index=1).replace("6.469", "6.4.69")
    write_archive(path, [GDB.format(index=2), bad])
    with pytest.raises(UserError, match=r"dsgdb9nsd_000002\.xyz: .*6\.4\.69"):
        qm9.cached(tmp_path, tmp_path / "cache")


def test_places_where_nothing_lies(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="expected one of dsgdb9nsd"):
        molecule_files.find(tmp_path)
    with pytest.raises(UserError, match="expected a folder, or a file"):
        molecule_files.find(tmp_path / "absent.npz")
    monkeypatch.setattr(molecule_files.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"install it with python -m pip install '\.\[q"
    ):
        molecule_files.find(None)


# --- Targets, splits, graphs --------------------------------------------------------


def test_targets_are_in_the_units_of_the_tables(tmp_path, shared_dir):
    write_archive(tmp_path / molecule_files.ARCHIVE, [GDB.format(index=1)])
    known, _ = qm9.cached(tmp_path, tmp_path)
    text = (shared_dir / "data" / "qm9" / "atomref.txt").read_text()
    references = {
        line.split()[0]: list(map(float, line.split()[2:6]))
        for line in text.splitlines()
        if line.split() and line.split()[0] in set("HCNOF")
    }
    assert len(references) == 5
    for column, target in enumerate(("U0", "U", "H", "G")):
        table = targets.ATOMIC_REFERENCES[target]
        for symbol, row in references.items():
            assert table[elements.NUMBERS[symbol]] == row[column]
        energy = {"U0": -40.47893, "U": -40.476062, "H": -40.475117, "G": -40.498597}
        free = references["C"][column] + 4 * references["H"][column]
        (found,), unit = targets.target_values(known, target)
        assert unit == "meV"
        np.testing.assert_allclose(found, (energy[target] - free) * 27211.386)
    for target, value in {
        "homo": -0.3877 * 27211.386,
        "alpha": 13.21,
        "Cv": 6.469,
    }.items():
        np.testing.assert_allclose(targets.target_values(known, target)[0], value)
    assert set(targets.TARGETS) == set(molecule_files.PROPERTIES) - set("ABC")


def test_atoms_as_egnn_has_them(shared_dir):
    with np.load(shared_dir / "golden" / "egnn_qm9.npz") as file:
        numbers, expected = file["atomic_numbers"].ravel(), file["node_features"]
    found, names = qm9.node_features(numbers, "egnn")
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert names[:4] == ("H", "H*Z/9", "H*(Z/9)^2", "C") and len(names) == 15
    found, names = qm9.node_features(numbers[numbers > 0], "species")
    assert names == ("H", "C", "N", "O", "F") and (found.sum(axis=1) == 1).all()


def test_the_split_of_egnn_is_the_published_one(shared_dir):
    rows = qm9.split_rows("egnn", 130_831)
    with np.load(shared_dir / "data" / "qm9" / "qm9_splits_egnn_seed0.npz") as file:
        for part in qm9.PARTS:
            np.testing.assert_array_equal(rows[part], file[part])


def test_other_splits(tmp_path):
    rows = qm9.split_rows("torchmd", 130_831)
    assert [len(rows[part]) for part in qm9.PARTS] == [110_000, 10_000, 10_831]
    rows = qm9.split_rows("random", 40)
    assert [len(rows[part]) for part in qm9.PARTS] == [32, 4, 4]
    assert sorted(np.concatenate(list(rows.values()))) == list(range(40))
    np.savez(tmp_path / "mine.npz", train=[3, 1], valid=[0], test=[2])
    assert qm9.split_rows(str(tmp_path / "mine.npz"), 4)["train"].tolist() == [3, 1]
    for arrays, message in (
        ({"train": [3, 1], "valid": [1], "test": [2]}, "row 1 more than once"),
        ({"train": [4], "valid": [1], "test": [2]}, "from 0 to 3 in 'train'.*found 4"),
        (
            {"train": [0.5], "valid": [1], "test": [2]},
            "whole numbers.* in 'train'.*found 0.5",
        ),
        ({"train": [0], "valid": [1]}, "arrays train, valid and test"),
    ):
        np.savez(tmp_path / "mine.npz", **arrays)
        with pytest.raises(UserError, match=message):
            qm9.split_rows(str(tmp_path / "mine.npz"), 4)
    with pytest.raises(
        UserError, match="of 130831 molecules, found 40; pass --split=r"
    ):
        qm9.split_rows("egnn", 40)
    with pytest.raises(UserError, match="of egnn, torchmd, random or a file"):
        qm9.split_rows("other", 40)


SETTINGS = qm9.Settings(target="gap", split="random", batch_size=8)


def test_no_molecule_is_in_two_parts_and_each_has_its_own():
    known = make_molecules(60)
    rows = splits.split_rows("random", 60)
    dataset = qm9.load(known, SETTINGS)
    numbers = [dataset.splits[part].tolist() for part in splits.PARTS]
    assert sorted(sum(numbers, [])) == list(range(60))
    (head,) = dataset.task.heads
    values = head.mean + dataset.packing.samples.targets["gap"][:, 0].astype(float)
    for part in splits.PARTS:
        found, expected = values[dataset.splits[part]], known.column("gap")[rows[part]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("bond_features", [False, True])
@pytest.mark.parametrize("connectivity", qm9.CONNECTIVITY)
def test_graphs(connectivity, bond_features):
    known = make_molecules()
    settings = dataclasses.replace(
        SETTINGS, connectivity=connectivity, cutoff=1.6, bond_features=bond_features
    )
    dataset = qm9.load(known, settings)
    rows = np.concatenate(list(qm9.split_rows("random", 40).values()))
    samples = dataset.packing.samples
    assert samples.centers is not None
    positions_at, bonds_at = (
        np.cumsum(counts) - counts for counts in (known.n_atoms, known.n_bonds)
    )
    start = edge = 0
    for number, row in enumerate(rows):
        size, degree = samples.n_node[number], samples.n_edge[number]
        own = known.positions[positions_at[row] : positions_at[row] + size]
        moved = samples.nodes.positions[start : start + size]
        np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-6)
        moved = moved + samples.centers[number]
        np.testing.assert_allclose(moved, own, rtol=1e-6, atol=1e-6)
        bonded: dict[tuple[int, int], int] = {}
        for first, second, code in known.bonds[bonds_at[row] :][: known.n_bonds[row]]:
            bonded |= {(first, second): code, (second, first): code}
        cyclic = zip(*complete_edges(size), strict=True)
        pairs = [(int(j), int(i)) for j, i in cyclic]
        if connectivity == "radius":
            pairs = [p for p in pairs if np.linalg.norm(own[p[0]] - own[p[1]]) < 1.6]
        elif connectivity == "bonds":
            pairs = [pair for pair in pairs if pair in bonded]
        assert degree == len(pairs)
        if samples.ends is not None:
            found = zip(
                *(ends[edge : edge + degree] for ends in samples.ends), strict=True
            )
            assert [tuple(map(int, pair)) for pair in found] == pairs
        assert (samples.ends is None) == (connectivity == "complete")
        features = samples.edges[edge : edge + degree]
        if bond_features:
            expected = [bonded.get(pair, 0) for pair in pairs]
            assert (features @ [1, 2, 3, 4]).tolist() == expected
            assert (features.sum(axis=1) == (np.array(expected) > 0)).all()
        start, edge = start + size, edge + degree
    assert dataset.task.edge_features == (bonds.TYPES if bond_features else ())
    assert samples.edges.shape[1] == len(dataset.task.edge_features)


def test_identity_is_of_everything_that_decides_the_numbers(tmp_path, monkeypatch):
    known = dataclasses.replace(make_molecules(names=("U0",)), source="qm9")
    split = tmp_path / "split.npz"

    def identity(known=known, **changes):
        settings = dataclasses.replace(SETTINGS, target="U0", **changes)
        return qm9.load(known, settings).identity

    def of_rows(train, valid, test):
        np.savez(split, train=train, valid=valid, test=test)
        return identity(split=str(split))

    # Neither the size of a batch nor bonds that no graph reads decide a number.
    without = dataclasses.replace(known, bonds=None, n_bonds=None)
    assert identity() == identity(batch_size=3) == identity(without)
    other = known.bonds.copy()
    other[:, 2] = 3 - other[:, 2].clip(max=2)
    found = [
        *(identity(), identity(num_train=9), identity(dtype="float64")),
        *(identity(target_kind="intensive"), identity(offsets="mean")),
        *(identity(connectivity="radius"), identity(node_features="egnn")),
        *(identity(connectivity="radius", cutoff=3.0), identity(bond_features=True)),
        identity(dataclasses.replace(known, bonds=other), bond_features=True),
        identity(dataclasses.replace(known, source="own")),
        *(of_rows([0, 1, 2], [3], [4]), of_rows([0, 1, 2], [4], [3])),
        of_rows([1, 0, 2], [3], [4]),
    ]
    monkeypatch.setitem(
        targets.ATOMIC_REFERENCES, "U0", {1: -0.5, 6: -37.8, 7: 0, 8: 0}
    )
    found.append(identity())
    assert len({*found}) == len(found)


def test_a_radius_graph_has_the_cutoff_of_its_task():
    for cutoff, expected in ((3.0, 3.0), (None, qm9.CUTOFF)):
        settings = dataclasses.replace(SETTINGS, connectivity="radius", cutoff=cutoff)
        task = qm9.load(make_molecules(), settings).task
        assert task.cutoff == task.radial_extent == expected
        assert task.connectivity == f"radius {expected:g}"
    settings = dataclasses.replace(SETTINGS, cutoff=3.0)
    assert qm9.load(make_molecules(), settings).task.cutoff is None


@pytest.mark.parametrize(
    "target, quantity", [("mu", "dipole"), ("r2", "spatial_extent"), ("gap", "")]
)
@pytest.mark.parametrize("source", ["qm9", "own"])
def test_the_head_names_what_models_have_heads_for(target, quantity, source):
    """Of QM9's own targets; what others name so may be anything."""
    known = dataclasses.replace(make_molecules(names=(target,)), source=source)
    (head,) = qm9.load(known, dataclasses.replace(SETTINGS, target=target)).task.heads
    assert head.quantity == (quantity if source == "qm9" else "")


def test_statistics_are_those_of_the_training_molecules():
    known = make_molecules()
    dataset = qm9.load(known, dataclasses.replace(SETTINGS, num_train=20, num_valid=3))
    rows = qm9.split_rows("random", 40)
    values = known.column("gap")[rows["train"][:20]]
    (head,) = dataset.task.heads
    np.testing.assert_allclose(head.mean, values.mean())
    np.testing.assert_allclose(head.scale, np.abs(values - values.mean()).mean())
    assert (head.kind, head.error, head.unit) == ("graph_scalar", "absolute", "eV")
    sizes = known.n_atoms[rows["train"][:20]].astype(float)
    average = (sizes * (sizes - 1)).sum() / sizes.sum()
    np.testing.assert_allclose(dataset.task.average_neighbors, average)
    assert [len(dataset.splits[part]) for part in qm9.PARTS] == [20, 3, 4]
    targets = dataset.packing.samples.targets["gap"][:, 0]
    expected = known.column("gap")[
        np.concatenate([rows["train"][:20], rows["valid"][:3], rows["test"]])
    ]
    np.testing.assert_array_equal(targets, (expected - head.mean).astype("f4"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": "homo"}, "no target is called 'homo'; expected one of gap"),
        ({"num_train": 33}, "--num_train between 1 and the 32 molecules"),
        ({"num_valid": 0}, "--num_valid between 1 and the 4"),
        ({"connectivity": "knn"}, "--connectivity of complete, radius, bonds"),
        ({"target_kind": "sum"}, "--target_kind of auto, extensive, intensive"),
        ({"offsets": "none"}, "--offsets of species, mean"),
        ({"node_features": "all"}, "--node_features of species, egnn"),
        ({"cutoff": 0.0}, "--cutoff above 0"),
        ({"cutoff": float("nan")}, "--cutoff above 0"),
        ({"batch_size": 0}, "batch size of at least 1"),
    ],
)
def test_settings_that_cannot_be_met(change, message):
    with pytest.raises(UserError, match=message):
        qm9.load(make_molecules(), dataclasses.replace(SETTINGS, **change))


# --- The 130,831 molecules ----------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """QM9 of the wheel, from the user's cache where it is there."""
    pytest.importorskip("qm9pack")
    known, path = qm9.cached(None, tmp_path_factory.mktemp("qm9"))
    return known, path


# In GHz: h / (8 pi^2 I) for I in u Å^2. Source: CODATA 2018.
ROTATIONAL_GHZ = 505.379005
MASSES = {1: 1.00782503, 6: 12.0, 7: 14.0030740, 8: 15.9949146, 9: 18.9984032}


@pytest.mark.slow
def test_the_molecules_of_qm9(whole, shared_dir):
    known, _ = whole
    assert len(known.index) == 130_831 and known.n_atoms.max() == 29
    text = (shared_dir / "data" / "qm9" / "uncharacterized.txt").read_text()
    excluded = {
        int(w[0]) for w in map(str.split, text.splitlines()) if w and w[0].isdigit()
    }
    assert excluded == set(range(1, 133_886)) - set(known.index.tolist())
    assert excluded == molecule_files.excluded()
    with np.load(shared_dir / "golden" / "egnn_qm9.npz") as file:
        stops = np.cumsum(known.n_atoms)
        for row, numbers, positions in zip(
            *(file[name] for name in ("rows", "atomic_numbers", "positions")),
            strict=True,
        ):
            own = slice(stops[row] - known.n_atoms[row], stops[row])
            real = numbers > 0
            np.testing.assert_array_equal(known.numbers[own], numbers[real])
            np.testing.assert_allclose(known.positions[own], positions[real], atol=1e-6)
    # The published statistics of the validation molecules.
    valid = qm9.split_rows("egnn", 130_831)["valid"]
    for target, mean, deviation in (
        *(("alpha", 75.37, 6.27), ("homo", -6539, 440), ("lumo", 325, 1034)),
        *(("gap", 6863, 1062), ("mu", 2.675, 1.176), ("Cv", 31.62, 3.21)),
    ):
        values = targets.target_values(known, target)[0][valid]
        np.testing.assert_allclose(values.mean(), mean, rtol=2e-3)
        found = np.abs(values - values.mean()).mean()
        np.testing.assert_allclose(found, deviation, rtol=3e-3)
    starts = np.cumsum(known.n_atoms) - known.n_atoms
    for row in np.random.default_rng(0).choice(130_831, 200, replace=False):
        own = slice(starts[row], starts[row] + known.n_atoms[row])
        masses = np.array([MASSES[number] for number in known.numbers[own].tolist()])
        positions = known.positions[own] - np.average(
            known.positions[own], axis=0, weights=masses
        )
        squares = np.einsum("ni,nj,n->ij", positions, positions, masses)
        moments = np.linalg.eigvalsh(np.trace(squares) * np.eye(3) - squares)
        if moments[0] > 1e-3:  # a linear molecule has no constant A
            expected = known.properties[row, :3]
            np.testing.assert_allclose(ROTATIONAL_GHZ / moments, expected, rtol=2e-4)


@pytest.mark.slow
def test_valences_are_right(whole):
    """On every atom of at least 99 % of the molecules; it is 99.99 %."""
    known, _ = whole
    (note,) = known.notes
    assert note.startswith("8 of 130,831 molecules were given single bonds alone")
    orders = np.zeros((len(known.numbers), 4), int)
    starts = np.cumsum(known.n_atoms) - known.n_atoms
    for end in (0, 1):
        atoms = np.repeat(starts, known.n_bonds) + known.bonds[:, end]
        np.add.at(orders, (atoms, known.bonds[:, 2] - 1), 1)
    table = np.zeros(256, int)
    for number, valence in bonds.VALENCES.items():
        table[number] = valence
    excess = orders @ [1, 2, 3, 1] - table[known.numbers]
    # Of the aromatic bonds of an atom one may be double.
    excess += (orders[:, 3] > 0) & (excess == -1)
    positive = (excess == 1) & (known.numbers == 7)
    negative = (excess == -1) & np.isin(known.numbers, (6, 7, 8))
    wrong = (excess != 0) & ~positive & ~negative
    plus, minus, faults = (
        np.add.reduceat(values.astype(int), starts)
        for values in (positive, negative, wrong)
    )
    # Neutral, or a zwitterion of one N+ and one anion. (An ion within an aromatic ring
    # looks neutral to this count: 0.06 % of the molecules.)
    right = (faults == 0) & (plus == minus) & (plus <= 1)
    assert right.mean() > 0.999
    assert (plus == 1).mean() < 0.02
    hydrogens = known.numbers == 1
    assert (orders[hydrogens, 0] == 1).all() and (orders[hydrogens].sum(1) == 1).all()


@pytest.mark.slow
def test_padding_of_the_whole_training_set(whole):
    known, _ = whole
    for settings in (qm9.Settings(), qm9.Settings(connectivity="bonds")):
        dataset = qm9.load(known, settings)
        plans = [dataset.train_plan(seed, epoch) for seed, epoch in ((0, 0), (1, 5))]
        for plan in plans:
            told = dataset.padding(plan)
            assert told["nodes"] < 0.06 and told["edges"] < 0.03
            members = plan["sample"][plan["weight"] > 0]
            assert sorted(members) == list(range(100_000))
            assert 95 < plan["weight"].sum() / len(plan["weight"]) <= 96.5
        assert not np.array_equal(plans[0]["sample"][:9], plans[1]["sample"][:9])
