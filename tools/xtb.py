"""Energies and forces by extended tight binding, of the optional package tblite.

Source: GFN2-xTB, Bannwarth, Ehlert, Grimme 2019, doi 10.1021/acs.jctc.8b01176;
GFN1-xTB, Grimme, Bannwarth, Shushkov 2017, doi 10.1021/acs.jctc.7b00118.
"""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

import numpy as np

from demetar import files
from demetar.data.units import BOHR, HARTREE
from demetar.errors import UserError
from tools.langevin import Engine

METHODS = ("GFN2-xTB", "GFN1-xTB")
INSTALL = "python -m pip install '.[potential]'"
_THREADS = "OMP_NUM_THREADS"


def version() -> str:
    """The version of tblite.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.metadata.version("tblite")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the engine tblite is not installed; install it with {INSTALL}"
        ) from None


def engine(method: str, numbers: np.ndarray) -> Engine:
    """The engine of one neutral molecule; each belongs to one thread.

    Args:
      method: one of `METHODS`.
      numbers: [n] atomic numbers.

    Raises:
      UserError: tblite is not installed; and, when it is called, it finds no energy.
    """
    version()
    # A small molecule is fastest on one thread; it is read when tblite is loaded.
    os.environ.setdefault(_THREADS, "1")
    from tblite import interface

    known: list[Any] = []  # the calculator and its last result, where the next starts

    def compute(positions: np.ndarray) -> tuple[float, np.ndarray]:
        places = positions / BOHR
        try:
            if not known:
                known[:] = interface.Calculator(method, numbers, places), None
                known[0].set("verbosity", 0)
            calculator, last = known
            calculator.update(places)
            known[1] = found = calculator.singlepoint(last)
        except RuntimeError as error:
            raise UserError(
                f"{method} found no energy of the molecule ({files.one_line(error)}); "
                "try a smaller --time_step or another --molecule"
            ) from None
        forces = -np.asarray(found.get("gradient")) * (HARTREE / BOHR)
        return float(found.get("energy")) * HARTREE, forces

    return compute
