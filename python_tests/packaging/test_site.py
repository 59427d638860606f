"""The documentation site builds without a warning, without the network, and has every public function in it."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("mkdocs")
MODULES = ("ops", "nn", "losses", "models", "data", "diffusion", "evaluation")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # What would ask for something on the network fails at once.
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | offline | {"PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_and_class_is_documented(site, name):
    module = importlib.import_module(f"sdgan_ext.{name}")
    public = {f"sdgan_ext.{name}.{member}" for member in module.__all__ if callable(getattr(module, member))}
    documented = set(re.findall(r'<h\d id="([\w.]+)"', (site / "api" / f"{name}.html").read_text()))
    assert public
    assert not public - documented


def test_every_command_is_documented(site):
    page = (site / "api" / "cli.html").read_text()
    for command in ("train", "sample", "doctor"):
        assert f'<h2 id="{command}"' in page
    assert "--batch-size" in page


def test_options_of_a_configuration_are_documented(site):
    assert "Adam's learning rate of the encoder" in (site / "api" / "training.html").read_text().replace("&#39;", "'")


def test_no_markup_of_docstrings_is_left(site):
    for page in sorted((site / "api").glob("*.html")):
        text = re.sub(r"<(pre|script|style|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert not re.findall(r".*(?:``|:func:|:class:|:meth:|:mod:).*", text), page.name


def test_pages_load_nothing_from_elsewhere(site):
    """Links lead elsewhere; scripts, styles, fonts and pictures are the site's own."""
    elsewhere = r"<(?:script|img|iframe)\b[^>]*\ssrc=\W?https?:|<link\b[^>]*stylesheet[^>]*https?:|url\(\W?https?:"
    files = [file for file in site.rglob("*") if file.suffix in (".html", ".css")]
    assert not [file.name for file in files if re.search(elsewhere, file.read_text())]


def test_pictures_outside_of_docs_are_part_of_it(site):
    shown = re.findall(r'<img [^>]*src="([^"]+)"', (site / "presets.html").read_text())
    assert len(shown) == 3
    assert all((site / picture).is_file() for picture in shown)
