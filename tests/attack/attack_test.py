"""A fast sample of the drivers, and all of them marked slow."""

import io
import json
import pathlib
import random
import shutil
import signal

import numpy as np
import pytest

from demetar.errors import UserError
from demetar.train import checkpoint
from tests.attack import damage, ends, fuzz, kills, mutations, soak, targets
from tests.support import nbody_folder

SAMPLE = 20  # damages of a file


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return fuzz.make_readers(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def workdir(run, trained_once, tmp_path):
    """A copy of the work directory of a finished run."""
    if not (trained_once / "run").exists():
        sizes = dict.fromkeys(targets.SPLITS, 4)
        nbody_folder.write(trained_once / "data", splits=sizes)
        run(*targets.TRAINING, cwd=trained_once).succeeded()
    return pathlib.Path(shutil.copytree(trained_once / "run", tmp_path / "run"))


# --- Damages ------------------------------------------------------------------------


def of_data(folder: pathlib.Path) -> dict[str, targets.Target]:
    return {
        **targets.of_bodies(folder / "bodies"),
        **targets.of_molecules(folder / "molecules"),
        **targets.of_qm9(folder / "qm9"),
        **targets.of_program(folder / "programs"),
    }


def test_damaged_data_are_refused_or_read_right(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    known = of_data(tmp_path)
    found, faults = damage.attack_all(known, SAMPLE, seed=0)
    assert not faults, faults[0]
    assert len(found) == len(known) >= 17
    for name, counts in found.items():
        assert SAMPLE / 2 <= sum(counts.values()) <= SAMPLE, name
        assert sum(counts.values()) > counts[damage.OTHER], name


def test_damaged_work_directories_are_refused_or_read_right(workdir):
    found, faults = damage.attack_all(targets.of_run(workdir), SAMPLE, seed=0)
    assert not faults, faults[0]
    assert len(found) == 6 and all(counts[damage.REFUSED] for counts in found.values())


@pytest.mark.parametrize("kind", ["wrong", "crash", "lines", "slow"])
def test_a_reader_that_fails_is_seen(tmp_path, monkeypatch, kind):
    """The negative control: what is no allowed end is a fault."""
    monkeypatch.setattr(damage, "MOST_SECONDS", 0.2)

    def read() -> str:
        content = path.read_text()
        if content == "whole":
            return "right"
        if kind == "slow":
            while True:
                pass
        if kind == "wrong":
            return "wrong"
        raise UserError("a\nb") if kind == "lines" else KeyError("x")

    path = tmp_path / "file"
    path.write_text("whole")
    (tmp_path / "kept").mkdir()
    target = targets.Target(path, read)
    counts, faults = damage.attack("x", target, [b"other"], 3, 0, tmp_path / "kept")
    assert counts[damage.FAULT] == len(faults) >= 1
    assert any((tmp_path / "kept").iterdir()) and path.read_text() == "whole"


def test_damages_are_seeded_and_of_all_kinds():
    file = io.BytesIO()
    np.savez(file, a=np.arange(6.0), b=np.arange(3))
    for content, least in ((file.getvalue(), 11), (b'{"a": [1, {"b": 2}]}', 12)):
        kinds: dict[str, int] = {}
        for number in range(300):
            first, second = (
                mutations.damage(content, random.Random(number), [b"x"])
                for _ in range(2)
            )
            assert first == second
            kinds[first[0]] = kinds.get(first[0], 0) + (first[1] != content)
        assert len(kinds) == least and all(kinds.values()), kinds


# --- Fuzzing ------------------------------------------------------------------------


def test_cases_of_the_fuzzer_end_well(readers):
    """What it found, if anything; a name begins with the target."""
    for path in sorted(fuzz.CASES.glob("*-*")):
        told = readers[path.name.partition("-")[0]](path.read_bytes())
        assert not told, (path.name, told)


def test_a_find_is_kept_once(tmp_path):
    finds = fuzz.Finds(
        "xyz", lambda content: "bad" if b"x" in content else "", tmp_path
    )
    for content in (b"y", b"x1", b"x2"):
        finds.attempt(content)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("xyz-") and kept.read_bytes() == b"x1"


def test_fuzzing_without_coverage(tmp_path):
    found = fuzz.by_damage("split", 0.5, tmp_path)
    assert found["executions"] > 3 and not found["finds"]


# --- Kills and the soak -------------------------------------------------------------


@pytest.mark.slow
def test_ends_differ_where_a_number_does(workdir):
    end = ends.of_run(workdir)
    assert ends.differences(end, ends.of_run(workdir)) == []
    path = workdir / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"wall_seconds": 0, "checksum": ""}))
    assert ends.differences(end, ends.of_run(workdir)) == []
    path.write_text(json.dumps(record | {"test_loss_mean": 0.0}))
    arrays, metadata = checkpoint.read(workdir / "last.npz")
    checkpoint.save(workdir / "last.npz", {"x": np.ones(2)}, metadata)
    changed = ends.differences(end, ends.of_run(workdir))
    assert "record" in changed and len(changed) == 2 + len(arrays)


def test_an_interrupt_of_the_interpreter_is_no_traceback_of_the_program():
    assert not kills.has_traceback("error: interrupted; the same command continues")
    assert not kills.has_traceback("Traceback\n  File site.py\nKeyboardInterrupt")
    assert kills.has_traceback(f"Traceback\n  File {kills.ROOT}/x.py\nKeyError")


@pytest.mark.parametrize("argument, ends", [("-m", True), ("pytest", False)])
def test_an_interrupt_of_an_import_ends_a_command_at_once(run_python, argument, ends):
    code = f"""
import os, signal, sys
sys.argv = [{argument!r}]
import tools
os.kill(os.getpid(), signal.SIGINT)
"""
    done = run_python(f"{code}\n")
    assert (done.returncode == -signal.SIGINT) and (
        "Traceback" not in done.stderr
    ) == ends


def test_memory_that_grows_is_seen():
    samples = {
        "evaluations": [*range(0, 1001, 10)],
        "seconds": [1.0] * 101,
        "memory_mib": [100.0] * 101,
        "open_files": [9] * 101,
        "event_mib": [1.0] * 101,
    }
    assert abs(soak.verdict(samples)["memory_growth"]) < 1e-9
    samples["memory_mib"] = [100 + row / 20 for row in range(101)]
    found = soak.verdict(samples)["memory_growth"]
    assert found == pytest.approx(0.9 * 5 / 102.75, rel=1e-6) and found > soak.FLAT
    assert len(soak.draw(samples).axes) == 3


@pytest.mark.slow
def test_all_damages(tmp_path):
    out = tmp_path / "damage.json"
    assert damage.main(["--count=1000", f"--out={out}"]) == 0
    assert len(json.loads(out.read_text())["files"]) >= 23


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.NAMES)
def test_fuzzing(name):
    assert fuzz.main(["--seconds=60", f"--target={name}"]) == 0


@pytest.mark.slow
def test_all_kills(tmp_path):
    kills.main(["--kills=200", f"--out={tmp_path / 'kills.json'}"])
    found = json.loads((tmp_path / "kills.json").read_text())
    assert sum(counts["kills"] for counts in found.values()) >= 200


@pytest.mark.slow
def test_soak(tmp_path):
    soak.main([f"--out={tmp_path / 'soak.json'}"])
