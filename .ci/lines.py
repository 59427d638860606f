"""The lengths of files and lines: python .ci/lines.py FILE...

A file has at most 600 lines, a line of C++ at most 120 columns (of Python: ruff's E501). Tables between
``// clang-format off`` and ``on`` may be wider.
"""

import re
import sys
from pathlib import Path

LINES = 600
COLUMNS = 120


def complaints(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = []
    count = len(text.splitlines())
    if count > LINES:
        found.append(f"{path} has {count} lines; split it, {LINES} are allowed")
    if path.suffix == ".py":
        return found
    unformatted = re.compile(r"^\s*// clang-format off$.*?^\s*// clang-format on$", re.MULTILINE | re.DOTALL)
    kept = unformatted.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(kept.splitlines(), 1):
        if len(line) > COLUMNS:
            found.append(f"{path}:{number} has {len(line)} columns; break it, {COLUMNS} are allowed")
    return found


def main() -> int:
    found = [sentence for name in sys.argv[1:] for sentence in complaints(Path(name))]
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
