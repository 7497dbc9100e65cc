"""The chemical elements: symbols and covalent radii."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_SYMBOLS = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu
    Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs
    Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl
    Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh
    Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS: tuple[str, ...] = tuple(_SYMBOLS.split())
NUMBERS: Mapping[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS, 1)}
MOST = len(SYMBOLS)  # the largest atomic number

QM9 = (1, 6, 7, 8, 9)  # H, C, N, O and F: the elements of QM9's molecules

# Covalent radii in Å of the elements 1 to 96: Cordero et al. 2008,
# doi 10.1039/b801115j, table 2.
_RADII = """
    0.31 0.28 1.28 0.96 0.84 0.76 0.71 0.66 0.57 0.58 1.66 1.41 1.21 1.11 1.07
    1.05 1.02 1.06 2.03 1.76 1.70 1.60 1.53 1.39 1.39 1.32 1.26 1.24 1.32 1.22
    1.22 1.20 1.19 1.20 1.20 1.16 2.20 1.95 1.90 1.75 1.64 1.54 1.47 1.46 1.42
    1.39 1.45 1.44 1.42 1.39 1.39 1.38 1.39 1.40 2.44 2.15 2.07 2.04 2.03 2.01
    1.99 1.98 1.98 1.96 1.94 1.92 1.92 1.89 1.90 1.87 1.87 1.75 1.70 1.62 1.51
    1.44 1.41 1.36 1.36 1.32 1.45 1.46 1.48 1.40 1.50 1.50 2.60 2.21 2.15 2.06
    2.00 1.96 1.90 1.87 1.80 1.69
"""
RADII: Mapping[int, float] = dict(enumerate(map(float, _RADII.split()), 1))


def name(number: int) -> str:
    """Number and symbol, as errors name an element: '17 (Cl)'."""
    if 1 <= number <= MOST:
        return f"{number} ({SYMBOLS[number - 1]})"
    return f"{number}"


def span(numbers: Iterable[int]) -> str:
    """Symbols of some elements, or from the first to the last if they are many."""
    symbols = [SYMBOLS[number - 1] for number in sorted(numbers)]
    if len(symbols) > 10:
        return f"{symbols[0]} to {symbols[-1]}"
    return ", ".join(symbols)


def number_of(text: str) -> int:
    """The atomic number of a symbol in letters of any case, or of a number.

    Raises:
      ValueError: there is no such element.
    """
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST:
        return int(text)
    found = NUMBERS.get(text.capitalize())
    if found is None:
        raise ValueError(
            f"{text[:20]!r} is no element; expected a symbol from H to {SYMBOLS[-1]}, "
            f"or a number from 1 to {MOST}"
        )
    return found
