"""The settings of runs: ids and work directories as before, and runs given back."""

import hashlib
import importlib
import json
import pathlib
import shlex
from typing import Any

import pytest

from demetar import settings
from demetar.data import molecules
from demetar.errors import UserError
from demetar.train import checkpoint
from experiments import qm9 as qm9_command
from experiments.protocols import molecules as molecule_protocols
from experiments.protocols import nbody as protocols
from experiments.run import job, nbody_data, options, repeat, revision
from tests import qm9_test
from tests.support import nbody_folder

FEW = ("--num_train=9", "--start_frame=10", "--target_frame=30")
PLACE = "--data_dir=molecules.npz"
# Arguments, the default work directory and the hash of all settings, as version 0.1.0
# had them: a run that was begun with it goes on.
EARLIER: dict[str, list[tuple[list[str], str, str]]] = {
    "nbody": [
        (["--model=egnn", "--dataset=set"], "set/egnn", "eff532c3b37b4389"),
        (
            [
                *("--model=newton", "--dataset=set", "--phase=", "--num_train=7"),
                "--augment=rotation",
            ],
            "set/newton-augment=rotation-num_train=7-phase=",
            "7a05659f711be741",
        ),
        (
            ["--model=segnn", "--protocol=tuned", *FEW],
            "nbody_small/segnn-tuned-num_train=9-start_frame=10-target_frame=30",
            "617418db26fc3a75",
        ),
        (
            ["--model=gnn", "--cues=positions", "--data_seed=7", "--full_data", *FEW],
            "nbody_small/gnn-cues=positions-data_seed=7-full_data=True-num_train=9-"
            "start_frame=10-target_frame=30",
            "81f0cd0faa9ff40f",
        ),
        (
            [
                *("--model=egnn", "--connectivity=knn", "--num_neighbors=3"),
                *("--epochs=10000", *FEW),
            ],
            "nbody_small/egnn-connectivity=knn-num_neighbors=3-num_train=9-"
            "start_frame=10-target_frame=30",
            "762c8cbda226dc23",
        ),
        (
            [
                *("--model=newton", "--phase=2:eta=0.5", "--set=hidden_size=8"),
                *("--num_seeds=2", "--dtype=float64", *FEW),
            ],
            "nbody_small/newton-dtype=float64-hidden_size=8-num_seeds=2-num_train=9-"
            "phase=2:eta=0.5-start_frame=10-target_frame=30",
            "f14ecdb0e4133cf6",
        ),
        (
            [
                *("--model=linear", "--optimizer=adamw", "--schedule=cosine"),
                *("--warmup_epochs=2", "--weight_decay=0.5", "--clip_norm=1"),
                *("--loss_transform=log", "--average_decay=0.5", *FEW),
            ],
            "nbody_small/linear-average_decay=0.5-clip_norm=1.0-loss_transform=log-"
            "num_train=9-optimizer=adamw-schedule=cosine-start_frame=10-"
            "target_frame=30-warmup_epochs=2-weight_decay=0.5",
            "c4357ded933c923c",
        ),
    ],
    "qm9": [
        (["--model=egnn"], "molecules/egnn-target=gap", "3f34d7981603593e"),
        (
            ["--model=segnn", "--num_train=20", "--num_valid=4", "--epochs=7"],
            "molecules/segnn-epochs=7-num_train=20-num_valid=4-target=gap",
            "80633e11e1b00e08",
        ),
        (
            ["--model=egnn", "--cutoff=3"],
            "molecules/egnn-connectivity=radius-cutoff=3.0-target=gap",
            "4b05f85d7d2d40f6",
        ),
        (
            [
                *("--model=schnet", "--connectivity=radius", "--bond_features"),
                "--target_kind=intensive",
            ],
            "molecules/schnet-bond_features=True-connectivity=radius-target=gap-"
            "target_kind=intensive",
            "95f3ba002ca70f1d",
        ),
        (
            ["--model=demetar", "--set=hidden_size=8", "--offsets=mean", "--seed=2"],
            "molecules/demetar-hidden_size=8-offsets=mean-seed=2-target=gap",
            "468604ffb969b826",
        ),
    ],
}
CASES = [(name, *case) for name, cases in EARLIER.items() for case in cases]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a data set of each kind."""
    folder = tmp_path_factory.mktemp("data")
    nbody_folder.write(folder / "set")
    molecules.write(folder / "molecules.npz", qm9_test.make_molecules(60))
    return folder


@pytest.fixture
def asked(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`asked(command, arguments)`: what a command would train, in this process."""
    monkeypatch.chdir(place)
    jobs: list[job.Job] = []
    monkeypatch.setattr(job, "run", jobs.append)
    monkeypatch.setattr(job, "prepare", lambda given: None)
    monkeypatch.setattr(nbody_data, "generated", lambda *_: place / "set")

    def ask(name: str, arguments: list[str]) -> job.Job:
        if name == "qm9":
            arguments = ["--target=gap", *arguments, PLACE]
        monkeypatch.setattr("sys.argv", [name, *arguments])
        command = importlib.import_module(f"experiments.{name}")
        command.main(*command.LINE.parse(arguments))
        return jobs.pop()

    return ask


