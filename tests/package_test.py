"""The package as a whole: the guard on jax, the wheel, the arrows and the README."""

import ast
import configparser
import importlib.metadata
import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest
import setuptools

import demetar
from tests.support import xla_flags

PACKAGES = ("demetar", "experiments", "tools")

# What each part of `demetar` may import of the rest of it, beside `errors`. A part that
# is not named here may import nothing and be imported by nobody.
_BASE = {"types", "geometry", "graphs", "pairs", "connectivity", "elements"}
MAY_IMPORT: dict[str, set[str]] = {
    "files": set(),
    "archives": {"files"},
    "places": {"files"},
    "elements": set(),
    "connectivity": set(),
    "integrators": set(),
    "locks": {"files", "places"},
    "settings": set(),
    "graphs": {"types"},
    "pairs": {"types", "graphs"},
    "heads": {"types", "graphs"},
    "geometry": {"types", "graphs"},
    "nn": _BASE | {"heads", "nn"},
    "models": _BASE | {"integrators", "nn", "models"},
    "precision": set(),
    "net": {"types", "models"},
    "data": _BASE
    | {"files", "archives", "places", "heads", "settings", "data", "precision"},
    "scattering": {"types", "elements", "settings", "data", "scattering"},
    "distributed": {"types", "data", "distributed"},
    "train": _BASE
    | {"files", "archives", "places", "heads", "settings", "data", "distributed"}
    | {"nn", "models", "train"},
    "testing": _BASE | {"data", "precision", "models", "train", "testing"},
    "pretrained": set(),
    "predict": {"types", "heads", "data", "precision", "models", "train"},
    "ase": set(),
    "committees": {"types", "data", "predict"},
    "potential": {"types", "ase", "data", "models", "predict", "committees"},
    "symmetry": {"types", "geometry", "graphs", "precision", "net", "predict"},
    "generation": _BASE
    | {"files", "places", "settings", "data", "distributed", "generation"},
    "visual": _BASE | {"data", "generation", "nn", "precision", "symmetry", "visual"},
    "export": _BASE | {"heads", "data", "precision", "train", "predict"},
}

# Files, clocks and logging live in `experiments` and `demetar.train`.
_SIDE_EFFECTS = {"absl", "io", "json", "logging", "os", "pathlib", "time", "tqdm"}

# What nothing in a package may import.
NEVER_IMPORTS = {
    "demetar": {
        *("experiments", "tools", "tests", "pytest"),
        *("absl.flags", "absl.app", "torch"),
    },
    "experiments": {"tests", "jraph", "torch"},
    "tools": {"experiments", "tests", "jraph", "torch"},
    "demetar.nn": _SIDE_EFFECTS,
    "demetar.models": _SIDE_EFFECTS,
}
# The comparison with PyTorch, which nothing else needs.
USES_TORCH = {"experiments.benchmark.torch_side"}


def _sources(root: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Every module of the program: its name and its source."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts), path.read_text()  # a package is NAME.__init__


def _imports(module: str, source: str) -> set[str]:
    """Names imported anywhere in a source; a name from a package counts with it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                origin = ".".join([*parents, *filter(None, [node.module])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def _within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _wrong_arrows(module: str, source: str) -> list[str]:
    """The imports of a module that DESIGN's arrows do not allow."""
    imports = _imports(module, source)
    wrong = {
        name
        for scope, forbidden in NEVER_IMPORTS.items()
        for name in imports
        if _within(module, scope) and any(_within(name, bad) for bad in forbidden)
    }
    if module in USES_TORCH:
        wrong -= {name for name in wrong if _within(name, "torch")}
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    if package == "demetar" and part != "__init__":
        parts = MAY_IMPORT.get(part, set()) | {"errors", "__version__"}
        allowed = {f"demetar.{name}" for name in parts}
        wrong |= {
            name
            for name in imports
            if _within(name, "demetar") and not any(_within(name, ok) for ok in allowed)
        }
        if module != "demetar.types":
            wrong |= {name for name in imports if _within(name, "jraph")}
    return sorted(wrong)


def test_flags_that_xla_does_not_know_are_left_out():
    known, unknown = "--xla_backend_optimization_level=0", "--xla_no_such_flag=1"
    assert xla_flags.known(known, unknown) == [known]


# --- The guard on jax ---------------------------------------------------------------


@pytest.mark.parametrize("release", demetar.FAULTY_JAX)
def test_faulty_jax_stops_the_import_with_one_line(release, run_python, tmp_path):
    metadata = tmp_path / f"jax-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: jax\nVersion: {release}\n")

    for args in (["-c", "import demetar.types"], ["-m", "experiments.nbody", "--help"]):
        process = run_python(args, PYTHONPATH=str(tmp_path))
        assert process.returncode != 0
        assert process.stdout == ""
        (line,) = process.stderr.splitlines()
        assert f"jax {release}, which {demetar.FAULTY_JAX[release]}" in line
        assert "python -m pip install 'jax>=0.7,!=0.10.2,!=0.11.0,!=0.11.1'" in line


