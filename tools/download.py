"""Files from the network: several addresses, a checksum, a progress bar."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import pathlib
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import NamedTuple

import tqdm

from demetar.errors import UserError

CHUNK_BYTES = 1 << 18
USER_AGENT = "demetar"  # some servers refuse Python's own


class File(NamedTuple):
    """A file as its publisher has it.

    Attributes:
      name: on the disk.
      size: in bytes.
      sha256: of its content, in hexadecimal digits.
      addresses: of its copies, in the order that they are tried in.
    """

    name: str
    size: int
    sha256: str
    addresses: Sequence[str]


def fetch(
    file: File,
    folder: pathlib.Path,
    *,
    attempts: int = 2,
    pause: float = 2.0,
    timeout: float = 60.0,
    quiet: bool = False,
) -> pathlib.Path:
    """The file in a folder, downloaded if it is not there yet.

    It takes its name only when its size and SHA-256 are right.

    Args:
      file: what to fetch.
      folder: made if there is none.
      attempts: rounds through all addresses.
      pause: seconds between two rounds.
      timeout: seconds without an answer.
      quiet: no progress bar.

    Raises:
      UserError: no address gave the file; the message tells why each did not. Or the
        folder cannot be written.
    """
    path = folder / file.name
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    reasons: list[str] = []
    try:
        if path.exists() and _sha256(path) == file.sha256:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause)
            for address in file.addresses:
                reason = _try(file, address, temporary, timeout, quiet)
                if not reason:
                    os.replace(temporary, path)
                    return path
                reasons.append(f"{address}: {reason}")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space there or "
            "choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    told = "; ".join(dict.fromkeys(reasons))
    raise UserError(
        f"cannot download {file.name} ({told}); try again later, or fetch it by hand "
        "and name its folder"
    )


def _try(
    file: File, address: str, path: pathlib.Path, timeout: float, quiet: bool
) -> str:
    """Download to a path; why it failed, or '' if all is well."""
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT})
    digest, size = hashlib.sha256(), 0
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return " ".join(str(error).split())
    bar = tqdm.tqdm(
        total=file.size, desc=file.name, unit="B", unit_scale=True, disable=quiet
    )
    with response, bar, open(path, "wb") as output:
        while size <= file.size:
            try:
                content = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                return f"the connection broke after {size:,} bytes ({error!r})"
            if not content:
                break
            output.write(content)
            digest.update(content)
            size += len(content)
            bar.update(len(content))
    if size != file.size:
        more = "more than " if size > file.size else ""
        return f"expected {file.size:,} bytes, found {more}{min(size, file.size):,}"
    if digest.hexdigest() != file.sha256:
        return f"expected SHA-256 {file.sha256[:12]}, found {digest.hexdigest()[:12]}"
    return ""


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
