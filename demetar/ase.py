"""Potentials as calculators of ASE, the Atomic Simulation Environment.

`demetar.calculator` makes one of a trained model. Whatever ASE does with a calculator
can be done with it: dynamics, relaxation, vibrations.

Source: Larsen et al. 2017, doi 10.1088/1361-648X/aa680e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from demetar.errors import UserError

try:
    from ase import Atoms
    from ase.calculators import calculator as of_ase
except ImportError:
    raise UserError(
        "expected ASE for a calculator, found none; install it with: "
        "python -m pip install '.[potential]'"
    ) from None

# `potential(numbers, positions)`: an energy in eV and forces [n, 3] in eV/Å.
EnergyAndForces = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]


class Calculator(of_ase.Calculator):
    """A calculator of ASE.

    Args:
      potential: what computes.

    Attributes:
      potential: the same.
    """

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, potential: EnergyAndForces):
        super().__init__()  # type: ignore[no-untyped-call]
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = of_ase.all_changes,
    ) -> None:
        """Fill `results`, as ASE asks for it.

        Raises:
          UserError: the cell is periodic, or an element is unknown.
        """
        super().calculate(  # type: ignore[no-untyped-call]
            atoms, properties, system_changes
        )
        found: Any = self.atoms
        if found.pbc.any():
            raise UserError(
                "expected atoms without a periodic cell, found pbc = "
                f"{found.pbc.tolist()}; set atoms.pbc = False if its images do not "
                "matter"
            )
        energy, forces = self.potential(found.numbers, found.positions)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
