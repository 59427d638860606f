"""The part of docs/feature-table.md that stands beside other projects, from peers.yaml.

python python_tests/contract/peers.py FOLDER    looks up in clones of their repositories, FOLDER/<repository's name>,
                                                what their marks rest on; says what is not there
"""

import ast
import sys
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
_DATA = yaml.safe_load((Path(__file__).parent / "peers.yaml").read_text())
PEERS, GROUPS = _DATA["peers"], _DATA["groups"]


def our_mark(ours) -> tuple[str, str]:
    """The cell, and the test of it or nothing."""
    if isinstance(ours, str):
        return "✓", ours
    if ours[0] is False:  # YAML's no
        return ": ".join(["no", *ours[1:]]), ""
    return f"partly: {ours[0]}", ours[1]


def their_mark(evidence) -> str:
    if evidence is None:
        return "not found"
    return f"partly: {evidence[2]}" if len(evidence) == 3 else "✓"


def tests() -> set[str]:
    """Every test that a mark of ours names."""
    return {our_mark(row["ours"])[1] for group in GROUPS.values() for row in group} - {""}


@cache
def functions(file: Path) -> set[str]:
    """The functions that a file defines at its top, read and not run."""
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def missing_tests() -> list[str]:
    split = [test.split("::") for test in sorted(tests())]
    return [
        f"{file}::{name}"
        for file, name in split
        if not (ROOT / file).exists() or not name.startswith("test_") or name not in functions(ROOT / file)
    ]


def missing_evidence(folder: Path) -> list[str]:
    missing = []
    for row in (row for group in GROUPS.values() for row in group):
        for name in PEERS.keys() & row.keys():
            path, text = row[name][:2]
            file = folder / PEERS[name]["repository"].split("/")[1] / path
            if not file.exists() or text not in file.read_text(errors="replace"):
                missing.append(f"{name}, {row['what']}: {path} does not say {text!r}")
    return missing


def page(table) -> list[str]:
    """Lines of Markdown; ``table`` makes a table of a heading and rows."""
    lines = [
        "## Beside other projects",
        "",
        "What was found in their repositories at the commit that was read; `python_tests/contract/peers.yaml` has the",
        "file and the words behind each of their marks. *Not found* says no more than that. The tests of our marks",
        "stand below each table.",
        "",
    ]
    url = "https://github.com/{repository}/tree/{commit}"
    read = [
        [name, f"[{p['repository']}]({url.format(**p)})", p["commit"], str(p["dated"])] for name, p in PEERS.items()
    ]
    lines += table(["", "repository", "commit", "of"], read)
    for title, group in GROUPS.items():
        marks = [[row["what"], our_mark(row["ours"])[0], *(their_mark(row.get(p)) for p in PEERS)] for row in group]
        named = [[row["what"], f"`{test}`"] for row in group if (test := our_mark(row["ours"])[1])]
        lines += ["", f"### {title}", "", *table(["", "sdgan_ext", *PEERS], marks)]
        lines += ["", *table(["", "test of our mark"], named)] if named else []
    return lines


if __name__ == "__main__":
    absent = missing_evidence(Path(sys.argv[1]))
    print("\n".join(absent) or "all is there")
    sys.exit(bool(absent))
