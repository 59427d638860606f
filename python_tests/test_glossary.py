"""Code and documents use the field's words: the left column of the glossary in docs/design.md, not the right one."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".pyi", ".md", ".h", ".cpp", ".cu", ".cuh", ".yaml", ".yml", ".toml", ".txt"}
FOLDERS = ("sdgan_ext", "csrc", "python_tests", "benchmarks", "docs", "examples", ".ci", ".github")
GLOSSARY = "docs/design.md"

#: Where old words stand by right: this list, the history, names that old files and old scripts still use.
ALLOWED = (
    "CHANGELOG.md",
    "python_tests/models/test_migration.py",
    "python_tests/test_glossary.py",
    "sdgan_ext/models/migration.py",
)

#: Folders and files whose words are still to come; to be emptied.
STILL_TO_COME = (
    "CMakeLists.txt",
    "benchmarks",
    "csrc",
    "docs/cuda.md",
    "docs/ops/conv.md",
    "docs/performance.md",
    "docs/seed-walkthrough.md",
    "python_tests/benchmarks",
    "python_tests/data",
    "python_tests/evaluation",
)
#: Names of tests of the training.
TRAINING_TO_COME = ("docs/feature-table.md", "python_tests/contract/peers.yaml")
#: Names of the convolution backends before, for one release.
OLD_BACKENDS = ("python_tests/ops/test_conv_backend.py", "sdgan_ext/_env.py")


class Rule(NamedTuple):
    """Words that are not written; a part of a name counts as a word.

    Attributes:
        words: a regular expression of one or more words.
        instead: what is written.
        folder: where the rule holds, everywhere unless given.
        excepted: where it does not hold.
    """

    words: str
    instead: str
    folder: str = ""
    excepted: tuple[str, ...] = ()


RULES = (
    Rule("thin(?!( to bold)? strokes)", "small-channel"),
    Rule("""["'`]direct["'`]|SDGAN_CONV=direct""", "small_channel", excepted=OLD_BACKENDS),
    Rule("to_coarse|to_fine", "fprop, dgrad, wgrad"),
    Rule("gather[ _-]gemm", "implicit GEMM"),
    Rule("twins?", "reference, decomposition"),
    Rule("(?<!negative_)slopes?", "gradient"),
    Rule("curvatures?", "second derivative"),
    Rule("games?", "adversarial loss or term", excepted=TRAINING_TO_COME),
    Rule("told(?![ _]apart)|tells|one truth", "conditioned on, given; says"),
    Rule("(?<!lr_)halvings?", "down block"),  # lr_halving_steps is a field of TrainConfig
    Rule("doublings?", "up block"),
    Rule("materials", "evaluation context"),
    Rule("rooms?|houses?|wings?", "file, module, layer"),
    Rule("phases?", "residue", folder="csrc"),
)


def lies_in(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)


def texts() -> list[Path]:
    """The texts of the repository, without what is built or measured."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files = [path for path in (*ROOT.glob("*"), *inside) if path.is_file() and path.suffix in SUFFIXES]
    return sorted(path for path in files if not path.is_relative_to(ROOT / "benchmarks/results"))


def text_of(path: Path) -> str:
    """Without the glossary, whose lines stay as empty ones."""
    text = path.read_text(encoding="utf-8")
    if path == ROOT / GLOSSARY:
        start, glossary, rest = split(text)
        text = start + "\n" * glossary.count("\n") + rest
    return text


def split(text: str) -> tuple[str, str, str]:
    """Before the section "Glossary", the section, after it."""
    begin = text.index("\n## Glossary\n") + 1
    end = text.find("\n## ", begin)
    end = len(text) if end < 0 else end + 1
    return text[:begin], text[begin:end], text[end:]


def findings(rule: Rule, text: str) -> list[int]:
    """Numbers of the lines with one of the words."""
    words = re.compile(rf"(?<![a-z])(?:{rule.words})(?![a-z])", re.IGNORECASE)
    return [i for i, line in enumerate(text.splitlines(), start=1) if words.search(line)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.words)
def test_the_fields_words(rule):
    found = []
    for path in texts():
        name = path.relative_to(ROOT).as_posix()
        if lies_in(name, (*ALLOWED, *STILL_TO_COME, *rule.excepted)) or not name.startswith(rule.folder):
            continue
        found += [f"{name}:{line}" for line in findings(rule, text_of(path))]
    assert not found, f"write {rule.instead!r}"


@pytest.mark.parametrize(
    "text, count",
    [
        ("its twin", 1),
        ("_TWINS = {}", 1),
        ("the twinned", 0),
        ("activation_slope(x)", 1),
        ("negative_slope=0.2", 0),
        ("a negative slope", 1),
        ("something is thinner", 0),
        ("thin_conv.h", 1),
        ("broom", 0),
    ],
)
def test_what_counts_as_a_word(text, count):
    assert sum(bool(findings(rule, text)) for rule in RULES) == count


def test_the_glossary_has_every_rule():
    glossary = split((ROOT / GLOSSARY).read_text(encoding="utf-8"))[1]
    for word in ("thin", "to_coarse", "twin", "slope", "curvature", "game", "told of", "halving", "doubling", "room"):
        assert word in glossary
