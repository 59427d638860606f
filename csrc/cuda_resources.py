"""What each CUDA kernel takes of the GPU: registers, shared memory, spills, for every architecture that was compiled.

    python csrc/cuda_resources.py BUILD_FOLDER               a table; exit code 1 for a spill that SPILLS does not list
    python csrc/cuda_resources.py BUILD_FOLDER --markdown    the table of docs/cuda.md

CMake runs nvcc through ``python csrc/cuda_resources.py --nvcc COMMAND...``, which keeps what ptxas says (-Xptxas -v) in
a file beside the object.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

#: Kernels that may spill, name -> reason.
SPILLS: dict[str, str] = {}

_CHATTER = re.compile(r"^ptxas info|^\s+\d+ bytes stack frame|^$|^\s+Compile time")


def compile_and_keep(command: list[str]) -> int:
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if "-o" in command:
        Path(command[command.index("-o") + 1] + ".ptxas").write_text(ran.stderr)
    sys.stderr.write("".join(line for line in ran.stderr.splitlines(True) if not _CHATTER.match(line)))
    return ran.returncode


def kernels(folder: Path) -> dict[str, dict[str, tuple[int, int, int]]]:
    """name -> architecture -> (registers, bytes of static shared memory, bytes spilled)"""
    found: dict[str, dict[str, tuple[int, int, int]]] = defaultdict(dict)
    for file in sorted(folder.rglob("*.ptxas")):
        function = re.compile(
            r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers([^\n]*)",
            re.DOTALL,
        )
        for mangled, arch, spilled, registers, rest in function.findall(file.read_text()):
            shared = re.search(r"(\d+) bytes smem", rest)
            found[mangled][arch] = (int(registers), int(shared[1]) if shared else 0, int(spilled))
    names = subprocess.run(["c++filt"], input="\n".join(found), capture_output=True, text=True, check=True).stdout
    return {short(name): archs for name, archs in sorted(zip(names.splitlines(), found.values(), strict=True))}


def short(name: str) -> str:
    """``void sdgan::cuda::(anonymous namespace)::x_kernel<float, 2>(sdgan::P)`` -> ``x_kernel<float, 2>``"""
    name = re.sub(r"\(anonymous namespace\)::|sdgan::(cuda::)?|^void ", "", name)
    return re.sub(r"\((int|bool)\)", "", name).rpartition("(")[0] or name


def main() -> int:
    if sys.argv[1] == "--nvcc":
        return compile_and_keep(sys.argv[2:])
    found = kernels(Path(sys.argv[1]))
    markdown = "--markdown" in sys.argv
    layout = "| `{}` | {} | {} | {} |" if markdown else "{:64}{:>10}{:>8}{:>8}"
    print(layout.format("kernel", "registers", "shared", "spilled").replace("`", ""))
    if markdown:
        print("|---|---|---|---|")
    bad = []
    for name, archs in found.items():
        registers, shared, spilled = (sorted({usage[i] for usage in archs.values()}) for i in range(3))
        span = str(registers[0]) if len(registers) == 1 else f"{registers[0]}-{registers[-1]}"
        print(layout.format(name, span, shared[-1], spilled[-1]))
        where = [arch for arch, usage in archs.items() if usage[2]]
        if where and name.partition("<")[0] not in SPILLS:
            bad.append(f"{name} spills {spilled[-1]} bytes on {', '.join(where)}")
    architectures = sorted({arch for archs in found.values() for arch in archs}, key=lambda arch: (len(arch), arch))
    print(
        f"\n{len(found)} kernels, each for {', '.join(architectures)}" if found else "no CUDA kernel was compiled here"
    )
    print("\n".join(bad), file=sys.stderr, end="\n" if bad else "")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
