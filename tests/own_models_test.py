"""Models of one's own: imported by 'module:Class', with errors in one line."""

import json
import sys
import textwrap
import warnings

import jax
import numpy as np
import pytest

from demetar import models, testing
from demetar.errors import UserError
from demetar.models import own
from demetar.train import checkpoint
from tests.support import nbody_folder

HEAD = """
import dataclasses
from typing import ClassVar

from demetar.models import base, linear

"""
MODEL = (
    HEAD
    + """
@dataclasses.dataclass
class Mine(linear.Linear):
    width: int = 3
    names: tuple[str, ...] = ("a",)
"""
)
MODULES = ("mine", "part", "pack", "pack.inner", "pack.layers")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules into the current folder, which is not on the path yet."""
    places = [place for place in sys.path if place not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", places)
    monkeypatch.chdir(tmp_path)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def to_file(text, name="mine.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))

    yield to_file
    for name in MODULES:
        sys.modules.pop(name, None)


def refused(name="mine:Mine"):
    with pytest.raises(UserError) as caught:
        models.build(name, testing.TASK)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_the_current_folder_is_a_model(write):
    write(MODEL)
    assert list(models.fields("mine:Mine")) == ["initial_time", "width", "names"]
    assert models.parse_fields("mine:Mine", ["width=5", "names=b,c"]) == {
        "width": 5,
        "names": ("b", "c"),
    }
    with pytest.raises(UserError, match="mine:Mine has no field 'size'; it has init"):
        models.parse_fields("mine:Mine", ["size=5"])
    batch = testing.make_batch(testing.systems((3, 2)))
    model = models.build("mine:Mine", testing.TASK, {"initial_time": 2.0})
    params = model.init(jax.random.key(0), batch.graph, False)
    found = model.apply(params, None, batch.graph, False)["position"]
    np.testing.assert_allclose(found, 2 * batch.graph.nodes.vectors, rtol=1e-6)


def test_a_module_of_a_package_is_a_model(write):
    write("", "pack/__init__.py")
    write("WIDTH = 4\n", "pack/layers.py")
    write("from pack.layers import WIDTH\n" + MODEL, "pack/inner.py")
    assert models.model_class("pack.inner:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    "name, parts",
    [
        ("egn", ["no model is called 'egn'", "your own as my_package.my_module:MyM"]),
        ("mine", ["no model is called 'mine'"]),
        ("nets/mine:Mine", ["'nets/mine:Mine'", "without folders and .py"]),
        ("mine:", ["expected a model of your own as"]),
        ("mine:Mine:Mine", ["expected a model of your own as"]),
        ("mine.py:Mine", ["names a file", "give mine:Mine"]),
        (
            "nowhere:Mine",
            ["no module 'nowhere'", "go to the folder", "PYTHONPATH"],
        ),
        ("mine.inner:Mine", ["no module 'mine.inner'"]),
        ("mine:Other", ["mine.py has no 'Other'", "its models: Mine"]),
        ("mine:HEAD", ["is of type int", "a subclass of demetar.models.base.Model"]),
        ("mine:Thing", ["is another class", "a subclass of demetar.models.base.Model"]),
    ],
)
def test_a_name_that_leads_to_no_model_is_refused(write, name, parts):
    write(MODEL + "HEAD = 3\nclass Thing: pass\n")
    message = refused(name)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "text, parts",
    [
        ("\nx = 1 / 0\n", ["ZeroDivisionError: division by zero (mine.py, line 2)"]),
        ("x = (\n", ["SyntaxError: '(' was never closed (mine.py, line 1)"]),
        ("import not_there_at_all", ["ModuleNotFoundError", "not_there_at_all"]),
        ("\nimport sys\nsys.exit(3)", ["SystemExit: 3 (mine.py, line 3)"]),
        (
            "import jax.numpy as jnp\nx = jnp.zeros(3) + jnp.zeros(4)",
            ["TypeError", "(mine.py, line 2)"],
        ),
    ],
)
def test_an_import_that_fails_is_told_with_its_line(write, text, parts):
    write(text)
    message = refused()
    assert message.startswith("the module of the model mine:Mine cannot be imported: ")
    for part in parts:
        assert part in message


CLASS = """
@dataclasses.dataclass
class Mine(base.Model):
    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    width: int = 3

    def __call__(self, graph, is_training):
        return {"position": graph.nodes.vectors}
