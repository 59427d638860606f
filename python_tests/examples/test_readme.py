import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_table_has_a_row_for_each_example():
    listed = re.findall(r"^\| \[`([\w.]+)`\]\(\1\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    there = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert sorted(listed) == sorted(there)