def test_guard_can_be_caught_and_leaves_other_tracebacks_alone(run_python):
    process = run_python(
        """
import importlib.metadata

importlib.metadata.version = lambda name: "0.11.1"
try:
    import demetar
except ImportError as error:
    print(type(error).__name__)
raise ValueError("another")
"""
    )
    assert process.stdout == "UnsupportedJaxError\n"
    assert "Traceback" in process.stderr
    assert "ValueError: another" in process.stderr


@pytest.mark.parametrize("version", ["0.7.0", "0.10.1", "0.11.2", "0.10.20"])
def test_guard_accepts_other_releases(version):
    demetar.check_jax(version)


def test_guard_sees_a_local_build_and_a_copy_without_metadata(monkeypatch):
    with pytest.raises(demetar.UnsupportedJaxError, match=r"jax 0\.10\.2,"):
        demetar.check_jax("0.10.2+cuda12")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    copy = types.SimpleNamespace(__version__="0.11.1")
    monkeypatch.setitem(sys.modules, "jax", copy)
    assert demetar._jax_versions() == {"0.11.1"}


@pytest.mark.parametrize("module", ["experiments.nbody", "tools.generate_nbody"])
def test_commands_say_in_one_line_that_there_is_no_jax(module, project_root):
    # Without site-packages this Python has nothing but its own library.
    command = [sys.executable, "-S", "-m", module, "--help"]
    done = subprocess.run(
        command, cwd=project_root, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("demetar needs jax") and "pip install" in line


JITTED_PRODUCT = """
import jax
import jax.numpy as jnp
import numpy as np

count = jnp.arange(32_769, dtype=jnp.float32)
rows = jnp.stack([count, jnp.zeros_like(count), jnp.zeros_like(count)], axis=1)
matrix = jnp.eye(3)
squares = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
np.testing.assert_allclose(squares, np.arange(32_769.0) ** 2, rtol=1e-6)
"""


def test_jitted_matrix_vector_product_is_right(run_python):
    """The reproduction of jax issue 39103: 0.8 % off on CPU under 0.10.2."""
    # In a process with the optimisation that a user has.
    process = run_python(JITTED_PRODUCT, XLA_FLAGS="")
    assert process.returncode == 0, process.stderr


# --- The wheel ----------------------------------------------------------------------


def _configuration(root: pathlib.Path) -> configparser.ConfigParser:
    configuration = configparser.ConfigParser()
    configuration.read(root / "setup.cfg")
    return configuration


def test_wheel_holds_the_three_packages_whole_and_no_tests(project_root):
    include = _configuration(project_root)["options.packages.find"]["include"].split()
    found = set(setuptools.find_packages(str(project_root), include=include))

    folders = {
        ".".join(path.parent.relative_to(project_root).parts)
        for package in PACKAGES
        for path in (project_root / package).rglob("*.py")
    }
    assert found == folders, "a folder without __init__.py is left out of the wheel"
    assert {name.partition(".")[0] for name in found} == set(PACKAGES)


def test_setup_excludes_the_releases_that_the_guard_refuses(project_root):
    options = _configuration(project_root)["options"]["install_requires"]
    (requirement,) = re.findall(r"^jax>=.*$", options, re.MULTILINE)
    assert set(re.findall(r"!=([\d.]+)", requirement)) == set(demetar.FAULTY_JAX)


def test_files_beside_the_package_name_its_version(project_root):
    citation = (project_root / "CITATION.cff").read_text()
    assert f"\nversion: {demetar.__version__}\n" in citation
    changes = (project_root / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[([\d.]+)\]", changes, re.M)[0] == demetar.__version__


# --- The arrows ---------------------------------------------------------------------


def test_arrows_point_one_way(project_root):
    sources = dict(_sources(project_root))
    assert {module.partition(".")[0] for module in sources} == set(PACKAGES)
    wrong = {
        module: _wrong_arrows(module, source) for module, source in sources.items()
    }
    assert {module: names for module, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    "module, source, name",
    [
        ("demetar.types", "from demetar import graphs", "demetar.graphs"),
        ("demetar.models.egnn", "import demetar.data.nbody", "demetar.data.nbody"),
        ("demetar.nn.mlp", "from ..train import loop", "demetar.train.loop"),
        ("demetar.models.egnn", "from . import egnn\nimport jraph", "jraph"),
        ("demetar.train.loop", "def f():\n  from absl import flags", "absl.flags"),
        ("tools.generate_nbody", "import experiments", "experiments"),
    ],
)
def test_a_wrong_arrow_is_found(module, source, name):
    assert _wrong_arrows(module, source) == [name]


def test_jax_is_not_needed_to_check_its_version(run_python):
    process = run_python("import sys, demetar; print('jax' in sys.modules)")
    assert process.stdout == "False\n", process.stderr


# --- The README ---------------------------------------------------------------------


PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("docs/devices.md", "docs/pictures.md", "docs/potentials.md"),
    "docs/generation.md",
)


@pytest.mark.parametrize("name", PAGES)
def test_pages_name_modules_and_files_that_exist(name, project_root):
    page = project_root / name
    text = page.read_text()

    modules = set(re.findall(r"python -m ([\w.]+)", text))
    assert name != "README.md" or {"experiments.nbody", "pytest", "pip"} <= modules
    for module in sorted(modules - {"pip", "pdoc", "venv"}):
        assert importlib.util.find_spec(module) is not None, module

    links = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text))
    assert {link for link in links if not (page.parent / link).exists()} == set()


