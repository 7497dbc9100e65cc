"""`tools.generate_conformers`: files, splits, resuming, and bad input."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from demetar.data import conformer_files
from demetar.errors import UserError
from demetar.generation import bond_graphs
from tools import ensembles, folders, generate_conformers
from tools.command_line import Given

TEXTS = ("CCCO", "CC(C)O", "OCCC", "CCOC", "CCC=O", "C[C@H](O)F", "C[C@@H](O)F")
CAGE = "CN1C(=N)C23CC(O2)C13"  # no conformer of it is embedded
SOURCE = ensembles.Source("alcohols", TEXTS)
TINY = ensembles.Settings(num_train=3, num_valid=1, num_test=1, num_conformers=5)


def generate(folder, settings=TINY, source=SOURCE, **options):
    return generate_conformers.generate(
        source, settings, folder, progress=False, **options
    )


def read(folder):
    metadata = conformer_files.read_metadata(folder)
    return {
        split: conformer_files.read_split(folder, split, metadata)
        for split in conformer_files.SPLITS
    }


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    pytest.importorskip("rdkit")
    monkeypatch.setattr(ensembles, "CHUNK_MOLECULES", 2)


def test_a_folder_of_conformers(tmp_path):
    metadata = generate(tmp_path / "a")
    parts = read(tmp_path / "a")
    assert [len(parts[split]) for split in conformer_files.SPLITS] == [3, 1, 1]
    every = conformer_files.joined(list(parts.values()))
    # The same molecule, and both hands of one, are there once.
    assert len({*every.smiles}) == 5 and "CC(O)F" in every.smiles
    for row, smiles in enumerate(every.smiles):
        one = every.take([row])
        molecule = bond_graphs.molecule_of(smiles, one.numbers)
        assert molecule.GetNumBonds() == int(one.n_bonds[0])
        own = every.shapes_of(row)
        assert own.shape == (int(one.n_conformers[0]), int(one.n_atoms[0]), 3)
        bonds = one.bonds.astype(int)
        lengths = np.linalg.norm(own[:, bonds[:, 0]] - own[:, bonds[:, 1]], axis=2)
        assert lengths.min() > 0.9 and lengths.max() < 1.6
        apart = bond_graphs.rmsds(smiles, own) + np.eye(len(own))
        assert apart.min() > TINY.distinct
    assert metadata["settings"]["force_field"] == "MMFF94"
    assert metadata["engine"]["rdkit"] and metadata["left_out"] == {}
    assert folders.verify(tmp_path / "a", conformer_files.read_metadata) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_conformers_follow_from_the_settings_alone(tmp_path):
    first = generate(tmp_path / "a", num_workers=1)
    again = generate(tmp_path / "b", num_workers=3)
    more = generate(tmp_path / "c", dataclasses.replace(TINY, num_train=1))
    other = generate(tmp_path / "d", dataclasses.replace(TINY, seed=1))
    assert first["fingerprint"] == again["fingerprint"] != other["fingerprint"]
    for split in ("valid", "test"):
        assert first["arrays"][split] == more["arrays"][split]


def test_an_interrupted_run_continues_to_the_same_conformers(tmp_path, monkeypatch):
    expected = generate(tmp_path / "whole")
    computed = []

    def counted(smiles, settings):
        computed.append(smiles)
        if most and len(computed) > most:
            raise KeyboardInterrupt
        return conformers_of(smiles, settings)

    conformers_of = ensembles.conformers_of
    monkeypatch.setattr(ensembles, "conformers_of", counted)
    most = 4
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "cut", num_workers=1)
    (kept,) = tmp_path.glob(".cut.unfinished-*")
    first, second = sorted(kept.iterdir())
    second.write_bytes(second.read_bytes()[:-50])  # a damaged chunk is made anew
    computed, most = [], 0
    found = generate(tmp_path / "cut", num_workers=1)
    assert found["fingerprint"] == expected["fingerprint"] and len(computed) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut"}


def test_molecules_without_conformers_are_replaced_and_named(tmp_path):
    texts = (*TEXTS, CAGE, "CO", "C.C")
    metadata = generate(tmp_path / "a", source=ensembles.Source("some", texts))
    every = conformer_files.joined(list(read(tmp_path / "a").values()))
    assert len({*every.smiles}) == 5
    named = {text for own in metadata["left_out"].values() for text in own}
    assert named <= {CAGE, "CO", "C.C"}
    with pytest.raises(UserError, match="expected 6 different molecules .*found 5"):
        generate(
            tmp_path / "b",
            dataclasses.replace(TINY, num_train=4),
            ensembles.Source("some", texts),
        )
    assert not (tmp_path / "b").exists()


def test_changed_files_are_found(tmp_path, capsys):
    out = tmp_path / "a"
    metadata = generate(out)
    generate_conformers.run(Given({"verify": str(out)}))
    assert "is intact" in capsys.readouterr().out
    with np.load(out / "valid.npz") as file:
        arrays = dict(file)
    arrays["energies"] = arrays["energies"] + 1e-9
    np.savez(out / "valid.npz", **arrays)
    with pytest.raises(UserError, match="valid.npz: the SHA-256 of energies differs"):
        generate_conformers.run(Given({"verify": str(out)}))
    (out / "metadata.json").write_text(json.dumps({**metadata, "kind": "frames"}))
    with pytest.raises(UserError, match="is of no conformers: .*found 'frames'"):
        read(out)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("n_conformers", lambda x: x * 0, "an atom and a conformer or more"),
        ("n_conformers", lambda x: x + 1, "expected positions of the shape"),
        ("bonds", lambda x: x * 0, "it has impossible bonds"),
        ("bonds", lambda x: x.astype(int), "expected bonds as uint8"),
        ("positions", lambda x: x * np.nan, "expected finite positions"),
        ("smiles", lambda x: x[:-1] * 0 + 255, "its SMILES are no text"),
        ("n_atoms", lambda x: x[:-1], "as many counts as SMILES"),
    ],
)
def test_impossible_arrays_are_refused(name, change, message):
    graph = bond_graphs.parse("CCO")
    found = ensembles.conformers_of("CCO", TINY)
    arrays = conformer_files.to_arrays(ensembles._ensemble(graph, found))
    assert conformer_files.of_arrays(arrays, "a").smiles == ("CCO",)
    with pytest.raises(UserError, match=f"cannot read a: .*{message}"):
        conformer_files.of_arrays({**arrays, name: change(arrays[name])}, "a")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "expected --out=DIR"),
        ({"out": "o", "smiles": "none.smi"}, "to be a file, found none"),
        ({"out": "o", "smiles": "empty.smi"}, "a SMILES per line in empty.smi"),
        ({"out": "o", "smiles": "pieces.smi"}, "pieces.smi, line 3: .*in one piece"),
        (
            {"out": "o", "smiles": "few.smi"},
            "expected 5,700 different .*found 1 in few",
        ),
        ({"verify": "none"}, "is not a finished set of conformers"),
    ],
)
def test_wrong_flags(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("empty", "\n"),
        ("pieces", "CCO ethanol\n\nCCO.C both\n"),
        ("few", "CCO\nOCC\n"),
    ):
        pathlib.Path(f"{name}.smi").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        generate_conformers.run(Given(flags))
    assert "\n" not in str(caught.value) and not pathlib.Path("o").exists()
