"""rMD17: the protocol, the published files, and `tools.prepare_rmd17`."""

import hashlib
import http.server
import io
import pathlib
import tarfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from demetar.data import frame_notes, potentials, rmd17
from demetar.data.frames import joined
from demetar.errors import UserError
from tests.support import frame_texts
from tools import prepare_rmd17
from tools.command_line import Given

FRAMES = frame_texts.trajectory(90)
TRAIN, TEST = np.arange(89, 29, -1), np.arange(30)  # 60 and 30 rows
ARRAYS = frame_texts.of_rmd17(
    FRAMES,
    old_energies=2 * FRAMES.energies,
    old_forces=3 * FRAMES.forces.reshape(-1, 3, 3),
)
ROWS = {"train": TRAIN, "test": TEST}


def files_of(
    molecules: Sequence[str] = ("ethanol",),
    rows: Mapping[str, Sequence[Any] | np.ndarray] = ROWS,
    **changed: np.ndarray | None,
) -> dict[str, bytes]:
    """The files of the published archive."""
    content = io.BytesIO()
    arrays = {**ARRAYS, **changed}
    known: dict[str, Any] = {name: a for name, a in arrays.items() if a is not None}
    np.savez(content, **known)
    found = {
        f"rmd17/npz_data/rmd17_{molecule}.npz": content.getvalue()
        for molecule in molecules
    }
    for part, own in rows.items():
        text = "".join(f"{row}\n" for row in own)
        found[f"rmd17/splits/index_{part}_01.csv"] = text.encode()
    return {"rmd17/readme.txt": b"read me\n", **found}


def unpacked(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def packed(path: pathlib.Path, files: dict[str, bytes], mode: str = "w:bz2") -> bytes:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def load(
    folder: pathlib.Path, name: str = "rmd17_ethanol", **settings: Any
) -> potentials.Sets:
    return potentials.load(name, folder, potentials.Settings(**settings))


def prepare(**flags):
    prepare_rmd17.run(Given({key: flags[key] for key in flags}))


# --- The protocol -------------------------------------------------------------------


@pytest.mark.parametrize("molecule", rmd17.MOLECULES)
def test_published_frames_in_ev(shared_dir, molecule):
    sets = load(shared_dir / "data", f"rmd17_{molecule}")
    assert [len(sets.parts[s]) for s in potentials.SPLITS] == [950, 50, 1_000]
    everything = joined([sets.parts[split] for split in potentials.SPLITS])
    parts = []
    for part in ("train", "test"):
        path = shared_dir / "data" / "rmd17" / f"rmd17_{molecule}_{part}_01.npz"
        with np.load(path) as file:
            parts.append({name: file[name] for name in file.files})
    size = len(parts[0]["nuclear_charges"])
    for own, name in (("energies", "energies"), ("forces", "forces")):
        expected = np.concatenate([part[name] for part in parts]) * 0.0433641
        found = getattr(everything, own).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    expected = np.concatenate([part["coords"] for part in parts])
    np.testing.assert_array_equal(everything.positions.reshape(-1, size, 3), expected)
    assert frame_notes.notes_on(everything, molecule) == ()


def test_rows_of_the_published_split(tmp_path):
    folder = unpacked(tmp_path, files_of())
    sets = load(folder)
    assert [len(sets.parts[s]) for s in potentials.SPLITS] == [10, 50, 30]
    found = joined([sets.parts[split] for split in potentials.SPLITS])
    expected = FRAMES.take(np.concatenate([TRAIN, TEST]))
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-6)
    fewer = load(folder, num_train=4)
    np.testing.assert_array_equal(
        fewer.parts["train"].energies, sets.parts["train"].energies[:4]
    )
    np.testing.assert_array_equal(
        fewer.parts["valid"].energies, sets.parts["valid"].energies
    )
    assert fewer.fingerprint == sets.fingerprint  # of one source


