"""The folder of an N-body data set, as it is written and read.

A folder holds one `.npz` per split and `metadata.json`. Each split has `positions` and
`velocities` (S, F, n, 3), `charges` or `masses` (S, n), `steps` (F,), where they were
asked for `forces` (S, F, n, 3) and, where the systems differ in size, `num_bodies`
(S,): the entries of a system beyond its number of bodies are padding. Splits may
differ in n. S counts systems, F saved frames, n bodies.

The metadata name the system, units, saved frames and the SHA-256 of every array. Their
`fingerprint` is of the arrays, and since format 2 their `checksum` of all the rest too.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar import archives, files
from demetar.errors import UserError

FORMAT = 2
FORMATS = (1, 2)
METADATA = "metadata.json"
SPLITS = ("train", "valid", "test")
VECTORS = ("positions", "velocities", "forces")
CHARGED = "charged"
_ANEW = "generate the data set anew"
_MOST_CHARACTERS = 100  # of a name that is shown
UNIT = f"a name of at most {_MOST_CHARACTERS} characters or empty"
_UNITS = ("positions", "velocities")
_MOST = 2**53  # of whole numbers, which are exact in double precision
_AXES = ("system", "frame", "body", "axis")


def sources(metadata: Mapping[str, Any]) -> str:
    """What acts on the bodies: 'charges' or 'masses'."""
    return "charges" if metadata["settings"]["system"] == CHARGED else "masses"


def fingerprint(arrays: Mapping[str, Mapping[str, str]]) -> str:
    """SHA-256 of the lines 'split/array:hash' in sorted order."""
    lines = [
        f"{split}/{name}:{digest}"
        for split, digests in arrays.items()
        for name, digest in digests.items()
    ]
    text = "\n".join(sorted(lines))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with format, fingerprint and checksum.

    Args:
      content: `settings` with the `system`, `frames`, `units`, `arrays` with the
        SHA-256 of each array by split and name, and whatever else is to be told.
    """
    metadata = {
        "format": FORMAT,
        **content,
        "fingerprint": fingerprint(content["arrays"]),
    }
    return {**metadata, "checksum": files.json_hash(metadata)}


# --- Metadata -----------------------------------------------------------------------


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """`metadata.json` of a folder.

    Raises:
      UserError: there is no such file, it is of another format or was altered, or an
        entry is missing or of another kind than it must be.
    """
    path = folder / METADATA
    if not path.exists():
        raise UserError(
            f"{folder} is not a finished data set: it has no {METADATA}; write one "
            "with python -m tools.generate_nbody or tools.import_nbody --out=DIR"
        )
    metadata = files.read_json(path, _ANEW)
    check_format(metadata, path, FORMATS, _ANEW)
    wrong = _wrong_entry(metadata)
    if wrong:
        told = files.one_line(wrong)
        raise UserError(f"cannot read {path}: expected {told}; {_ANEW}")
    check_seal(metadata, path, _ANEW)
    return metadata


def read_of_kind(
    folder: pathlib.Path, kind: str, noun: str, content: str, tool: str
) -> dict[str, Any]:
    """`metadata.json` of a folder of another kind of data, sealed as these are.

    Args:
      folder: to read.
      kind: that the metadata must name.
      noun: what a finished folder is, as 'set of frames'.
      content: what it holds, as 'frames with energies and forces'.
      tool: the command that writes one.

    Raises:
      UserError: there is no such file, it is of another kind or format or was altered.
    """
    path, anew = folder / METADATA, f"generate the {kind} anew"
    if not path.exists():
        raise UserError(
            f"{folder} is not a finished {noun}: it has no {METADATA}; write one with "
            f"python -m {tool}"
        )
    metadata = files.read_json(path, anew)
    found = metadata.get("kind")
    if found != kind:
        raise UserError(
            f"{path} is of no {content}: expected the kind {kind!r}, found "
            f"{files.one_line(repr(found))}; write a folder with python -m {tool}"
        )
    check_format(metadata, path, (FORMAT,), anew)
    if not are_checksums(metadata.get("arrays")):
        raise UserError(
            f"cannot read {path}: expected arrays, the checksums by split and name; "
            f"{anew}"
        )
    check_seal(metadata, path, anew)
    return metadata


