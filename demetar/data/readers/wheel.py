"""QM9 as the CSV files of the wheel `qm9pack`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from demetar import elements
from demetar.data.molecules import Record
from demetar.data.readers import text

COLUMNS = (
    *("RotA_GHz", "RotB_GHz", "RotC_GHz", "Dipole_debye", "Polarizability_bohr3"),
    *("HOMO_au", "LUMO_au", "HOMO_LUMO_gap_au", "R2_bohr2", "ZPVE_au"),
    *("InternalEnergy_0K_au", "InternalEnergy_298K_au", "Enthalphy_298K_au"),
    *("GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K"),
)
_NAMED = ("Index", "SMILES", "Elements", "XYZ_Ang", "N_atoms")
_LISTS = str.maketrans("", "", "[]' ")


def records(paths: list[pathlib.Path]) -> Iterator[Record]:
    """The molecules of all files.

    Raises:
      UserError: a file cannot be read, has no such column, or a row of it is bad.
    """
    for path in paths:
        rows = text.table(path)
        _, header = next(rows, ("", []))
        index, smiles, names, xyz, size = text.columns(header, _NAMED, path)
        columns = text.columns(header, COLUMNS, path)
        for place, row in rows:
            with text.naming(place):
                text.check_width(row, header)
                numbers = [
                    elements.number_of(name)
                    for name in row[names].translate(_LISTS).split(",")
                ]
                if len(numbers) != text.whole(row[size]):
                    raise ValueError(f"{row[size]} atoms but {len(numbers)} names")
                positions = row[xyz].translate(_LISTS).split(",")
                yield Record(
                    place,
                    text.whole(row[index]),
                    numbers,
                    list(map(text.number, positions)),
                    [text.number(row[column]) for column in columns],
                    row[smiles],
                )
