"""`demetar COMMAND`: the same programs as `python -m`, under one name."""

import configparser
import json

import pytest

from demetar.errors import UserError
from experiments import __main__ as front

KNOWN = front.commands()


def test_every_command_has_one_line():
    assert {"nbody", "qm9", "report", "table", "benchmark"} <= {*KNOWN}
    assert {"generate nbody", "import nbody", "prepare qm9"} <= {*KNOWN}
    assert KNOWN["table"] == "experiments.nbody_table"
    assert next(iter(KNOWN)) == "nbody"
    assert not {"run", "protocols", "cli", "results"} & {*KNOWN}
    lines = front.listing(KNOWN).splitlines()
    assert max(map(len, lines)) <= front.WIDTH
    for name, module in KNOWN.items():
        (line,) = [line for line in lines if line.startswith(f"  {name}  ")]
        assert line.endswith(front.summary(module)) and line.endswith("."), line


def test_the_list_is_there_at_once(run_python):
    code = """
import sys
from experiments import __main__ as front
sys.argv = ["demetar"]
front.main()
assert not {"jax", "numpy", "haiku", "absl"} & {*sys.modules}
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: demetar COMMAND")


@pytest.mark.parametrize(
    "words, message",
    [
        (["nbdy"], "no command is called 'nbdy'; did you mean nbody?"),
        (
            ["generate", "toast"],
            "expected what to generate: conformers or md or nbody, found 'toast'",
        ),
        (["import", "qm9"], "expected what to import: nbody, found 'qm9'"),
        (["prepare_qm9"], "did you mean prepare qm9?"),
        (["xyzzy"], "no command is called 'xyzzy'; demetar lists them"),
    ],
)
def test_an_unknown_command(words, message):
    with pytest.raises(UserError) as caught:
        front.choose(words, KNOWN)
    assert message in str(caught.value)


def test_commands_of_one_word_and_of_two():
    assert front.choose(["nbody", "--x"], KNOWN) == ("nbody", ["--x"])
    assert front.choose(["generate", "nbody", "a"], KNOWN) == ("generate nbody", ["a"])
    assert front.choose(["generate"], KNOWN) == ("generate", [])
    assert front.choose(["generate", "--help"], KNOWN) == ("generate", ["--help"])


def test_it_is_the_same_program(run_module, tmp_path, project_root):
    """Help, errors and exit codes; the module is run from the current folder's path."""
    shown = run_module("experiments.__main__", "report", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: demetar report [--flag=value ...] DIR...\n")
    plain = run_module("experiments.report", "--help")
    assert plain.stdout.splitlines()[1:] == shown.stdout.splitlines()[1:]
    wrong = run_module("experiments.__main__", "report", "--output=x", "runs")
    again = run_module("experiments.report", "--output=x", "runs")
    assert (wrong.returncode, wrong.stderr) == (again.returncode, again.stderr)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    typo = run_module("experiments.__main__", "reprot")
    assert typo.returncode == 2 and "did you mean report?" in typo.stderr
    setup = configparser.ConfigParser()
    setup.read(project_root / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"]
    assert scripts.split() == ["demetar", "=", "experiments.__main__:main"]


@pytest.mark.slow
def test_the_record_is_the_same(run_module, tmp_path):
    from tests.support import nbody_folder

    nbody_folder.write(tmp_path / "data")
    flags = ["--model=linear_map", "--dataset=data", "--epochs=1", "--workdir=run"]
    done = run_module("experiments.__main__", "nbody", *flags)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["command"] == f"python -m experiments.nbody {' '.join(flags[:-1])}"
    assert "demetar" in record["versions"]
    again = run_module("experiments.__main__", "nbody", "--config=run", "--workdir=run")
    assert again.returncode == 0 and "already finished" in again.stdout, again.stderr
