"""Parsers of what people and disks give: the right value, or one line.

The parsers of molecules are in `molecule_files_property_test.py`.
"""

import io
import json
import math
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from demetar import archives, files, models
from demetar.data import nbody_files
from demetar.errors import UserError
from experiments.protocols import settings as protocols
from experiments.run import run_files
from tests import report_test
from tests.support.quick import quick
from tools import command_line, generate_nbody, import_nbody


def ends_well(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result; None if one line refuses the input."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return function(*args, **kwargs)
        except UserError as error:
            message = str(error)
            most = 1_500 + 2 * len(repr((args, kwargs)))  # which may be told
            assert message and "\n" not in message and len(message) < most
            message.encode()
            return None


def written(content: bytes, read: Callable[[pathlib.Path], Any]) -> Any:
    """What `read` makes of a file of that content."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file"
        path.write_bytes(content)
        return ends_well(read, path)


def test_what_is_no_user_error_is_seen():
    """The negative control of all tests below."""
    with pytest.raises(ZeroDivisionError):
        ends_well(lambda: 1 // 0)
    with pytest.raises(AssertionError):
        ends_well(exec, "raise UserError('a\\nb')", {"UserError": UserError})


# --- JSON ---------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False))
finite = st.one_of(st.integers(-(2**70), 2**70), st.floats(-1e300, 1e300))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), finite, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


@quick
@hypothesis.given(objects, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_json_is_read_however_it_is_written(content, is_ascii, encoding):
    text = json.dumps(content, ensure_ascii=is_ascii, indent=1)
    assert written(text.encode(encoding), files.read_json) == content


@quick
@hypothesis.given(st.binary(max_size=40) | texts.map(str.encode))
def test_any_bytes_as_json(content):
    found = written(content, files.read_json)
    assert found is None or isinstance(found, dict)


def _refused_json(text: str) -> None:
    assert written(text.encode(), files.read_json) is None


@quick
@hypothesis.given(
    st.integers(files.MOST_JSON_DEPTH, 3000), st.sampled_from(['{"a":', "["])
)
def test_deep_json_is_refused(depth, opening):
    closing = {"[": "]"}.get(opening, "}")
    _refused_json('{"a":' + opening * depth + "1" + closing * depth + "}")


@pytest.mark.parametrize(
    "value", ["9" * 400, "-" + "9" * 5000, "1e999", "NaN", '"\\ud800"', "Infinity"]
)
def test_values_that_code_would_fail_at_are_refused(value):
    _refused_json(f'{{"a": [{value}]}}')


def test_deep_json_that_is_allowed_can_be_hashed():
    depth = files.MOST_JSON_DEPTH - 2
    content = written(('{"a":' * depth + "1" + "}" * depth).encode(), files.read_json)
    assert len(files.json_hash(content)) == len(run_files.run_id(content)) == 64
    assert run_files.not_finite(content) == []


# --- .npz ---------------------------------------------------------------------------

types = st.one_of(
    *(numpy_st.integer_dtypes(), numpy_st.unsigned_integer_dtypes()),
    *(numpy_st.floating_dtypes(), numpy_st.complex_number_dtypes()),
    *(numpy_st.boolean_dtypes(), numpy_st.unicode_string_dtypes(max_len=4)),
)
shapes = numpy_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=5),
    numpy_st.arrays(types, shapes),
    max_size=3,
)


def _npz(content: dict[str, np.ndarray], save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, **content)
    return file.getvalue()


@quick
@hypothesis.given(arrays, st.sampled_from([np.savez, np.savez_compressed]))
def test_npz_is_read_to_the_bit(content, save):
    encoded = _npz(content, save)
    parsed = archives.parse_npz(encoded, "x")
    for found in (written(encoded, archives.read_npz), parsed):
        assert {*found} == {*content}
        for name, array in content.items():
            native = array.astype(array.dtype.newbyteorder("="))
            assert found[name].dtype == native.dtype
            assert found[name].tobytes() == native.tobytes()


@quick
@hypothesis.given(arrays, st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_of_an_npz_is_told_or_harmless(content, place, change):
    encoded = bytearray(_npz(content, np.savez))
    encoded[place % len(encoded)] ^= change
    found = written(bytes(encoded), archives.read_npz)
    # Names and headers of members have no checksum in a way that matters here.
    for name, array in (found or {}).items():
        if name in content and found[name].dtype == array.dtype:
            assert array.size == content[name].size


@quick
@hypothesis.given(numpy_st.arrays(types, shapes), st.sampled_from([None, 0, 2, 3]))
def test_arrays_are_numbers_or_refused(array, size):
    place, shape = "the test", [size] * array.ndim
    real = ends_well(files.real_numbers, array, "x", place, shape)
    if real is not None:
        assert real.dtype == np.float64 and np.isfinite(real).all()
    whole = ends_well(files.whole_numbers, array, "x", place, shape)
    if whole is not None:
        assert (whole == array).all() and (whole >= 0).all()


# --- metadata.json, records and settings --------------------------------------------


def _sealed_metadata() -> dict[str, Any]:
    return nbody_files.sealed(
        {
            "settings": {"system": "charged", "dt": 0.001, "sample_every": 100},
            "frames": [10, 20],
            "units": {"positions": "m", "velocities": "m/s"},
            "arrays": {"train": {"positions": "0" * 64}},
        }
    )


def _read_metadata(content: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / nbody_files.METADATA
        path.write_text(json.dumps(content))
        return ends_well(nbody_files.read_metadata, path.parent)


@quick
@hypothesis.given(st.sampled_from(sorted(_sealed_metadata())), values)
def test_an_entry_of_metadata_that_is_another_is_refused(name, value):
    content = _sealed_metadata()
    assert _read_metadata(content) == content
    hypothesis.assume(json.dumps(value) != json.dumps(content[name]))
    assert _read_metadata(content | {name: value}) is None


@quick
@hypothesis.given(st.sampled_from(["settings", "frames", "units", "arrays"]), values)
def test_metadata_of_any_values_is_read_or_refused(name, value):
    """Also where whoever wrote it made the checksums anew."""
    content = _sealed_metadata() | {name: value}
    content = {key: content[key] for key in ("settings", "frames", "units", "arrays")}
    try:
        made = nbody_files.sealed(content)
    except (AttributeError, TypeError):
        return  # no checksums by split and name
    found = _read_metadata(made)
    assert found is None or found["frames"] == sorted(set(found["frames"]))


@quick
@hypothesis.given(
    st.sampled_from([*sorted(run_files.ENTRIES), "test_loss", "eval", "checksum"]),
    values,
)
def test_a_record_of_any_entry_is_read_or_refused(name, value):
    record = report_test.make_record() | {name: value}
    found = written(json.dumps(record).encode(), run_files.read_record)
    if found is not None:
        assert found[name] == value and math.isfinite(record["num_params"])


# --- What is typed ------------------------------------------------------------------

MODELS = ("egnn", "segnn", "newton", "tfn", "linear")
typed = st.one_of(
    texts,
    st.sampled_from(["", "none", "1,2", "1,,2", "true", "1e3", "0x10", "١", "²", "-0"]),
    st.sampled_from(["9" * 5000, "1e999", "nan", "inf", "-1", "1_000", " 3 "]),
    st.text("0123456789.,-e_", max_size=6),
)


@quick
@hypothesis.given(st.sampled_from(MODELS), st.data())
def test_fields_are_of_their_type_or_refused(model, data):
    known = [*models.fields(model), "", "unknown"]
    field = data.draw(st.sampled_from(known))
    text = f"{field}{data.draw(st.sampled_from(['=', '']))}{data.draw(typed)}"
    found = ends_well(models.parse_fields, model, [text])
    if found:
        ends_well(models.check_fields, model, found)


@quick
@hypothesis.given(st.sampled_from(MODELS), typed, st.lists(typed, max_size=2))
def test_phases_are_parsed_or_refused(model, epochs, assignments):
    items = [f"loss_floor={text}" for text in assignments]
    phase = ends_well(protocols.parse_phase, model, f"{epochs}:{','.join(items)}")
    if phase is not None:
        assert phase.epochs >= 1
        assert phase.loss_floor is None or 0 < phase.loss_floor < math.inf


@quick
@hypothesis.given(typed)
def test_frames_and_bodies_of_the_generator(text):
    for name in ("save_frames", "num_bodies"):
        given, _ = generate_nbody.LINE.parse([f"--{name}={text}"])
        ends_well(lambda _, own: generate_nbody.settings_of(own), text, given)


@quick
@hypothesis.given(typed, typed)
def test_frames_and_fractions_of_the_importer(frames, fractions):
    found = ends_well(import_nbody._numbers, "frames", frames, 2)
    assert found is None or (len(found) == 2 and 0 <= found[0] < found[1])
    bodies = {"positions": np.zeros((10, 1, 2, 3))}
    parts = ends_well(import_nbody._split, bodies, fractions, 0)
    assert parts is None or all(len(own["positions"]) for own in parts.values())


@quick
@hypothesis.given(st.lists(typed, max_size=3))
def test_lists_of_positive_integers(items):
    found = ends_well(command_line.positive_integers, "sizes", items)
    assert found is None or all(value >= 1 for value in found)