def _commands(text: str) -> list[list[str]]:
    """Our commands in a text of Markdown: module and arguments of each."""
    lines = re.findall(r"python -m ((?:experiments|tools)\.[^`\n]*)", text)
    return [shlex.split(line.partition("&&")[0]) for line in lines]


def _unknown_flags(args: list[str], text: str) -> list[str]:
    """The flags of a command that its help does not list."""
    listed = set(re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE))
    given = re.findall(r"^--(\w+)", "\n".join(args), re.MULTILINE)
    return [name for name in given if name not in {*listed, "help"}]


def test_pages_have_only_flags_that_exist(project_root, run_module):
    texts = {name: (project_root / name).read_text() for name in PAGES}
    assert len(_commands(texts["README.md"])) >= 8
    found = [command for text in texts.values() for command in _commands(text)]
    helps = {module: run_module(module, "--help") for module, *_ in found}
    assert {name for name, process in helps.items() if process.returncode} == set()
    unknown = {
        (module, flag)
        for module, *args in found
        for flag in _unknown_flags(args, helps[module].stdout)
    }
    assert unknown == set()


def test_a_flag_that_does_not_exist_is_found():
    text = "`python -m tools.x --out=a --modle b` and\n    python -m experiments.y c\n"
    assert _commands(text) == [
        ["tools.x", "--out=a", "--modle", "b"],
        ["experiments.y", "c"],
    ]
    assert _unknown_flags(_commands(text)[0], "  --out=TEXT\n") == ["modle"]
