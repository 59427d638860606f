"""docs/feature-table.md and the README's table of ops, from the registry and peers.yaml.

python python_tests/contract/table.py            says what is stale
python python_tests/contract/table.py --write    writes it
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __package__ in (None, ""):
    sys.path.insert(0, str(ROOT / "python_tests"))
    __package__ = "contract"

from . import peers  # noqa: E402
from .registry import CONTRACTS, LAYERS, OPERATIONS  # noqa: E402

BEGIN, END = "<!-- made by python_tests/contract/table.py -->", "<!-- end -->"
COMMAND = "python python_tests/contract/table.py --write"
MARKS = {"yes": "✓", "refused": "refused", "not run": "not run yet"}


def rows(heading, lines):
    return ["| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *lines)]


def readme_table() -> str:
    operations = [*LAYERS, *OPERATIONS]
    return "\n".join(rows(["sdgan_ext", "stock PyTorch"], [[f"`{op.example}`", op.stock] for op in operations]))


def overview(ops, contracts):
    cells = {contract.key: {op.name: mark for op, mark, _ in contract.cells()} for contract in contracts}
    lines = [[key, *(MARKS.get(cells[key].get(op.name), "-") for op in ops)] for key in cells]
    return rows(["", *(f"`{op.name}`" for op in ops)], lines)


def feature_table() -> str:
    ops = [contract for contract in CONTRACTS if contract.ops[0] not in LAYERS]
    layers = [contract for contract in CONTRACTS if contract.ops[0] in LAYERS]
    page = [
        "# Feature table",
        "",
        f"What every op and layer keeps to, and the test of each cell. Made by `{COMMAND}` from",
        "`python_tests/contract/registry.py`; a test fails where this page is stale or names a test that is not there.",
        "*Refused*: it raises a sentence that says what is allowed, and its test is that of the sentence. A dash: no",
        "such thing. [torch.md](torch.md) shows how it is used. The last part stands [beside other",
        "projects](#beside-other-projects).",
        "",
        *overview(OPERATIONS, ops),
        "",
        *overview(LAYERS, layers),
    ]
    for contract in [*ops, *layers]:
        page += ["", f"## {contract.key}", "", contract.says[0].upper() + contract.says[1:] + ".", ""]
        page += rows(
            ["", "", "test"], [[f"`{op.name}`", MARKS[mark], f"`{test}`"] for op, mark, test in contract.cells()]
        )
        if contract.also:
            page += ["", "Also " + ", ".join(f"`{test}`" for test in contract.also) + "."]
    return "\n".join([*page, "", *peers.page(rows)]) + "\n"


def pages() -> dict[Path, str]:
    """What the files should hold."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    return {
        readme: f"{before}{BEGIN}\n{readme_table()}\n{END}{after}",
        ROOT / "docs" / "feature-table.md": feature_table(),
    }


def stale() -> list[Path]:
    return [path for path, text in pages().items() if not path.exists() or path.read_text() != text]


def tests() -> set[str]:
    """Every id that the table names."""
    named = {test for contract in CONTRACTS for _, _, test in contract.cells()}
    return named | {test for contract in CONTRACTS for test in contract.also}


def main() -> int:
    for path in (old := stale()):
        if "--write" in sys.argv:
            path.write_text(pages()[path])
        else:
            print(f"{path.relative_to(ROOT)} is stale; run `{COMMAND}`")
    return int(bool(old) and "--write" not in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
