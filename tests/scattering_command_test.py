"""The command `python -m experiments.scattering`, and what it keeps."""

import dataclasses
import functools
import json
import signal

import numpy as np
import pytest

from demetar.data import molecules
from demetar.errors import UserError
from demetar.scattering import coefficients, placement
from experiments import report
from experiments.run import descriptors, finished
from tests import qm9_test

SETTINGS = placement.Settings(spacing=2.0, margin=2.0)
SMALL = (
    *("--spacing=2", "--margin=1", "--num_train=20", "--num_valid=5"),
    *("--num_test=4", "--target=gap", "--workdir=run"),
)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A cache of its own, and coefficients that are made up: the row number."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(descriptors, "PART", 4)
    computed = []

    def evaluate(placed, rows):
        computed.extend(rows.tolist())
        shape = (len(rows), coefficients.NUM_COEFFICIENTS)
        return np.broadcast_to(rows[:, None], shape).astype(np.float32)

    monkeypatch.setattr(descriptors, "evaluate", evaluate)
    return computed


def load(known, rows, settings=SETTINGS):
    store = descriptors.store(known, settings)
    return descriptors.load(store, placement.place(known, settings), rows)


def test_coefficients_are_computed_once(kept):
    known = qm9_test.make_molecules(30)
    rows = np.array([7, 3, 20])
    found = load(known, rows)
    assert found[:, 0].tolist() == rows.tolist() and sorted(kept) == [3, 7, 20]
    more = np.array([20, 21, 22, 23, 24, 25])
    assert load(known, more)[:, 5].tolist() == more.tolist()
    assert kept[3:] == [21, 22, 23, 24, 25]
    # Of other settings or molecules nothing is known.
    load(known, rows, dataclasses.replace(SETTINGS, margin=3.0))
    load(qm9_test.make_molecules(30, seed=1), rows)
    assert len(kept) == 8 + 6


def test_a_part_that_is_damaged_or_foreign_is_computed_anew(kept, capsys):
    known = qm9_test.make_molecules(30)
    rows = np.arange(10)
    load(known, rows)
    store = descriptors.store(known, SETTINGS)
    first, second, third = sorted(store.folder.glob("part-*.npz"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    with np.load(second) as file:
        arrays = dict(file)
    np.savez(second, **{**arrays, "values": arrays["values"] + 1})
    with np.load(third) as file:
        np.savez(third, **{**file, "id": np.array("another")})
    kept.clear()
    assert load(known, rows)[:, 0].tolist() == rows.tolist()
    assert sorted(kept) == rows.tolist()
    assert capsys.readouterr().out.count("is damaged and computed anew") == 3


def test_a_folder_in_place_of_a_part_is_told_and_left(kept):
    known = qm9_test.make_molecules(30)
    store = descriptors.store(known, SETTINGS)
    place = store.folder / "part-mine.npz"
    (place / "precious").mkdir(parents=True)
    with pytest.raises(UserError, match=f"replace {place}: it is a folder; move"):
        load(known, np.arange(3))
    assert (place / "precious").exists()
    place.rename(store.folder / "mine")
    assert load(known, np.arange(3))[:, 0].tolist() == [0, 1, 2]


def test_a_signal_loses_nothing(kept, monkeypatch):
    known = qm9_test.make_molecules(30)
    own = descriptors.evaluate

    def interrupted(placed, rows):
        if len(kept) == 8:
            signal.raise_signal(signal.SIGINT)
        return own(placed, rows)

    monkeypatch.setattr(descriptors, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(known, np.arange(30))
    assert len(kept) == 12
    monkeypatch.setattr(descriptors, "evaluate", own)
    assert len(load(known, np.arange(30))) == 30
    assert sorted(kept) == [*range(30)]


def test_molecules_that_do_not_fit_are_told_before_anything_is_computed(kept):
    known = qm9_test.make_molecules(30)
    numbers = np.where(known.numbers == 6, 36, known.numbers)
    with pytest.raises(UserError, match=r"found 36 \(Kr\) in number 2"):
        changed = dataclasses.replace(known, numbers=numbers)
        load(changed, np.arange(30))
    assert not kept


CACHE = """
import os
os.environ["XDG_CACHE_HOME"] = os.getcwd()
"""
# Other invariants than those of wavelets, which take long to compile.
INVARIANTS = """
import numpy as np
from experiments.run import descriptors

def evaluate(placed, rows):
    radii = np.linalg.norm(placed.positions[rows], axis=-1)[..., None]
    return (radii ** np.linspace(0.5, 2, 300)).sum(axis=1).astype(np.float32)

descriptors.evaluate = evaluate
"""


@pytest.mark.parametrize(
    "setup",
    [INVARIANTS, pytest.param("", marks=pytest.mark.slow)],
    ids=["quick", "real"],
)
def test_the_command_leaves_a_record(run, tmp_path, setup):
    command = functools.partial(run, module="scattering", setup=CACHE + setup)
    place = tmp_path / "mine.npz"
    molecules.write(place, qm9_test.make_molecules(60, names=("gap", "alpha")))
    args = [*SMALL, f"--data_dir={place}"]
    done = command(*args).succeeded()
    assert "computing 29 molecules" in done.output and "gap: scattering:" in done.output
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    named = [record[name] for name in ("model", "dataset", "target", "unit")]
    assert named == ["scattering", "mine", "gap", "eV"]
    assert (
        0 <= record["delta_eq"]["gap"] < 0.5 and record["settings"]["num_train"] == 20
    )
    assert str(tmp_path) not in record["command"]
    assert record["command"].endswith("--target=gap")
    (found,) = finished.read_runs([str(tmp_path / "run")])
    assert found.errors is not None and found.errors.shape == (1, 4)
    assert "| scattering |" in report.markdown([found])

    assert "already finished: gap" in command(*args).succeeded().output
    again = [arg for arg in args if not arg.startswith("--target")]
    both = command(*again, "--target=all").succeeded()
    assert "computing" not in both.output  # the coefficients serve both targets
    assert (tmp_path / "run" / "alpha" / "record.json").exists()
    few = [arg for arg in args if not arg.startswith("--num_train")]
    command(*few, "--num_train=21").refused("--workdir")
    command(*few, "--num_train=2").refused("at least 3 training molecules", "found 2")
    command(*few, "--num_train=99").refused("--num_train between 1 and the 48")
    command(*again, "--target=mass").refused("no target is called 'mass'")