def test_labels_of_md17(tmp_path, shared_dir):
    new, old = (load(unpacked(tmp_path, files_of()), labels=x) for x in rmd17.LABELS)
    kcal = 0.0433641
    for split, own in new.parts.items():
        np.testing.assert_allclose(
            old.parts[split].energies, 2 * kcal * own.energies, rtol=1e-6
        )
        np.testing.assert_allclose(
            old.parts[split].forces, 3 * kcal * own.forces, rtol=1e-6
        )
    assert old.fingerprint != new.fingerprint
    with pytest.raises(UserError, match="expected 'old_energies' in .*labels=md17"):
        load(shared_dir / "data", labels="md17")


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(rows={"train": [*TRAIN, 3], "test": TEST}), "1 of the 30 test frames"),
        (dict(rows={"train": [*TRAIN, 89], "test": TEST}), "each once"),
        (dict(rows={"train": [*TRAIN, 90], "test": TEST}), "line 61.*90 of 90 frames"),
        (dict(rows={"train": [*TRAIN, "x"], "test": TEST}), "line 61: .*'x' is no"),
        (dict(rows={"train": TRAIN[:50], "test": TEST}), "more than 50 and at most"),
        (dict(rows={"train": TRAIN}), "index_test_01.csv"),
        (dict(forces=ARRAYS["forces"][:80]), "expected 90 frames in 'forces'"),
        (
            dict(forces=ARRAYS["forces"][:, :2]),
            r"real numbers \[60, 3, 3\] in 'forces'",
        ),
        (dict(energies=None), "found no 'energies'"),
        (dict(energies=ARRAYS["energies"] * np.nan), "the train frames of ethanol"),
    ],
)
def test_damaged_files_are_told(tmp_path, changed, message):
    rows = changed.pop("rows", ROWS)
    with pytest.raises(UserError, match=message) as caught:
        load(unpacked(tmp_path, files_of(rows=rows, **changed)))
    assert "\n" not in str(caught.value)


def test_more_than_a_thousand_training_frames_are_refused(tmp_path):
    frames = frame_texts.trajectory(1_010)
    arrays: dict[str, Any] = {"old_energies": None, "old_forces": None}
    arrays |= frame_texts.of_rmd17(frames)
    rows = {"train": np.arange(1_001), "test": np.arange(1_001, 1_010)}
    with pytest.raises(UserError, match="at most 1,000.*found 1,001"):
        load(unpacked(tmp_path / "many", files_of(rows=rows, **arrays)))
    rows["train"] = np.arange(1_000)
    sets = load(unpacked(tmp_path / "right", files_of(rows=rows, **arrays)))
    assert len(sets.parts["train"]) == 950


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="rmd17_uracil_train_01.npz.*prepare_rmd17"):
        load(tmp_path, "rmd17_uracil")


# --- The tool -----------------------------------------------------------------------


@pytest.mark.parametrize("mode, name", [("w:bz2", "a.tar.bz2"), ("w", "a.tar")])
def test_the_archive_becomes_files_of_a_split(tmp_path, mode, name, capsys):
    files = files_of(("ethanol", "uracil"))
    packed(tmp_path / name, files, mode)
    out = tmp_path / "out"
    prepare(source=str(tmp_path / name), out=str(out), molecules=("ethanol",))
    told = capsys.readouterr().out
    assert told.startswith("ethanol: 60 train and 30 test frames, fingerprint ")
    assert sorted(path.name for path in out.iterdir()) == [
        *("rmd17_ethanol_test_01.npz", "rmd17_ethanol_train_01.npz")
    ]
    expected = load(unpacked(tmp_path / "plain", files))
    for labels in rmd17.LABELS:
        expected = load(tmp_path / "plain", labels=labels)
        assert load(out, labels=labels).fingerprint == expected.fingerprint
    # From the files of a split, or from the folder, it is the same again.
    for number, source in enumerate((out, tmp_path / "plain")):
        again = tmp_path / f"again{number}"
        prepare(source=str(source), out=str(again), molecules=("ethanol",))
        assert load(again, labels="md17").fingerprint == expected.fingerprint
        assert capsys.readouterr().out == told
    with pytest.raises(UserError, match="expected another --out than the source"):
        prepare(source=str(out), out=str(out), molecules=("ethanol",))


