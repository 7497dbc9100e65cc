"""`experiments.visualize`: what it writes and what it refuses."""

import numpy as np
import pytest

from demetar.train import writers
from experiments import visualize
from experiments.run import figures
from tests.support import trained

MODULE = "experiments.visualize"
SEGNN = {"hidden_units": 8, "num_layers": 1}


@pytest.fixture
def states(tmp_path):
    given = trained.bodies((5, 5, 5))
    arrays: dict = {name: np.stack(values) for name, values in given.items()}
    np.savez(tmp_path / "states.npz", **arrays)
    return "--input=states.npz"


def refused(done, *parts):
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line


def test_the_harmonics_need_no_model(run_module, tmp_path):
    done = run_module(MODULE, "--what=harmonics", "--lmax=0", "--out=here")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "harmonics.png").read_bytes()[:4] == b"\x89PNG"
    assert done.stdout == "wrote     here/harmonics.png\n"


def test_what_is_missing_or_too_much_is_told(run_module):
    refused(run_module(MODULE), "expected --what, one of glyphs, rotation")
    refused(run_module(MODULE, "--what=glyphs"), "--checkpoint=RUN or --model=NAME")
    both = ("--checkpoint=a", "--model=egnn")
    refused(run_module(MODULE, "--what=glyphs", *both), "found both")
    refused(run_module(MODULE, "--what=glyfs"), "glyphs|rotation")


def test_a_system_that_there_is_not(run_module, tmp_path, states):
    trained.save(tmp_path / "run", "egnn", trained.BODIES)
    asked = ("--what=attention", "--checkpoint=run", states)
    done = run_module(MODULE, *asked, "--system=3")
    refused(done, "expected --system from 0 to 2, of states.npz, found 3")
    assert not (tmp_path / "pictures").exists()


@pytest.mark.slow
def test_a_system_that_is_not_known_without_a_file(run_module, tmp_path):
    trained.save(tmp_path / "run", "egnn", trained.BODIES)
    done = run_module(MODULE, "--what=attention", "--checkpoint=run")
    refused(done, "expected --input=PATH", "does not say on which data")
    molecules = ("--checkpoint=pretrained:schnet-qm9_homo", "--system=1")
    done = run_module(MODULE, "--what=glyphs", *molecules)
    refused(done, "expected --system 0, of the built-in ethanol", "found 1")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "what, word",
    [
        ("glyphs", "steerable features"),
        slow("rotation", "steerable features"),
        slow("attention", "attention"),
        slow("forward", "features or attention"),
        slow("tensor_product", "tensor products"),
    ],
)
def test_a_model_without_features_says_what_it_has(
    what, word, run_module, tmp_path, states
):
    trained.save(tmp_path / "run", "egnn", trained.BODIES)
    done = run_module(MODULE, f"--what={what}", "--checkpoint=run", states)
    refused(done, word, "in egnn, found", "it records nothing on the way")
    assert not (tmp_path / "pictures").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted({*visualize.WHAT} - {"attention"}))
def test_every_picture_is_written(what, run_module, tmp_path, states):
    trained.save(tmp_path / "run", "segnn", trained.BODIES, fields=SEGNN)
    done = run_module(
        *(MODULE, f"--what={what}", "--checkpoint=run", states, "--system=2")
    )
    assert done.returncode == 0, done.stderr
    written = [line.split()[-1] for line in done.stdout.splitlines() if "wrote" in line]
    assert written
    for name in written:
        assert (tmp_path / name).stat().st_size > 5_000


@pytest.mark.slow
def test_pictures_while_a_model_trains(run_module, tmp_path):
    """They are there, and the numbers of the run are those without them."""
    from tests.support import nbody_folder

    nbody_folder.write(tmp_path / "data")
    flags = ["--model=segnn", "--dataset=data", "--epochs=4", "--eval_every=1"]
    flags += ["--set=hidden_units=8", "--set=num_layers=1"]
    for name, more in (("plain", []), ("drawn", ["--figure_every=2"])):
        done = run_module("experiments.nbody", *flags, *more, f"--workdir={name}")
        assert done.returncode == 0, done.stderr
    sizes = {
        name: sum(path.stat().st_size for path in (tmp_path / name).glob("events*"))
        for name in ("plain", "drawn")
    }
    assert sizes["drawn"] > sizes["plain"] + 20_000
    content = b"".join(
        path.read_bytes() for path in (tmp_path / "drawn").glob("events*")
    )
    assert content.count(b"inside/glyphs") == 2  # epochs 2 and 4
    assert b"inside/attention" not in content  # segnn has none
    errors = [
        np.load(tmp_path / name / "test_errors.npz")["squared_errors"]
        for name in ("plain", "drawn")
    ]
    np.testing.assert_array_equal(*errors)


def test_without_the_flag_nothing_is_drawn():
    writer = writers.NoWriter()
    told = figures.telling(writer, None, None, 0)  # type: ignore[arg-type]
    assert told == writer.evaluation