def read_arrays(
    folder: pathlib.Path,
    split: str,
    metadata: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """The arrays of these names of a split of such a folder.

    Raises:
      UserError: there is no such split, or its file is missing, damaged or altered.
    """
    path, anew = folder / f"{split}.npz", f"generate the {metadata['kind']} anew"
    if split not in metadata["arrays"] or not path.exists():
        raise UserError(f"{folder} has no {split} set; {anew}")
    arrays = archives.read_npz(path, anew)
    faults = alterations(arrays, metadata["arrays"][split])
    missing = [f"{name} is missing" for name in names if name not in arrays]
    for fault in (*faults, *missing):
        raise UserError(f"{path} was altered: {fault}; {anew}")
    return {name: arrays[name] for name in names}


def check_format(
    metadata: Mapping[str, Any], path: pathlib.Path, formats: Sequence[int], hint: str
) -> None:
    """Refuse metadata of another format.

    Raises:
      UserError: they have one.
    """
    found = metadata.get("format")
    if type(found) is not int or found not in formats:
        expected = " or ".join(map(str, formats))
        raise UserError(
            f"{path} has format {files.one_line(repr(found))}, expected {expected}; "
            f"{hint}"
        )


def check_seal(metadata: Mapping[str, Any], path: pathlib.Path, hint: str) -> None:
    """Refuse metadata that are not as `sealed` made them.

    Args:
      metadata: of a known format, with `arrays`.
      path: where they were read, for the error.
      hint: what to do, for the error.

    Raises:
      UserError: the fingerprint or the checksum is another one.
    """
    rest = {name: value for name, value in metadata.items() if name != "checksum"}
    for name, digest in (
        ("fingerprint", fingerprint(metadata["arrays"])),
        ("checksum", files.json_hash(rest) if metadata["format"] > 1 else None),
    ):
        if metadata.get(name) != digest:
            raise UserError(
                f"{path} was altered: its {name} is not that of its "
                f"{'checksums' if name == 'fingerprint' else 'entries'}; {hint}"
            )


def _wrong_entry(metadata: Mapping[str, Any]) -> str:
    """What an entry should have been; '' if all of them are right."""
    settings, units = metadata.get("settings"), metadata.get("units")
    if not isinstance(settings, dict) or not _is_name(settings.get("system")):
        return "settings.system, a name"
    if not _is_number(settings.get("dt", 1)) or not settings.get("dt", 1) > 0:
        return f"a positive settings.dt, found {_listed([settings['dt']])}"
    if not _is_whole(settings.get("sample_every", 1), 1):
        found = settings["sample_every"]
        return f"settings.sample_every from 1, found {found!r}"
    if not isinstance(units, dict) or not {*_UNITS} <= {*units}:
        return f"units of {' and '.join(_UNITS)}"
    if not all(map(is_unit, units.values())):
        return f"units, each {UNIT}"
    frames = metadata.get("frames")
    if not isinstance(frames, list) or not frames:
        return "frames, a list of numbers"
    if not all(_is_whole(frame, 0) for frame in frames):
        return f"frames that are whole numbers from 0, found {_listed(frames)}"
    if frames != sorted({*frames}):
        return f"frames in ascending order, each once, found {_listed(frames)}"
    if not are_checksums(metadata.get("arrays")):
        return "arrays, the checksums by split and name"
    return ""


def are_checksums(arrays: Any) -> bool:
    """Whether metadata tell texts by split and name."""
    return isinstance(arrays, dict) and all(
        isinstance(own, dict) and all(isinstance(value, str) for value in own.values())
        for own in arrays.values()
    )


def is_unit(value: Any) -> bool:
    """Whether it is the name of a unit, or '' for none."""
    return value == "" or _is_name(value)


def _is_name(value: Any) -> bool:
    """Whether it is a text that can be shown in one short line."""
    fits = isinstance(value, str) and 0 < len(value) <= _MOST_CHARACTERS
    return fits and value.isprintable()


def _is_number(value: Any) -> bool:
    # An integer may be too large for a float.
    return type(value) in (int, float) and abs(value) < 1e300


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= _MOST


def _listed(values: Sequence[Any]) -> str:
    text = ", ".join(repr(value)[:40] for value in values[:10])
    return f"{text}, ..." if len(values) > 10 else text


# --- Splits -------------------------------------------------------------------------


def read_split(
    folder: pathlib.Path, split: str, metadata: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a split as `checked` gives them.

    Raises:
      UserError: the file is missing, damaged or altered, or as `checked`; or the steps
        do not fit the frames.
    """
    path = folder / f"{split}.npz"
    if not path.exists():
        raise UserError(f"{path} is missing; {_ANEW}")
    arrays = archives.read_npz(path, _ANEW)
    faults = alterations(arrays, metadata["arrays"][split])
    if faults:
        raise UserError(f"{path} was altered: {faults[0]}; {_ANEW}")
    place = f"the {split} set of {folder}"
    arrays = checked(arrays, sources(metadata), len(metadata["frames"]), place)
    if "steps" in arrays and metadata["format"] == 1:  # no checksum holds the frames
        _check_frames(arrays["steps"], metadata, place)
    return arrays


def alterations(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, str]
) -> list[str]:
    """What each array is that has not its SHA-256: missing, extra or another."""
    names = sorted({*arrays, *expected})
    return [
        f"{name} is missing"
        if name not in arrays
        else f"{name} is extra"
        if name not in expected
        else f"the SHA-256 of {name} differs"
        for name in names
        if name not in arrays or not _has_hash(arrays[name], expected.get(name))
    ]


def _has_hash(array: np.ndarray, expected: str | None) -> bool:
    """Whether it has the SHA-256 in the byte order of the machine, or in the other."""
    if files.array_hash(array) == expected:
        return True
    return files.array_hash(array.astype(array.dtype.newbyteorder())) == expected


def checked(
    arrays: Mapping[str, np.ndarray],
    kind: str,
    num_frames: int | None,
    place: str,
    hint: str = _ANEW,
) -> dict[str, np.ndarray]:
    """The arrays of a split as finite float64 numbers, padding as 0.

    `steps`, where they are there, and `num_bodies`, always, are int64.

    Args:
      arrays: as they were read; others than those of the format are left out.
      kind: of `sources`.
      num_frames: F; None for any number.
      place: where they were read, for errors.
      hint: ends errors of arrays that are missing or of another shape.

    Raises:
      UserError: one is missing, of another type or shape or not finite, which is told
        with its system; or there is no system or no body.
    """
    num_systems, num_frames, most, _ = _shape(arrays, kind, num_frames, place, hint)
    sizes = arrays.get("num_bodies", np.full(num_systems, most))
    sizes = files.whole_numbers(sizes, "num_bodies", place, [num_systems], 1, most)
    real = np.arange(most) < sizes[:, None]  # [S, n]
    result = {"num_bodies": sizes}
    for name in (*VECTORS, kind):
        if name not in arrays:
            continue
        own, mask = arrays[name], real[:, None, :, None]
        axes: tuple[str, ...] = _AXES
        shape: tuple[int, ...] = (num_systems, num_frames, most, 3)
        if name == kind:
            mask, axes, shape = real, _AXES[::2], real.shape
        if own.shape == shape and own.dtype.kind == "f" and not real.all():
            own = np.where(mask, own, own.dtype.type(0))
        result[name] = files.real_numbers(own, name, place, shape, axes)
    if "steps" in arrays:
        result["steps"] = _checked_steps(arrays["steps"], num_frames, place, hint)
    return result


def _shape(
    arrays: Mapping[str, np.ndarray],
    kind: str,
    num_frames: int | None,
    place: str,
    hint: str,
) -> tuple[int, ...]:
    """Numbers of systems, frames, bodies and axes, none of them 0."""
    needed = ("positions", "velocities", kind)
    if not {*needed} <= {*arrays}:
        raise UserError(
            f"expected positions, velocities and {kind} in {place}, found "
            f"{', '.join(arrays) or 'nothing'}; {hint}"
        )
    found = arrays["positions"].shape
    if not files.fits(found, (None, num_frames, None, 3)) or 0 in found:
        raise UserError(
            f"expected at least one system in {place}, with 'positions' "
            f"{files.shown(('S', num_frames or 'F', 'n', 3))}, "
            f"found {files.describe(arrays['positions'])}; {hint}"
        )
    return found


def _checked_steps(
    steps: np.ndarray, num_frames: int, place: str, hint: str
) -> np.ndarray:
    steps = files.whole_numbers(steps, "steps", place, [num_frames], most=_MOST)
    if (np.diff(steps) <= 0).any():
        raise UserError(
            f"expected steps in ascending order in {place}, found "
            f"{_listed(steps.tolist())}; {hint}"
        )
    return steps


def _check_frames(steps: np.ndarray, metadata: Mapping[str, Any], place: str) -> None:
    """Refuse frames that are not those of the steps.

    Frame k comes after k times a number of steps, of a charged system after k + 1
    times. A folder that does not tell the number may have either.
    """
    frames = np.array(metadata["frames"])
    settings = metadata["settings"]
    every = settings.get("sample_every")
    firsts: tuple[int, ...] = (0, 1)
    if every is not None:
        firsts = (int(settings["system"] == CHARGED),)
    elif len(frames) > 1:
        every = (steps[-1] - steps[0]) / (frames[-1] - frames[0])
    else:
        return
    if not any((steps == every * (frames + first)).all() for first in firsts):
        raise UserError(
            f"the frames {_listed(frames.tolist())} in {METADATA} are not those of the "
            f"steps {_listed(steps.tolist())} in {place}: one was altered; {_ANEW}"
        )
