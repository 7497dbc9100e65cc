"""The chemical elements: symbols, masses and covalent radii."""

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

# Standard atomic weights in u, rounded (IUPAC 2021, doi 10.1515/pac-2019-0603); of an
# element without stable isotopes the mass number of its most stable one.
_TABLE = """
H 1.008 He 4.0026 Li 6.94 Be 9.0122 B 10.81 C 12.011 N 14.007 O 15.999 F 18.998
Ne 20.180 Na 22.990 Mg 24.305 Al 26.982 Si 28.085 P 30.974 S 32.06 Cl 35.45 Ar 39.95
K 39.098 Ca 40.078 Sc 44.956 Ti 47.867 V 50.942 Cr 51.996 Mn 54.938 Fe 55.845
Co 58.933 Ni 58.693 Cu 63.546 Zn 65.38 Ga 69.723 Ge 72.630 As 74.922 Se 78.971
Br 79.904 Kr 83.798 Rb 85.468 Sr 87.62 Y 88.906 Zr 91.224 Nb 92.906 Mo 95.95 Tc 97
Ru 101.07 Rh 102.91 Pd 106.42 Ag 107.87 Cd 112.41 In 114.82 Sn 118.71 Sb 121.76
Te 127.60 I 126.90 Xe 131.29 Cs 132.91 Ba 137.33 La 138.91 Ce 140.12 Pr 140.91
Nd 144.24 Pm 145 Sm 150.36 Eu 151.96 Gd 157.25 Tb 158.93 Dy 162.50 Ho 164.93
Er 167.26 Tm 168.93 Yb 173.05 Lu 174.97 Hf 178.49 Ta 180.95 W 183.84 Re 186.21
Os 190.23 Ir 192.22 Pt 195.08 Au 196.97 Hg 200.59 Tl 204.38 Pb 207.2 Bi 208.98
Po 209 At 210 Rn 222 Fr 223 Ra 226 Ac 227 Th 232.04 Pa 231.04 U 238.03
"""
_WORDS = _TABLE.split()
MASSES: Mapping[str, float] = dict(
    zip(_WORDS[::2], map(float, _WORDS[1::2]), strict=True)
)


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
