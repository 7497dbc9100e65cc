"""The cache of molecules, and the graphs that are made of it."""

import dataclasses
import os

import numpy as np
import pytest

from demetar.data import atom_features, bonds, molecules, qm9, splits
from demetar.errors import UserError
from tests.molecule_readers_test import WATER, load, of_text


def test_bonds_are_searched_when_a_graph_needs_them(tmp_path, monkeypatch):
    source = tmp_path / "mine.xyz"
    source.write_text("".join(f"3\ne={row}\n{WATER}" for row in range(20)))
    asked = []
    search = bonds.find

    def counted(*args):
        asked.append(args)
        return search(*args)

    monkeypatch.setattr(bonds, "find", counted)
    assert not qm9.needs_bonds("radius", bond_features=False)
    known, cache = qm9.cached(source, tmp_path / "cache", with_bonds=False)
    assert known.bonds is None and not asked
    # So a radius graph does without, and a graph of bonds finds them once.
    asking = qm9.Settings("e", split="random", batch_size=2, cutoff=1.2)
    qm9.load(known, dataclasses.replace(asking, connectivity="radius"))
    again, _ = qm9.cached(source, tmp_path / "cache")
    assert again.bonds is not None and len(asked) == 1
    assert again.fingerprint == known.fingerprint
    qm9.load(again, dataclasses.replace(asking, connectivity="bonds"))
    for with_bonds in (True, False):
        found, path = qm9.cached(source, tmp_path / "cache", with_bonds=with_bonds)
        assert path == cache and found.bonds is not None and len(asked) == 1


def test_a_cache_of_other_data_is_not_believed(tmp_path):
    caches = []
    for name in "ab":
        (tmp_path / f"{name}.xyz").write_text(f"3\ne={ord(name)}\n{WATER}")
        caches.append(qm9.cached(tmp_path / f"{name}.xyz", tmp_path / "cache")[1])
    caches[0].write_bytes(caches[1].read_bytes())
    known, _ = qm9.cached(tmp_path / "a.xyz", tmp_path / "cache")
    assert known.column("e").tolist() == [ord("a")]


def test_a_source_of_the_same_size_and_time_is_read_anew(tmp_path):
    source = tmp_path / "mine.xyz"
    for value in (1, 2):
        source.write_text(f"3\ne={value}\n{WATER}")
        os.utime(source, (0, 0))
        known, _ = qm9.cached(source, tmp_path / "cache")
        assert known.column("e").tolist() == [value]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_atoms": np.array([2], np.int32)}, "arrays do not fit each other"),
        ({"numbers": np.array([8, 1, 9], np.uint8)}, "fingerprint is that of other"),
        ({"bonds": np.array([[0, 7, 1]] * 2, np.uint8)}, "impossible bonds"),
        ({"bonds": np.array([[0, 1, 9]] * 2, np.uint8)}, "impossible bonds"),
        ({"positions": np.zeros((3, 3), np.float32)}, "other arrays"),
        ({"header": np.frombuffer(b"[]", np.uint8)}, "expected a JSON object"),
        ({"header": np.frombuffer(b'{"version":1}', np.uint8)}, "header is another"),
    ],
)
def test_a_forged_file_is_refused(tmp_path, change, message):
    known = of_text(tmp_path, f"3\ne=1\n{WATER}")
    path = tmp_path / "m.npz"
    molecules.write(path, load(tmp_path / "mine.xyz", with_bonds=True))
    assert molecules.read(path).fingerprint == known.fingerprint
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, **change})
    with pytest.raises(UserError, match=message):
        molecules.read(path)


def test_inputs_are_the_species_that_occur(tmp_path):
    content = "".join(
        f"2\ne={row}\nCl 0 0 0\nH 0 0 {1 + row / 50}\n" for row in range(20)
    )
    known = of_text(tmp_path, content)
    for kind, names in (
        ("species", ("H", "Cl")),
        ("egnn", ("H", "H*Z/17", "H*(Z/17)^2", "Cl", "Cl*Z/17", "Cl*(Z/17)^2")),
    ):
        asking = qm9.Settings(
            "e", split=splits.default_split(known), node_features=kind
        )
        dataset = qm9.load(known, dataclasses.replace(asking, batch_size=2))
        assert dataset.task.scalars == names
        scalars = dataset.packing.samples.nodes.scalars
        assert scalars.shape[1] == len(names)
    np.testing.assert_allclose(scalars[:2, 4], [1.0, 0.0])
    assert atom_features.species_of(known) == (1, 17)
    assert splits.default_split(known) == "random"
