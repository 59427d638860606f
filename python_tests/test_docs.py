"""What the documents show runs, and what they point to exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("csrc/*.md"), *ROOT.glob("benchmarks/*.md")]
)
#: Their Python blocks are run, in order, as one program; a block that opens with ```python notest is only shown.
PROGRAMS = (
    "README.md",
    "docs/index.md",
    "docs/data.md",
    "docs/seed-walkthrough.md",
    "docs/quickstart.zh.md",
    "docs/torch.md",
    "docs/diffusion.md",
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", PROGRAMS)
def test_python_blocks_run(name, tmp_path):
    """Trainings of 100 steps take 10 here."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    program = "import torch\ntorch.set_num_threads(1)\n" + "\n".join(blocks).replace("steps=100)", "steps=10)")
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_and_paths_exist(document):
    text = document.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert not [link for link in links if link and not (document.parent / link).exists()]
    paths = re.findall(r"`((?:csrc|sdgan_ext|python_tests|benchmarks|docs)/[\w./-]+\.\w+)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", sorted((ROOT / "sdgan_ext").rglob("*.py")), ids=relative)
def test_documents_that_the_sources_point_to_exist(path):
    assert not [name for name in re.findall(r"docs/[\w./-]+\.md", path.read_text()) if not (ROOT / name).exists()]


@pytest.mark.parametrize(
    "command",
    ["train", "sample", "reconstruct", "interpolate", "evaluate", "report", "pack", "export", "bench", "doctor"],
)
def test_flags_exist(command):
    words = [sys.executable, "-m", "sdgan_ext", command, "--help"]
    known = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}).stdout
    for document in DOCUMENTS:
        for line in re.findall(rf"sdgan-ext {command} ([^`#\n]*)", document.read_text()):
            for flag in re.findall(r"--[a-z][a-z-]*", line):
                assert re.search(rf"{flag}\b", known), f"{relative(document)}: sdgan-ext {command} has no {flag}"


def test_each_promise_has_its_test():
    named = re.findall(r"`([a-z]+/test_\w+\.py)(?:::(\w+))?`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 20
    for file, function in named:
        text = (ROOT / "python_tests" / file).read_text()
        assert f"def {function}(" in text if function else "def test_" in text, (file, function)
