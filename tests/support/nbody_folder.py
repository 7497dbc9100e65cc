"""N-body folders in the documented format, written by hand."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

SPLITS = {"train": 11, "valid": 5, "test": 7}
FRAMES = (10, 20, 30)


def digest(array: np.ndarray) -> str:
    """SHA-256 of type, shape and bytes, written anew here on purpose."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


def fingerprint(arrays: dict[str, dict[str, str]]) -> str:
    lines = sorted(
        f"{split}/{name}:{value}"
        for split, digests in arrays.items()
        for name, value in digests.items()
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def random_arrays(
    count: int,
    sizes: tuple[int, int],
    seed: int,
    sources: str = "charges",
    forces: bool = False,
) -> dict[str, np.ndarray]:
    """One split of systems with `sizes` (smallest, largest) bodies."""
    generator = np.random.default_rng(seed)
    low, high = sizes
    shape = (count, len(FRAMES), high, 3)
    arrays = {
        "positions": generator.normal(size=shape),
        "velocities": generator.normal(size=shape),
        sources: generator.choice([-1.0, 1.0], (count, high)),
        "steps": np.array(FRAMES) * 100 + 100,
    }
    if forces:
        arrays["forces"] = generator.normal(size=shape)
    if low == high:
        return arrays
    bodies = generator.integers(low, high + 1, count)
    bodies[:2] = low, high
    present = np.arange(high) < bodies[:, None]
    for name in {"positions", "velocities", "forces"} & arrays.keys():
        arrays[name] *= present[:, None, :, None]
    arrays[sources] *= present
    return {**arrays, "num_bodies": bodies}


def write(
    folder: pathlib.Path,
    sizes: tuple[int, int] = (5, 5),
    system: str = "charged",
    splits: dict[str, int] = SPLITS,
    forces: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Writes a whole folder and returns its arrays by split."""
    sources = "charges" if system == "charged" else "masses"
    folder.mkdir(parents=True)
    arrays = {
        split: random_arrays(count, sizes, seed, sources, forces)
        for seed, (split, count) in enumerate(splits.items())
    }
    for split, own in arrays.items():
        save_split(folder, split, own)
    digests = {
        split: {name: digest(array) for name, array in own.items()}
        for split, own in arrays.items()
    }
    metadata = {
        "format": 1,
        "settings": {"system": system},
        "frames": list(FRAMES),
        "units": {"positions": "m", "velocities": "m / s", "forces": "N"},
        "arrays": digests,
        "fingerprint": fingerprint(digests),
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return arrays


def save_split(folder: pathlib.Path, split: str, arrays: dict[str, np.ndarray]) -> None:
    np.savez(folder / f"{split}.npz", **arrays)  # type: ignore[arg-type]


def edit_metadata(folder: pathlib.Path, **changes: Any) -> None:
    """Entries of metadata.json replaced; None removes one."""
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text()) | changes
    kept = {name: value for name, value in metadata.items() if value is not None}
    path.write_text(json.dumps(kept))
