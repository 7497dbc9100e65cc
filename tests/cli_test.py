"""The command line: flags from settings, and `--help` of every command."""

import dataclasses
import importlib
import re

import pytest

from demetar import settings
from demetar.errors import UserError
from demetar.settings import DATA, OUTPUT, TRAINING, Bounds, setting
from experiments.run import cli as of_runs
from tools import cli, help_text
from tools.command_line import CommandLine

# Some flags of each command, and one that it does not have.
COMMANDS = {
    "experiments.nbody": (
        ["model", "epochs", "set", "workdir", "dataset", "cpu_devices", "config"],
        "out",
    ),
    "experiments.qm9": (
        ["model", "epochs", "set", "workdir", "target", "split", "config"],
        "dataset",
    ),
    "experiments.scattering": (
        ["target", "split", "num_test", "spacing", "workdir"],
        "model",
    ),
    "experiments.nbody_table": (["models", "epochs", "workdir", "list_jobs"], "out"),
    "experiments.report": (["format", "out"], "output"),
    "experiments.benchmark": (["figure", "out", "batch_sizes"], "seed"),
    "experiments.predict": (["checkpoint", "input", "out", "rollout_steps"], "epochs"),
    "experiments.learning_curve": (["out"], "format"),
    "experiments.force_law": (["out", "data_dir"], "model"),
    "experiments.check_model": (["set"], "model"),
    "tools.generate_nbody": (["preset", "out", "verify", "num_steps", "dt"], "model"),
    "tools.import_nbody": (["out", "fractions"], "preset"),
    "tools.prepare_qm9": (["source", "out", "download"], "target"),
}
GROUP = re.compile(r"^(\w+):$", re.MULTILINE)


def listed(text):
    """Names of the flags that have a line of their own."""
    return re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_lists_every_flag_on_its_own_line(module, run_module):
    process = run_module(module, "--help")
    assert (process.returncode, process.stderr) == (0, "")
    names = listed(process.stdout)
    known, unknown = COMMANDS[module]
    assert {*known} <= {*names} and unknown not in names
    assert len(names) == len({*names})
    assert max(map(len, process.stdout.splitlines())) <= help_text.WIDTH
    assert process.stdout.startswith(f"usage: python -m {module} ")
    groups = GROUP.findall(process.stdout)
    assert groups and groups == [name for name in settings.GROUPS if name in groups]
    for name in names:  # a sentence stands below each
        assert re.search(rf"^  --(\[no\])?{name}\b.*\n      \S", process.stdout, re.M)


@pytest.mark.parametrize("module", COMMANDS)
def test_a_flag_that_a_command_does_not_use_is_unknown_to_it(module):
    if module == "experiments.benchmark":
        module += ".__main__"
    line = importlib.import_module(module).LINE
    _, unknown = COMMANDS[module.removesuffix(".__main__")]
    for name in (unknown, "logtostderr", "flagfile", "undefok", "only_check_args"):
        with pytest.raises(UserError, match=f"Unknown command line flag '{name}'"):
            line.parse([f"--{name}=1"])


def test_every_setting_of_a_training_is_a_flag(run):
    """What config.json says of a run can be said on the command line."""
    code = """
print(*command.LINE.flags)
from experiments.protocols.settings import Protocol, Settings
from demetar.data import qm9
is_qm9 = "cutoff" in command.LINE.flags
data = qm9.Settings() if is_qm9 else command.protocols.Data(0, 1)
print(*Settings("", "", Protocol("", data=data)).config())
raise SystemExit
"""
    for name in ("nbody", "qm9"):
        code_of = f"from experiments import {name} as command\n{code}"
        output = run(module=name, setup=code_of).succeeded().output
        flags, config = (line.split() for line in output.splitlines())
        beside = {"origin", "fields", *(["dataset"] if name == "qm9" else [])}
        assert len(config) > 30 and {*config} - {*flags} == beside


@dataclasses.dataclass(frozen=True)
class Some:
    """Settings of each kind."""

    kind: str = setting("a", "What kind.", DATA, choices=("a", "b"))
    item: tuple[str, ...] = setting((), "An item.", DATA, repeatable=True)
    sizes: tuple[int, ...] = setting((1, 2), "Some sizes.", DATA)
    names: tuple[str, ...] = setting(("x",), "Some names.", DATA)
    others: tuple[str, ...] = setting((), "Others.", DATA)
    quick: bool = setting(False, "Be quick.", OUTPUT)
    seed: int = setting(1, "A seed.", TRAINING, Bounds(least=0))
    rate: float | None = setting(None, "A rate.", TRAINING, Bounds(above=0, below=1))
    out: str | None = setting(None, "A folder " + "word " * 30, OUTPUT)
    inner: int = 3  # no setting