def identified(found: job.Job) -> tuple[str, str]:
    """The default work directory, and the hash of all settings."""
    text = json.dumps(checkpoint.to_json(found.settings.config()), sort_keys=True)
    workdir = options.default_workdir(found.settings, found.changed)
    return (
        str(workdir.relative_to("runs")),
        hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def write_config(folder: pathlib.Path, found: job.Job, **changes: Any) -> str:
    """A config.json as a run leaves it, as the flag that gives it back."""
    config = {**found.settings.config(), "fingerprint": "x", "identity": "y"}
    path = folder / "config.json"
    checkpoint.write_json(path, {**config, "run_id": "z", **changes})
    return f"--config={path}"


@pytest.mark.parametrize("name, arguments, workdir, digest", CASES)
def test_runs_are_as_before_and_can_be_given_back(
    asked, tmp_path, name, arguments, workdir, digest
):
    found = asked(name, arguments)
    assert identified(found) == (workdir, digest)
    again = asked(name, [write_config(tmp_path, found)])
    assert identified(again) == (workdir, digest)
    # The record names a command that does without the file.
    assert "config" not in again.command and str(tmp_path) not in again.command
    words = shlex.split(again.command)
    assert words[:3] == ["python", "-m", f"experiments.{name}"]
    assert identified(asked(name, words[3:])) == (workdir, digest)


def test_flags_replace_what_the_file_says(asked, tmp_path):
    first = asked("nbody", ["--model=newton", "--dataset=set", "--epochs=7"])
    config = write_config(tmp_path, first)
    other = asked("nbody", [config, "--epochs=8", "--set=hidden_size=8"])
    assert other.settings.protocol.training.epochs == 8
    assert other.changed == {"epochs": 8, "hidden_size": 8}
    # What is of a model, or of a data set, goes with it.
    model = asked("nbody", [config, "--model=segnn"])
    assert (model.settings.protocol.name, model.changed) == (
        *("paper", {"epochs": 7, **differs(first, "segnn")}),
    )
    small = asked("nbody", [config, "--dataset=nbody_small", *FEW])
    assert small.settings.protocol.data.num_bodies == 5
    assert {*small.changed} == {"epochs", "num_train", "start_frame", "target_frame"}


def differs(first: job.Job, model: str) -> dict[str, Any]:
    """The settings of a run that another model's protocol does not have."""
    config, own = first.settings.config(), protocols.find(model, "default", "set")
    training = {**vars(own.training), **vars(own.optimizer), **vars(own)}
    left_out = ("fields", "origin", "phase", "optimizer", "protocol", "model")
    return {
        key: value
        for key, value in config.items()
        if key in training and key not in left_out and training[key] != value
    }


def refusal(asked: Any, *arguments: str, command: str = "nbody") -> str:
    with pytest.raises(UserError) as caught:
        asked(command, [*arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_settings_of_the_command(asked, tmp_path):
    found = asked("nbody", ["--model=egnn", "--dataset=set"])
    config = write_config(tmp_path, found)
    assert "is of another command than experiments.qm9" in refusal(
        asked, config, command="qm9"
    )
    write_config(tmp_path, found, colour="red")
    assert "has settings that experiments.nbody does not know: colour" in refusal(
        asked, config
    )
    write_config(tmp_path, found, epochs="many")
    assert "expected epochs in" in refusal(asked, config)
    write_config(tmp_path, found, epochs=0)
    assert refusal(asked, config) == "expected --epochs of at least 1, found 0"
    write_config(tmp_path, found, schedule="zigzag")
    assert "to be constant or cosine or steps, found 'zigzag'" in refusal(asked, config)
    (tmp_path / "config.json").write_text('{"name": "x"}')
    assert "is no config.json of a run: it lacks model, " in refusal(asked, config)
    (tmp_path / "config.json").write_text("model: egnn")
    assert "config.json" in refusal(asked, config)
    assert "nowhere" in refusal(asked, "--config=nowhere")


def test_molecules_of_ones_own_need_their_place_again(asked, tmp_path):
    found = asked("qm9", ["--model=egnn"])
    config = write_config(tmp_path, found)
    with pytest.raises(UserError, match="'molecules' and does not say where they lie"):
        qm9_command.main(*qm9_command.LINE.parse([config]))


def test_other_data_are_told(asked, tmp_path):
    found = asked("nbody", ["--model=egnn", "--dataset=set"])
    again = asked("nbody", [write_config(tmp_path, found, fingerprint="0123")])
    assert "those of" in repeat.note(again.given, again.dataset.fingerprint)
    assert repeat.note(again.given, "0123") == ""
    assert repeat.note(found.given, "0123") == ""
    other = asked("nbody", [write_config(tmp_path, found), "--dataset=set"])
    assert repeat.note(other.given, "0123") == ""


@pytest.mark.parametrize("table", [protocols, molecule_protocols])
def test_every_protocol_is_within_the_bounds_of_its_settings(table):
    for known in table.PROTOCOLS.values():
        for protocol in known.values():
            values = settings.values_of(protocol)
            for field, told in settings.fields_of(protocol):
                value = values[field.name]
                if isinstance(value, (int, float)):
                    told.bounds.check(field.name, value)
                assert not told.choices or value in told.choices


def test_a_commit_is_that_of_the_project_alone(project_root, tmp_path):
    assert revision.commit(tmp_path) is None
    assert revision.commit(project_root / "demetar") is None  # no root of a checkout
    if (project_root / ".git").exists():
        commit = revision.commit(project_root)
        assert commit is not None
        assert len(commit.removesuffix(revision.CHANGED)) == 40
