"""Compiled programs that are kept: the same results, and never those of other code."""

import importlib
import sys

import jax
import numpy as np
import pytest

from demetar import models
from demetar.train import loop, optim, program_cache
from demetar.train.program_cache import ProgramCache
from demetar.train.run import Run
from demetar.train.trainer import Trainer
from tests import loop_test

SETTINGS = loop.Settings(epochs=2, eval_every=1, seeds=(1, 2), average_decay=0.9)


class NothingToCompile(Exception):
    """Raised where a program is compiled that should have been found."""


def make_trainer(folder, model="linear_map", description=None):
    dataset = loop_test.make_dataset()
    cache = ProgramCache(folder, description or {"model": model})
    built = models.build(model, dataset.task)
    return Trainer(
        built, dataset, SETTINGS, optim.Settings(learning_rate=0.02), cache=cache
    )


def train(trainer, path):
    """The state after a whole run, and the errors on the test set."""
    run = Run.start(trainer, path / "last.npz")
    run.fit(lambda _: None, lambda: None, lambda: False)
    errors = trainer.evaluator.evaluate(run.best, trainer.dataset.plan("test")).errors
    return run.state, errors


@pytest.fixture(autouse=True)
def fresh_surroundings():
    """They are looked at once per process."""
    program_cache._surroundings.cache_clear()
    yield
    program_cache._surroundings.cache_clear()


def test_a_second_start_compiles_nothing_and_computes_the_same(
    tmp_path, monkeypatch, capfd
):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = make_trainer(tmp_path / "programs")
    expected = train(first, tmp_path / "first")
    assert len(list((tmp_path / "programs").glob("*.program"))) == 3

    second = make_trainer(tmp_path / "programs")

    def refuse(*_):
        raise NothingToCompile

    monkeypatch.setattr(second.placement, "compile", refuse)
    monkeypatch.setattr(second, "_model", None)  # nor is the model traced
    capfd.readouterr()
    found = train(second, tmp_path / "second")
    loop_test.assert_equal_trees(found, expected)
    assert "cpu_aot_loader" not in capfd.readouterr().err

    other = make_trainer(tmp_path / "programs", description={"model": "other"})
    monkeypatch.setattr(other.placement, "compile", refuse)
    with pytest.raises(NothingToCompile):
        train(other, tmp_path / "second")


def test_a_damaged_file_is_compiled_again_and_replaced(tmp_path):
    expected = train(make_trainer(tmp_path / "programs"), tmp_path)
    (tmp_path / "last.npz").unlink()
    files = sorted((tmp_path / "programs").glob("*.program"))
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][:-1])
    files[1].write_bytes(whole[1][:100] + b"?" + whole[1][101:])
    files[2].write_bytes(b"")
    loop_test.assert_equal_trees(
        train(make_trainer(tmp_path / "programs"), tmp_path), expected
    )
    assert all(file.stat().st_size > 1000 for file in files)


def test_a_program_that_jax_refuses_is_compiled_again(tmp_path, monkeypatch):
    train(make_trainer(tmp_path / "programs"), tmp_path)
    (tmp_path / "last.npz").unlink()

    def refuse(*_, **__):
        raise RuntimeError("another backend")

    monkeypatch.setattr(
        program_cache.serialize_executable, "deserialize_and_load", refuse
    )
    trainer = make_trainer(tmp_path / "programs")
    train(trainer, tmp_path)
    assert trainer.programs.num_compiled == 2


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    (tmp_path / "programs").write_text("a file, not a folder")
    train(make_trainer(tmp_path / "programs"), tmp_path)


def test_what_determines_a_program_is_in_its_key(tmp_path, monkeypatch):
    def key(name="train", description="a", size=3, dtype=np.float32, count=1):
        program_cache._surroundings.cache_clear()
        args = ({"x": np.zeros(size, dtype)},)
        cache = ProgramCache(tmp_path, {"run": description})
        return cache.key(name, args, count * jax.devices()[:1])

    keys = {key(), key("evaluate"), key(description="b"), key(size=4)}
    keys |= {key(dtype=np.float64), key(count=2)}
    with jax.enable_x64(True):
        keys.add(key())
    monkeypatch.setenv("XLA_FLAGS", "--something")
    keys.add(key())
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(program_cache.os, "sched_getaffinity", lambda _: {0})
    keys.add(key())
    assert len(keys) == 9
    monkeypatch.undo()
    assert key() == key() and key() in keys


def test_code_that_is_no_installed_package_is_in_the_key(tmp_path, monkeypatch):
    """A model that somebody has beside the project, and the project itself."""
    (tmp_path / "somebodys_model.py").write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("somebodys_model")
    try:
        names = program_cache.own_modules()
        assert {"somebodys_model", "demetar.models.egnn", "demetar.nn.mlp"} <= set(
            names
        )
        assert not {"jax", "haiku", "optax", "json"} & set(names)
        before = program_cache._surroundings()
        (tmp_path / "somebodys_model.py").write_text("SCALE = 2\n")
        program_cache._surroundings.cache_clear()
        assert program_cache._surroundings() != before
    finally:
        del sys.modules["somebodys_model"]


def test_a_program_under_another_name_is_not_believed(tmp_path):
    expected = train(make_trainer(tmp_path / "programs"), tmp_path)
    (tmp_path / "last.npz").unlink()
    first, second, third = sorted((tmp_path / "programs").glob("*.program"))
    content = first.read_bytes()
    for other in (second, third):
        other.write_bytes(content)
    trainer = make_trainer(tmp_path / "programs")
    loop_test.assert_equal_trees(train(trainer, tmp_path), expected)
    assert second.read_bytes() != content != third.read_bytes()


def test_a_program_that_cannot_be_loaded_is_not_kept(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise KeyError("whatever")

    monkeypatch.setattr(
        program_cache.serialize_executable, "deserialize_and_load", refuse
    )
    train(make_trainer(tmp_path / "programs"), tmp_path)
    assert list((tmp_path / "programs").iterdir()) == []


def test_what_jax_has_cached_is_compiled_anew_to_be_kept(tmp_path):
    """What comes from its cache runs, but fails when it is kept and loaded."""
    values = {
        "jax_compilation_cache_dir": str(tmp_path / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: jax.config.values[name] for name in values}
    found: list = []
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        program_cache.compilation_cache.reset_cache()
        make_trainer(tmp_path / "other").init()  # not through a loaded program
        assert jax.config.values["jax_enable_compilation_cache"]
        for programs in ("first", "second", "second"):
            program_cache._surroundings.cache_clear()
            folder = tmp_path / f"run{len(found)}"
            folder.mkdir()
            found.append(train(make_trainer(tmp_path / programs), folder))
        assert not list((tmp_path / "jax").glob("*train_call*"))
    finally:
        for name, old in before.items():
            jax.config.update(name, old)
        program_cache.compilation_cache.reset_cache()
    loop_test.assert_equal_trees(found[1], found[0])
    loop_test.assert_equal_trees(found[2], found[0])
