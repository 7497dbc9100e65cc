"""Files of QM9 as its authors and others write them, of methane alone."""

import bz2
import io
import tarfile

PROPERTIES = (
    *("157.7118", "157.70997", "157.70699", "0.", "13.21", "-0.3877", "0.1171"),
    *("0.5048", "35.3641", "0.044749", "-40.47893", "-40.476062", "-40.475117"),
    *("-40.498597", "6.469"),
)
ATOMS = (
    *(("C", "-0.0126981359", "1.0858041578", "0.0080009958", "-0.535689"),),
    *(("H", "0.002150416", "-0.0060313176", "0.0019761204", "0.133921"),),
    *(("H", "1.0117308433", "1.4637511618", "2.765748*^-4", "0.133922"),),
    *(("H", "-0.540815069", "1.4475266138", "-0.8766437152", "0.133923"),),
    *(("H", "-0.5238136345", "1.4379326443", "0.9063972942", "0.133923"),),
)
SDF_HEADER = (
    *("mol_id", "A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("u0", "u298", "h298", "g298", "cv", "u0_atom"),
)


def gdb(index: int) -> str:
    """One file of the archive."""
    lines = [
        str(len(ATOMS)),
        "\t".join([f"gdb {index}", *PROPERTIES, ""]),
        *("\t".join(atom) for atom in ATOMS),
        "1341.307\t1341.3284\t1341.365",
        "C\tC\t",
        "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4",
    ]
    return "\n".join(lines) + "\n"


def archive(texts: list[str]) -> bytes:
    """The compressed archive of some files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for number, text in enumerate(texts, 1):
            member = tarfile.TarInfo(f"dsgdb9nsd_{number:06}.xyz")
            member.size = len(text.encode())
            file.addfile(member, io.BytesIO(text.encode()))
    return bz2.compress(content.getvalue())


def sdf(indices: tuple[int, ...]) -> tuple[str, str]:
    """Structures and table of methane under some names."""
    rows = []
    for name, *position, _ in ATOMS:
        cells = [float(cell.replace("*^", "e")) for cell in position]
        rows.append("".join(f"{cell:10.4f}" for cell in cells) + f" {name}   0  0")
    bonds = [f"  1{other:3}  1  0" for other in range(2, 6)]
    blocks, table = [], [",".join(SDF_HEADER)]
    for index in indices:
        blocks += [f"gdb_{index}", "  -OEChem-", ""]
        blocks += ["  5  4  0     0  0  0  0  0  0999 V2000", *rows, *bonds]
        blocks += ["M  END", "$$$$"]
        table.append(",".join([f"gdb_{index}", *PROPERTIES, "0"]))
    return "\n".join(blocks) + "\n", "\n".join(table) + "\n"
