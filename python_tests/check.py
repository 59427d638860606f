"""`make check`: the tests of what changed, in minutes.

    python python_tests/check.py [--list] [PART...]

What changed is what git sees between the merge base with main and the working tree, new files included. From it follow

- a test file: itself; another file in a folder of tests: the folder;
- a Python module: the tests of its name, or else the folder of its package; and those that import it;
- a native file: the C++ tests of its family, on the CPU's kernels and on CUDA's run on the CPU, and the Python tests of
  that family's ops; a file that is no family's, such as simd.h: all of both, which takes longer;
- a document: that what it points to exists.

A PART stands instead of git's answer: a path below python_tests ("ops", "training/test_ema.py"), or the beginning of
the names of C++ tests ("winograd"), "csrc" for all of them. Test files in SLOW run where they have the changed module's
name or are named; those left out are listed. --list says what would run.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
ROOT = TESTS.parent
BIN = Path(sys.executable).parent
BUILD = ROOT / "build" / f"native-{sys.implementation.cache_tag}"

#: Test files of half a minute and more.
SLOW = frozenset(
    f"python_tests/{name}.py"
    for name in (
        "benchmarks/test_gpu_check",
        "benchmarks/test_soak",
        "contract/test_compile",
        "contract/test_export",
        "examples/test_quickstart_notebook",
        "fuzz/test_formats",
        "test_docs",
        "training/test_distributed",
        "training/test_exact_resume",
        "training/test_kill",
        "training/test_restarts",
    )
)
#: Quick tests of the whole tree.
ALWAYS = "python_tests/test_walls.py"
#: C++ tests that have no family's name but are the convolutions'.
CONVOLUTION = ("conv", "gemm", "implicit_gemm", "small_channel", "winograd")


class Selection(NamedTuple):
    python: set[str]  # paths of tests, as pytest takes them
    native: set[str]  # names of C++ tests
    left_out: set[str]  # slow ones


def git(*arguments: str) -> list[str]:
    ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return ran.stdout.splitlines() if ran.returncode == 0 else []


def changed_files() -> list[str]:
    """Since the merge base with main (else origin/main, else the last commit); deleted files are left out."""
    base = next((found[0] for name in ("main", "origin/main") if (found := git("merge-base", "HEAD", name))), "HEAD")
    files = git("diff", "--name-only", "--diff-filter=d", base) + git("ls-files", "--others", "--exclude-standard")
    return sorted(set(files))


def native_tests() -> list[str]:
    """The names in CMakeLists.txt's two lists of C++ tests."""
    lists = re.findall(r"set\(SDGAN_(?:CPU|CUDA)_TESTS(.*?)\)", (ROOT / "CMakeLists.txt").read_text(), re.DOTALL)
    return sorted({name for names in lists for name in names.split()})


def existing(*patterns: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in TESTS.glob(pattern)}


