"""Which part of the package may import which (docs/design.md), read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdgan_ext"
#: Names that moved and are kept for a release: they import what stands above them.
DEPRECATED = {"models/presets.py"}


def modules(part: str) -> list[Path]:
    path = PACKAGE / part
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module of the package that a file imports, inside functions too, and every name that may be one."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "sdgan_ext"}


def imports_of(path: Path, *parts: str) -> list[str]:
    wanted = tuple(f"sdgan_ext.{part}" for part in parts)
    return sorted(name for name in imported(path) if name in wanted or name.startswith(tuple(f"{w}." for w in wanted)))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize(
    ("part", "above"),
    [
        ("models", ("training", "evaluation", "cli", "presets", "tuning")),
        ("data", ("models", "training", "evaluation", "cli", "presets", "tuning")),
        ("evaluation", ("training", "cli", "presets", "tuning")),
        ("training", ("cli", "presets", "tuning")),
        ("presets.py", ("evaluation", "cli", "tuning")),
    ],
)
def test_a_part_imports_nothing_above_it(part, above):
    # models/__init__.py names presets for those who import what has moved; that import runs for them alone.
    allowed = {("models/__init__.py", "sdgan_ext.presets")}
    found = [
        (relative(path), name)
        for path in modules(part)
        if relative(path) not in DEPRECATED
        for name in imports_of(path, *above)
    ]
    assert not set(found) - allowed


@pytest.mark.parametrize("name", ["guidance", "latents", "loss", "paths", "sampling", "solvers", "times"])
def test_the_functions_of_diffusion_stand_alone(name):
    """They know tensors and a network that is called; no data, no model of ours, no trainer."""
    above = ("data", "models", "evaluation", "training", "cli", "presets", "tuning")
    assert not imports_of(PACKAGE / "diffusion" / f"{name}.py", *above)


def test_importing_diffusion_imports_no_diffusers():
    code = "import sys, sdgan_ext.diffusion; print(*{'diffusers', 'transformers', 'tokenizers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "\n", ran.stderr


def test_nothing_imports_the_command_line():
    found = {relative(path): imports_of(path, "cli") for path in modules(".") if path.parent != PACKAGE / "cli"}
    assert {path for path, names in found.items() if names} == {"__main__.py"}


def test_importing_the_models_imports_no_training():
    code = "import sys, sdgan_ext.models; print(*(name for name in sys.modules if name.startswith('sdgan_ext.')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = ran.stdout.split()
    assert "sdgan_ext.models.vae_gan" in loaded, ran.stderr
    above = ("sdgan_ext.training", "sdgan_ext.evaluation", "sdgan_ext.cli", "sdgan_ext.presets")
    assert not [name for name in loaded if name.startswith(above)]


@pytest.mark.parametrize("name", ["PRESETS", "Preset", "preset"])
def test_names_that_moved_are_there_with_a_warning(name):
    from sdgan_ext import models, presets

    with pytest.warns(DeprecationWarning, match=f"sdgan_ext.models.{name} has moved to sdgan_ext.presets"):
        assert getattr(models, name) is getattr(presets, name)


def test_the_module_that_moved_is_there_with_a_warning():
    code = "from sdgan_ext.models.presets import OWN_SIZE, PRESETS, preset; print(PRESETS['seed'].model.channels)"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert "DeprecationWarning: sdgan_ext.models.presets has moved to sdgan_ext.presets" in ran.stderr
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert ran.stdout == "1\n", ran.stderr