def test_a_damaged_archive_leaves_nothing(tmp_path):
    path, out = tmp_path / "a.tar.bz2", tmp_path / "out"
    whole = packed(path, files_of())
    flags = dict(source=str(path), out=str(out), molecules=("ethanol",))
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*a\.tar\.bz2|found no such"):
            prepare(**flags)
        assert not list(out.iterdir())
    packed(path, files_of())
    with pytest.raises(UserError, match=r"expected npz_data/rmd17_uracil\.npz in"):
        prepare(**{**flags, "molecules": ("uracil",)})
    assert not list(out.iterdir())
    prepare(**flags)  # the negative control
    assert len(list(out.iterdir())) == 2


def frames_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("part", ["train", "test"])
def test_parts_of_two_sources_are_never_mixed(tmp_path, part):
    first = unpacked(tmp_path / "first", files_of()) / "rmd17"
    bad = np.array(ARRAYS["coords"])
    bad[ROWS[part][0]] = np.nan
    second = unpacked(tmp_path / "second", files_of(coords=bad)) / "rmd17"
    out, flags = tmp_path / "out", {"molecules": ("ethanol",), "overwrite": True}
    with pytest.raises(UserError, match="expected finite numbers"):
        prepare(source=str(second), out=str(out), **flags)
    assert not out.exists()
    prepare(source=str(first), out=str(out), **flags)
    before = frames_of(out)
    with pytest.raises(UserError, match="expected finite numbers"):
        prepare(source=str(second), out=str(out), **flags)
    assert frames_of(out) == before


def test_other_frames_are_replaced_only_on_demand(tmp_path, capsys, monkeypatch):
    sources = [
        unpacked(tmp_path / str(scale), files_of(energies=scale * ARRAYS["energies"]))
        for scale in (1, 2)
    ]
    out, flags = tmp_path / "out", {"molecules": ("ethanol",)}
    first, second = ({"source": str(path / "rmd17"), **flags} for path in sources)
    prepare(out=str(out), **first)
    before = frames_of(out)
    assert "there already" not in capsys.readouterr().out
    prepare(out=str(out), **first)
    assert capsys.readouterr().out.endswith(", there already\n")
    # A path whose first part is not there is of the same folder.
    monkeypatch.chdir(tmp_path)
    for path in (str(out), "missing/../out"):
        with pytest.raises(UserError, match="holds other frames; pass --overwrite"):
            prepare(out=path, **second)
    assert frames_of(out) == before and not (tmp_path / "missing").exists()
    prepare(out=str(out), overwrite=True, **second)
    after = frames_of(out)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in after)
    # A part that is missing or damaged joins the other of the same source.
    (out / "rmd17_ethanol_test_01.npz").unlink()
    prepare(out=str(out), **second)
    assert frames_of(out) == after


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "expected --out=DIR"),
        ({"out": "o"}, "expected --source=ARCHIVE or FOLDER, or --download"),
        ({"out": "o", "source": "none"}, "expected --source to be a folder or a file"),
        ({"out": "o", "source": ".", "molecules": ("water",)}, "found 'water'"),
    ],
)
def test_wrong_flags(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare(**flags)


def test_the_archive_is_fetched(tmp_path, monkeypatch):
    content = packed(tmp_path / "a.tar.bz2", files_of())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = prepare_rmd17.ARCHIVE._replace(
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            addresses=(f"http://127.0.0.1:{server.server_port}/",),
        )
        monkeypatch.setattr(prepare_rmd17, "ARCHIVE", file)
        out = tmp_path / "out"
        prepare(download=True, out=str(out), molecules=("ethanol",))
        server.shutdown()
    assert len(load(out).parts["test"]) == 30
    assert (out / "rmd17.tar.bz2").read_bytes() == content
