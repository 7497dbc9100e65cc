"""Drawn molecules as extended xyz, which the project's own reader reads."""

import numpy as np
import pytest

from demetar.data import molecule_files
from demetar.errors import UserError
from demetar.generation import xyz_file
from tests import stability_test as known

FOUND = known.together(known.METHANE, known.NITROGEN, known.CARBON_DIOXIDE)


def test_the_own_reader_reads_it(tmp_path):
    path = tmp_path / "drawn.xyz"
    path.write_text("an earlier file")
    shaken = np.random.default_rng(0).normal(size=FOUND.positions.shape)
    molecules = FOUND._replace(positions=FOUND.positions + shaken)
    smiles = "C", "N#N", ""
    stable = {"stable": np.array([True, False, True]), "size": np.array([0.5, 2, 3e-9])}
    xyz_file.write(path, molecules, stable, smiles)
    read = molecule_files.load(*molecule_files.find(path))
    np.testing.assert_array_equal(read.numbers, FOUND.numbers)
    np.testing.assert_array_equal(read.n_atoms, FOUND.n_node)
    np.testing.assert_allclose(read.positions, molecules.positions, rtol=1e-11)
    assert read.names == ("stable", "size")
    np.testing.assert_array_equal(read.properties.T, [*stable.values()])
    lines = path.read_text().splitlines()
    assert [line.partition("smiles=")[2] for line in lines if "=" in line] == [
        *('"C"', '"N#N"', "")
    ]
    assert [own.name for own in tmp_path.iterdir()] == ["drawn.xyz"]


def test_nothing_is_written_of_what_cannot_be(tmp_path):
    path = tmp_path / "drawn.xyz"
    lost = known.together(known.METHANE, known.FAR)
    with pytest.raises(UserError, match="nan.* at atom 0 of molecule 1 .from 0."):
        xyz_file.write(path, lost)
    with pytest.raises(UserError, match="cannot write .*choose a folder that can"):
        xyz_file.write(tmp_path / "no" / "drawn.xyz", FOUND)
    assert not list(tmp_path.iterdir())