def imported_names(test: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importers(module: str) -> set[str]:
    tests = [test for test in TESTS.rglob("test_*.py") if module in imported_names(test)]
    return {test.relative_to(ROOT).as_posix() for test in tests}


def of_module(path: Path) -> Selection:
    """``path``: sdgan_ext/training/ema.py."""
    package, stem = Path(*path.parts[1:-1]), path.stem.strip("_")
    folder = existing(f"{package}/**/test_*.py" if package.parts else "test_*.py")
    if path.name == "__init__.py":
        return Selection(folder - SLOW, set(), folder & SLOW)
    named = existing(f"{package}/test_{stem}.py", f"test_{stem}.py", f"{stem}/test_*.py")
    others = importers(".".join(path.with_suffix("").parts)) | (set() if named else folder)
    return Selection(named | (others - SLOW), set(), (others & SLOW) - named)


def of_native(path: Path) -> Selection:
    names = native_tests()
    stem = path.stem.removeprefix("test_")
    if path.parts[1] == "tests" and stem in names:
        return Selection(set(), {stem}, set())
    if "conv" in path.parts or stem.startswith("conv"):
        tests = {name for name in names if name.startswith(CONVOLUTION)}
        return Selection(existing("ops/test_conv*.py", "ops/test_winograd.py"), tests, set())
    families = [name for name in names if stem.startswith(name) and existing(f"ops/test_{name}.py")]
    if not families:
        return Selection(existing("ops/test_*.py"), set(names), set())
    family = max(families, key=len)
    return Selection(existing(f"ops/test_{family}*.py"), {family}, set())


def of_file(name: str) -> Selection:
    path = Path(name)
    top = path.parts[0]
    if top == "csrc" and path.suffix in (".cpp", ".h", ".cu", ".cuh"):
        return of_native(path)
    if top == "sdgan_ext" and path.suffix == ".py":
        return of_module(path)
    if name.startswith("python_tests/packaging/"):
        return Selection(set(), set(), {"python_tests/packaging"})
    if top == "python_tests" and path.name.startswith("test_"):
        return Selection({name}, set(), set())
    if top == "python_tests" and len(path.parts) > 2:
        folder = existing(f"{path.parts[1]}/**/test_*.py")
        return Selection(folder - SLOW, set(), folder & SLOW)
    if top in ("benchmarks", "examples") and path.suffix == ".py":
        named = existing(f"{top}/test_{path.stem.strip('_')}.py")
        return Selection(named or existing(f"{top}/test_*.py") - SLOW, set(), set())
    if path.suffix == ".md":
        return Selection({"python_tests/test_docs.py::test_links_and_paths_exist"}, set(), set())
    return Selection(set(), set(), set())


def of_part(part: str) -> Selection:
    if found := existing(part.removeprefix("python_tests/")):
        return Selection(found, set(), set())
    tests = {name for name in native_tests() if part == "csrc" or name.startswith(part)}
    if not tests:
        folders = sorted({path.parent.name for path in TESTS.glob("*/test_*.py")} - {"packaging"})
        allowed = f"{', '.join(folders)}, a file of python_tests, csrc, the beginning of a C++ test's name"
        sys.exit(f"check: PART is '{part}'; allowed are {allowed}")
    return Selection(set(), tests, set())


def run(*command: object, **environment: str) -> int:
    print("+", *command, flush=True)
    return subprocess.run([str(word) for word in command], cwd=ROOT, env=os.environ | environment).returncode


def run_native(names: set[str]) -> int:
    targets = [f"{kind}_{name}" for name in sorted(names) for kind in ("test", "cuda_test")]
    run(BIN / "cmake", "-DSDGAN_TESTS=ON", BUILD)
    known = subprocess.run([BIN / "cmake", "--build", BUILD, "--target", "help"], capture_output=True, text=True).stdout
    targets = [target for target in targets if re.search(rf"^{target}:", known, re.MULTILINE)]
    chosen = f"^({'|'.join(sorted(names))})[.]"
    return run(BIN / "cmake", "--build", BUILD, "--target", *targets) or run(
        BIN / "ctest", "--test-dir", BUILD, "--output-on-failure", "-j", "2", "-R", chosen
    )


def main(arguments: list[str]) -> int:
    parts = [argument for argument in arguments if argument != "--list"]
    changed = [] if parts else changed_files()
    selections = [of_part(part) for part in parts] or [of_file(name) for name in changed]
    python = set().union(*(selection.python for selection in selections))
    native = set().union(*(selection.native for selection in selections))
    left_out = set().union(*(selection.left_out for selection in selections)) - python
    if not parts:
        print(f"check: {len(changed)} files changed since main")
        python.add(ALWAYS)
    for title, names in (("C++ tests", native), ("Python tests", python), ("left to make test", left_out)):
        if names:
            print(f"check: {title}: {' '.join(sorted(names))}", flush=True)
    if "--list" in arguments:
        return 0
    failed = run_native(native) if native else 0
    if python:
        pytest = (sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile")
        failed = run(*pytest, *sorted(python), OMP_NUM_THREADS="1") or failed
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