"""


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ('= "E(3)"', "", ["states the symmetry None", "expected one of 'E(3)', 'SE("]),
        ('"E(3)"', '"O(3)"', ["states the symmetry 'O(3)'"]),
        ('= frozenset({"node_vector"})', "", ["supports None", "a set of node_vector"]),
        ('frozenset({"node_vector"})', '"node_vector"', ["supports 'node_vector'"]),
        ('{"node_vector"}', '{"vectors"}', ["supports frozenset({'vectors'})"]),
        ("__call__", "apply", ["has no __call__"]),
        ("@dataclasses.dataclass", "", ["not a dataclass", "'width' is not seen"]),
        ("width: int = 3", "width: Int = 3", ["fields", "name 'Int' is not defined"]),
        ("width: int = 3", "width: int", ["mine:Mine.width has no default"]),
    ],
)
def test_a_class_that_says_too_little_is_refused(write, old, new, parts):
    assert CLASS.count(old) == 1
    future = "from __future__ import annotations\n"
    write(future + HEAD + CLASS)
    models.build("mine:Mine", testing.TASK)
    del sys.modules["mine"]
    write(future + HEAD + CLASS.replace(old, new) + "\n# of another size\n")
    message = refused()
    for part in parts:
        assert part in message


def test_a_field_of_a_type_that_cannot_be_written_is_named(write):
    write(HEAD + CLASS.replace("width: int = 3", "sizes: dict = None"))
    with pytest.raises(UserError, match="mine:Mine.sizes is of type dict, which"):
        models.parse_fields("mine:Mine", ["sizes=3"])


@pytest.mark.parametrize(
    "returned, message",
    [
        (
            "graph.nodes.vectors[:, 0]",
            r"returns \[8, 3\] for the node_vector head",
        ),
        ("graph.nodes.vectors[:4]", r"expected \[8, 1, 3\]: \[N, K, 3\]"),
    ],
)
def test_outputs_of_another_shape_are_refused(write, returned, message):
    """They would be spread over those of all nodes."""
    write(HEAD + CLASS.replace("graph.nodes.vectors", returned))
    with pytest.raises(UserError, match=message):
        trace("mine:Mine")


def test_outputs_of_other_heads_are_refused(write):
    write(HEAD + CLASS.replace('"position"', '"positions"'))
    with pytest.raises(UserError, match=r"returns \['positions'\], expected .*'positi"):
        trace("mine:Mine")


def trace(name):
    model = models.build(name, testing.TASK)
    batch = testing.make_batch(testing.systems((5, 2)))
    return jax.eval_shape(
        lambda key: model.init(key, batch.graph, True), jax.random.key(0)
    )


# --- The source ---------------------------------------------------------------------


def test_the_source_is_that_of_the_module_and_of_what_it_imports(write):
    write("", "pack/__init__.py")
    write("WIDTH = 4\n", "pack/layers.py")
    write("SIZE = 4\n", "part.py")
    write("LOOSE = 4\n", "loose.py")
    imports = "import part\nfrom .layers import WIDTH\n"
    write(imports + MODEL, "pack/inner.py")
    first = own.source_hash("pack.inner:Mine")
    models.model_class("pack.inner:Mine")
    assert own.source_hash("pack.inner:Mine") == first, "it depends on what is loaded"
    write("LOOSE = 5\n", "loose.py")
    assert own.source_hash("pack.inner:Mine") == first
    found = {first}
    for text, name in (
        ("WIDTH = 5\n", "pack/layers.py"),
        ("SIZE = 5\n", "part.py"),
        ("# once more", "pack/__init__.py"),
        (imports + MODEL.replace("3", "4"), "pack/inner.py"),
    ):
        write(text, name)
        found.add(own.source_hash("pack.inner:Mine"))
    assert len(found) == 5


def saved(tmp_path, source):
    path = tmp_path / "best.npz"
    params = {"mine": {"times_position": jax.numpy.ones((1, 1, 1))}}
    content = checkpoint.ModelCheckpoint(
        "mine:Mine", {"width": 5}, testing.TASK, params, {}, source
    )
    checkpoint.save_model(path, content)
    return path


def test_a_checkpoint_builds_its_model_and_tells_of_a_change(write, tmp_path):
    write(MODEL)
    path = saved(tmp_path, own.source_hash("mine:Mine"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load_model(path).build()
    write(MODEL + "# changed\n")
    with pytest.warns(UserWarning, match="the source of mine:Mine has changed since"):
        checkpoint.load_model(path).build()


def test_a_checkpoint_says_where_its_model_would_be(write, tmp_path):
    loaded = checkpoint.load_model(saved(tmp_path, "0"))
    with pytest.raises(UserError, match="no module 'mine', expected that of the model"):
        loaded.build()
    write(MODEL.replace("width", "size"))
    with pytest.raises(UserError, match="mine:Mine has no field 'width'"):
        loaded.build()


# --- The commands -------------------------------------------------------------------

TRAIN = ("--model=mine:Mine", "--dataset=data", "--eval_every=1", "--epochs=2")


@pytest.mark.slow
def test_a_run_knows_its_source_and_is_not_continued_with_another(write, run, tmp_path):
    nbody_folder.write(tmp_path / "data")
    write(MODEL)
    first = run(*TRAIN, "--set=width=5").succeeded()
    folder = tmp_path / "runs" / "data" / "mine.Mine-epochs=2-eval_every=1-width=5"
    record = json.loads((folder / "record.json").read_text())
    assert record["model"] == "mine:Mine" and record["fields"] == {"width": 5}
    source = record["settings"]["model_source"]
    assert source == own.source_hash("mine:Mine")
    trained = checkpoint.load_model(folder / "best.npz")
    assert (trained.model, trained.source) == ("mine:Mine", source)
    assert "mine:Mine" in first.output

    write(MODEL + "# changed\n")
    run(*TRAIN, "--set=width=5").refused(
        "the source of mine:Mine has changed since the run in", "--workdir"
    )


@pytest.mark.parametrize(
    "arguments, part",
    [
        ([], "expected one model, registered or as my_package.my_module:MyModel"),
        (["egnn", "gnn"], "found egnn gnn"),
        (["mine:Mine"], "no module 'mine'"),
        (["egnn", "--set=width=3"], "egnn has no field 'width'"),
    ],
)
def test_check_model_refuses_in_one_line(write, run_module, arguments, part):
    done = run_module("experiments.check_model", *arguments)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and part in line
    assert done.returncode == 2 and not done.stdout


def test_a_model_that_gives_no_outputs_is_told_once_per_trial_with_its_line(write):
    write(HEAD + CLASS.replace("graph.nodes.vectors", "graph.nodes.no_such"))
    begun = []
    found = list(testing.check("mine:Mine", begin=lambda *told: begun.append(told)))
    assert [verdict.promise for verdict in found] == ["shapes and dtypes"] * 2
    assert begun == [(verdict.task, verdict.promise) for verdict in found]
    for verdict in found:
        assert not verdict.kept
        assert "'Nodes' object has no attribute 'no_such' (mine.py, l" in verdict.detail


@pytest.mark.parametrize(
    "outputs, broken",
    [
        ("graph.nodes.vectors", {"every input matters", "the loss falls"}),
        ("graph.nodes.vectors + 1.0", {"rotations", "reflections"}),
    ],
)
def test_verdicts_tell_what_is_broken(write, outputs, broken):
    write(HEAD + CLASS.replace("graph.nodes.vectors", outputs))
    found = list(testing.check("mine:Mine"))
    assert broken <= {verdict.promise for verdict in found if not verdict.kept}
    if "+ 1.0" not in outputs:
        kept = {verdict.promise for verdict in found if verdict.kept}
        assert {"rotations", "reflections", "permutations"} <= kept
