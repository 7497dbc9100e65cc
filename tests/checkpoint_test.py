"""Checkpoints: what is written comes back, and damage never passes unseen."""

import json
import os
import signal
import stat
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from demetar import types
from demetar.errors import UserError
from demetar.train import checkpoint


def make_state() -> types.TrainState:
    """A state with every kind of leaf: keys, bfloat16, scalars, empty containers."""
    params = {
        "net/~/linear": {
            "w": jnp.arange(6.0).reshape(2, 3),
            "b": jnp.asarray([0.1, 1.7, -3.0], jnp.bfloat16),
        },
        "net": {"scale": jnp.float32(0.5)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = optimizer.init(params)
    _, opt_state = optimizer.update(params, opt_state, params)
    keys = jax.random.split(jax.random.key(5), 2)
    return types.TrainState(params, opt_state, jnp.int32(7), keys, {})


def assert_trees_equal(found: Any, expected: Any) -> None:
    found_leaves, found_structure = jax.tree.flatten(found)
    leaves, structure = jax.tree.flatten(expected)
    assert str(found_structure) == str(structure)
    for a, b in zip(found_leaves, leaves, strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_restore_gives_back_every_kind_of_leaf(tmp_path):
    state = make_state()
    path = tmp_path / "last.npz"
    checkpoint.save(path, state, {"epoch": 3, "best": float("inf")})
    restored, metadata = checkpoint.restore(path, state)
    assert_trees_equal(restored, state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    assert metadata == {"epoch": 3, "best": float("inf")}
    # A key that came back draws the same numbers.
    draw = jax.vmap(lambda key: jax.random.normal(key, (3,)))
    np.testing.assert_array_equal(draw(restored.key), draw(state.key))


def test_restore_takes_a_template_of_shapes(tmp_path):
    state = make_state()
    path = tmp_path / "last.npz"
    checkpoint.save(path, state, {})
    restored, _ = checkpoint.restore(path, jax.eval_shape(make_state))
    assert_trees_equal(restored, state)


def test_other_key_implementations_and_float64_survive(tmp_path):
    tree = {"key": jax.random.key(1, impl="rbg"), "sums": np.array([1 / 3, np.pi])}
    path = tmp_path / "x.npz"
    checkpoint.save(path, tree, {})
    restored, _ = checkpoint.restore(path, tree)
    assert_trees_equal(restored, tree)
    assert restored["sums"].dtype == np.float64


def test_read_needs_no_template_and_names_say_where_a_leaf_stands(tmp_path):
    path = tmp_path / "x.npz"
    state = make_state()
    checkpoint.save(path, state, {"note": "ä"})
    arrays, metadata = checkpoint.read(path)
    assert metadata == {"note": "ä"}
    assert arrays[".params['net/~/linear']['b']"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(arrays[".step"], 7)
    np.testing.assert_array_equal(arrays[".key"], jax.random.key_data(state.key))


def test_file_is_npz_that_numpy_reads_without_pickle(tmp_path):
    path = tmp_path / "x.npz"
    checkpoint.save(path, {"a": np.arange(5)}, {"epoch": 2})
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["['a']"], np.arange(5))
        header = json.loads(file["header"].tobytes())
    assert header["metadata"] == {"epoch": 2}


def test_object_arrays_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"\['a'\]"):
        checkpoint.save(tmp_path / "x.npz", {"a": object()}, {})
    assert not list(tmp_path.iterdir())


def test_equal_input_gives_equal_bytes(tmp_path):
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.int32(1)}
    checkpoint.save(tmp_path / "1.npz", tree, {"x": 1, "y": 2})
    turned = {"b": np.int32(1), "a": np.asfortranarray(tree["a"])}
    # Zip stores times to 2 seconds: a clock that is read would show.
    before = (tmp_path / "1.npz").read_bytes()
    assert b"\x00\x00\x21\x00" in before[:20]  # 1980-01-01, no clock
    checkpoint.save(tmp_path / "2.npz", turned, {"y": 2, "x": 1})
    assert (tmp_path / "2.npz").read_bytes() == before


def test_save_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "x.npz"
    (tmp_path / ".x.npz.tmp").write_bytes(b"what a killed run left")
    for value in (1, 2):
        checkpoint.save(path, {"a": np.full(3, value)}, {})
        np.testing.assert_array_equal(checkpoint.read(path)[0]["['a']"], value)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


KILLED = """
import os, signal, sys
import numpy as np
from demetar.train import checkpoint

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save("x.npz", {"a": np.arange(3)}, {"epoch": 1})
setattr(os, sys.argv[1], die)
checkpoint.save("x.npz", {"a": np.arange(9)}, {"epoch": 2})
"""


@pytest.mark.parametrize(
    "moment", [pytest.param("fsync", marks=pytest.mark.slow), "replace"]
)
def test_a_kill_while_saving_leaves_the_earlier_file(tmp_path, run_python, moment):
    done = run_python(["-c", KILLED, moment], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / ".x.npz.tmp").exists()  # it did die with the new one begun
    arrays, metadata = checkpoint.read(tmp_path / "x.npz")
    np.testing.assert_array_equal(arrays["['a']"], np.arange(3))
    assert metadata == {"epoch": 1}
    checkpoint.save(tmp_path / "x.npz", {"a": np.arange(9)}, {"epoch": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


FULL_DISK = """
import resource, sys
import numpy as np
from demetar.errors import UserError
from demetar.train import checkpoint

checkpoint.save("x.npz", {"a": np.arange(3)}, {"epoch": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save("x.npz", {"a": np.zeros(10_000)}, {"epoch": 2})
except UserError as error:
    print(error)
"""


def test_no_space_on_the_disk_leaves_the_earlier_file(tmp_path, run_python):
    done = run_python(FULL_DISK, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "cannot write x.npz: File too large; free space" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    assert checkpoint.read(tmp_path / "x.npz")[1] == {"epoch": 1}


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "missing" / "x.npz"
    with pytest.raises(UserError) as error:
        checkpoint.save(path, {"a": np.arange(3)}, {})
    assert f"cannot write {path}: No such file" in one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match="Permission denied"):
        checkpoint.save(tmp_path / "x.npz", {"a": np.arange(3)}, {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        checkpoint.read(tmp_path / "x.npz")
    assert f"cannot read {tmp_path / 'x.npz'}: No such file" in one_line(error)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    checkpoint.save(path, {"a": np.arange(3.0), "b": jnp.ones(2)}, {"epoch": 1})
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated, altered") as error:
            checkpoint.read(path)
        one_line(error)


@pytest.mark.filterwarnings("ignore")  # NumPy warns about some damaged headers
def test_no_flipped_byte_changes_what_is_read(tmp_path):
    path = tmp_path / "x.npz"
    tree = {"a": np.arange(3.0), "b": np.asarray([1, 2], ml_dtypes.bfloat16)}
    checkpoint.save(path, tree, {"epoch": 1})
    whole = path.read_bytes()
    num_noticed = 0
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x11
        path.write_bytes(altered)
        try:
            restored, metadata = checkpoint.restore(path, tree)
        except UserError as error:
            assert "\n" not in str(error)
            num_noticed += 1
            continue
        # The byte meant nothing: a time stamp or file attribute of the archive.
        assert_trees_equal(restored, tree)
        assert metadata == {"epoch": 1}
    assert num_noticed > 0.7 * len(whole)


@pytest.mark.parametrize("part", ["arrays", "metadata"])
def test_a_rewritten_archive_is_noticed(tmp_path, part):
    path = tmp_path / "x.npz"
    checkpoint.save(path, {"a": np.arange(3.0)}, {"epoch": 1})
    with np.load(path) as file:
        entries = dict(file)
    if part == "arrays":
        entries["['a']"][1] += 1e-9
    else:
        text = entries["header"].tobytes().replace(b'"epoch": 1', b'"epoch": 2')
        entries["header"] = np.frombuffer(text, np.uint8)
    np.savez(path, **entries)
    with pytest.raises(UserError, match="SHA-256"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": np.zeros((2, 3)), "b": np.zeros(5, np.int32)}, "float64[2, 3], found"),
        (
            {"a": np.zeros((3, 2)), "b": np.zeros(7, np.int32)},
            "at ['b']: expected int32",
        ),
        ({"a": np.zeros((3, 2)), "b": np.zeros(5)}, "float64[5], found int32[5]"),
        ({"a": np.zeros((3, 2))}, "at ['b']: expected no such leaf, found one"),
        (
            {"a": np.zeros((3, 2)), "b": np.zeros(5, np.int32), "c": np.zeros(2)},
            "at ['c']: expected float64[2], found nothing",
        ),
        (
            {"a": [np.zeros((3, 2))], "b": np.zeros(5, np.int32)},
            "at ['a'][0]: expected",
        ),
        ({"a": np.zeros((3, 2)), "b": jax.random.key(0)}, "key<fry>[], found int32[5]"),
    ],
)
def test_a_template_that_differs_names_its_first_leaf(tmp_path, template, message):
    path = tmp_path / "x.npz"
    checkpoint.save(path, {"a": np.zeros((3, 2)), "b": np.zeros(5, np.int32)}, {})
    with pytest.raises(UserError) as error:
        checkpoint.restore(path, template)
    assert message in one_line(error)
    assert str(path) in one_line(error)


def make_task() -> types.TaskSpec:
    return types.TaskSpec(
        name="nbody_small/position",
        heads=(types.Head("position", "node_vector", base="positions", unit="u"),),
        scalars=("charge",),
        vectors=(types.VectorInput("velocity"),),
        edge_features=("charge_product",),
        length_unit="u",
        radial_extent=1 / 3,
    )


def test_a_model_comes_back_with_all_that_builds_it(tmp_path):
    path = tmp_path / "best.npz"
    params = {
        "egnn/~/mlp": {"w": jnp.arange(12.0).reshape(2, 2, 3), "b": jnp.ones((2, 3))},
        "egnn": {"w": jnp.float32([1, 2])},
    }
    fields = {"num_layers": 3, "sizes": [5, 7], "activation": "silu"}
    saved = checkpoint.ModelCheckpoint(
        "egnn", fields, make_task(), params, {"epoch": [5, 10]}
    )
    checkpoint.save_model(path, saved)
    loaded = checkpoint.load_model(path)
    assert loaded.task == make_task()
    assert (loaded.model, loaded.fields) == ("egnn", fields)
    assert loaded.metadata == {"epoch": [5, 10]}
    assert_trees_equal(loaded.params, params)


def test_a_training_state_is_no_model(tmp_path):
    path = tmp_path / "last.npz"
    checkpoint.save(path, make_state(), {"epoch": 3})
    with pytest.raises(UserError, match="expected a trained model") as error:
        checkpoint.load_model(path)
    one_line(error)


def test_json_is_sorted_strict_and_plain(tmp_path):
    path = tmp_path / "record.json"
    data = {
        "b": np.array([0.5, np.nan], np.float32),
        "a": {"inf": float("-inf"), "count": np.int64(3), 7: (1, True, None)},
        "path": tmp_path,
        "jax": jnp.ones(()),
    }
    checkpoint.write_json(path, data)
    text = path.read_text()
    expected = {
        "a": {"inf": None, "count": 3, "7": [1, True, None]},
        "b": [0.5, None],
        "path": str(tmp_path),
        "jax": 1.0,
    }
    assert json.loads(text) == expected
    assert text == json.dumps(expected, indent=2, sort_keys=True) + "\n"