LINE = CommandLine(Some, positional="DIR...")
NAMES = ("kind", "item", "sizes", "names", "others")


def test_text_of_each_kind_of_flag():
    text = help_text.page("x", "First line.\n\n    python -m x\n", LINE)
    assert text.startswith("usage: x [--flag=value ...] DIR...\n\nFirst line.\n")
    assert "data:\n  --kind=a|b\n      What kind. Default: a.\n" in text
    assert "  --item=TEXT\n      An item. Repeatable.\n" in text
    assert "  --sizes=INTEGER,INTEGER,...\n      Some sizes. Default: 1,2.\n" in text
    assert "  --[no]quick\n      Be quick. Default: no.\n" in text
    assert (
        "training:\n  --seed=INTEGER\n      A seed. At least 0. Default: 1.\n" in text
    )
    assert "  --rate=NUMBER\n      A rate. Above 0 and below 1.\n" in text
    assert "\n    python -m x\n" in text
    assert listed(text) == [*NAMES, "seed", "rate", "quick", "out"]
    words = help_text.page("x", "", CommandLine((Some, "the moon's")))
    assert "What kind. Default: the moon's." in words


def test_flags_become_the_dataclass():
    given, others = LINE.parse(
        ["--noquick", "a", "--item=x", "--item", "y", "--rate=1e-3"]
    )
    assert others == ["a"] and {*given} == {"quick", "item", "rate"}
    assert given.read(Some) == Some(item=("x", "y"), rate=1e-3)
    given, _ = LINE.parse(["--sizes=3,4", "--quick", "--kind=b", "--others="])
    assert given.read(Some) == Some("b", sizes=(3, 4), quick=True)


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--seeds=3", "Unknown command line flag 'seeds'; did you mean --seed?"),
        ("--size=3", "Unknown command line flag 'size'; did you mean --sizes?"),
        ("--output=x", "Unknown command line flag 'output'; did you mean --out?"),
        ("--noquik", "Unknown command line flag 'noquik'; did you mean --quick?"),
        ("--inner=3", "Unknown command line flag 'inner'; see --help"),
        ("--seed=-1", "expected --seed of at least 0, found -1"),
        ("--rate=0", "expected a --rate above 0, found 0.0"),
        ("--rate=nan", "expected a --rate above 0, found nan"),
        ("--rate=1", "expected a --rate below 1, found 1.0"),
        ("--sizes=1,x", "expected positive integers in --sizes, found 'x'"),
        ("--sizes=", "expected at least one item in --sizes, found none; leave the"),
        ("--names=", "expected at least one item in --names, found none; leave the"),
        ("--names=a,", "expected texts between the commas of --names, found none"),
        ("--others=,", "expected texts between the commas of --others, found none"),
        ("--kind=c", "<a|b>"),
        ("--seed=x", "flag --seed=x"),
    ],
)
def test_what_is_wrong_with_a_flag(argument, message):
    with pytest.raises(UserError) as caught:
        LINE.parse([argument])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bad_flags_are_one_line(run_module):
    for args in (["--modle=egnn"], ["--epochs=x"], ["--schedule=zigzag"], ["egnn"]):
        process = run_module("experiments.nbody", *args)
        assert process.returncode == cli.USER_ERROR
        (line,) = process.stderr.splitlines()
        assert line.startswith("error: ") and line.endswith("; see --help")


@pytest.mark.parametrize(("seconds", "lines"), [(0.1, 0), (9.0, 1)])
def test_calls_are_told_of_only_if_they_take_long(seconds, lines, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(of_runs.time, "monotonic", lambda: clock[0])
    done = []
    for call in of_runs.progress_of_calls("testing")(range(0, 30, 5)):
        clock[0] += seconds
        done.append(call)
    assert done == [0, 5, 10, 15, 20, 25]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == lines
    assert all(line.startswith("testing ... ") for line in told)
    assert told[:1] in ([], ["testing ... 50%"])
