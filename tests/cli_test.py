"""`--help` of every command: all its flags, each on a line of its own."""

import re

import pytest
from absl import flags

from tools import cli

COMMANDS = {
    "experiments.nbody": [
        "model",
        "epochs",
        "set",
        "workdir",
        "dataset",
        "cpu_devices",
    ],
    "experiments.qm9": ["model", "epochs", "set", "workdir", "target", "split"],
    "experiments.nbody_table": ["models", "epochs", "output"],
    "experiments.report": ["output"],
    "experiments.predict": ["checkpoint", "input", "out", "rollout_steps", "export"],
    "experiments.benchmark": ["figure", "out"],
    "experiments.learning_curve": ["out"],
    "experiments.force_law": ["out"],
    "tools.generate_nbody": ["preset", "out", "verify"],
    "tools.import_nbody": ["out", "fractions"],
    "tools.prepare_qm9": ["source", "out", "download"],
}


def listed(text):
    """Names of the flags that have a line of their own."""
    return re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_lists_every_flag_on_its_own_line(module, run_module):
    process = run_module(module, "--help")
    assert process.returncode == 0
    assert process.stderr == ""
    names = listed(process.stdout)
    assert {*COMMANDS[module]} <= {*names}
    assert len(names) == len({*names})
    assert max(map(len, process.stdout.splitlines())) <= cli.WIDTH
    assert process.stdout.startswith(f"usage: python -m {module} ")


def test_no_flag_of_the_training_is_hidden(run, run_module):
    """Every flag that a module of the command defines is listed."""
    code = """
from absl import flags

for module, members in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith("experiments"):
        print(*(flag.name for flag in members))
raise SystemExit
"""
    for name in ("nbody", "qm9"):
        defined = {*run(module=name, setup=code).succeeded().output.split()}
        assert len(defined) > 30
        process = run_module(f"experiments.{name}", "--help")
        assert {*listed(process.stdout)} == defined


def test_text_of_each_kind_of_flag():
    values = flags.FlagValues()
    flags.DEFINE_enum("kind", "a", ["a", "b"], "What kind.", values)
    flags.DEFINE_multi_string("item", [], "An item. Repeatable.", values)
    flags.DEFINE_bool("quick", False, "Be quick.", values)
    flags.DEFINE_integer("seed", 1, "A seed.", flag_values=values)
    flags.DEFINE_string("out", None, "A well-known folder " + "word " * 30, values)
    text = cli.text("pack.command", "First line.\n\n    python -m x\n", values)
    assert "  --kind=a|b\n      What kind. Default: a.\n" in text
    assert "  --item=TEXT\n      An item. Repeatable.\n" in text
    assert "  --[no]quick\n      Be quick. Default: no.\n" in text
    assert "training:\n  --seed=INTEGER\n      A seed. Default: 1.\n" in text
    assert "\n    python -m x\n" in text
    assert listed(text) == ["seed", "out", "item", "kind", "quick"]


def test_bad_flags_are_one_line(run_module):
    for args in (["--modle=egnn"], ["--epochs=x"], ["--schedule=zigzag"]):
        process = run_module("experiments.nbody", *args)
        assert process.returncode == cli.USER_ERROR
        (line,) = process.stderr.splitlines()
        assert line.startswith("error: ") and line.endswith("; see --help")
