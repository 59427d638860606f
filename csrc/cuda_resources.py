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
SPILLS = {
    "conv_epilogue_kernel": "4 to 12 bytes, for a third block a processor: a memory-bound pass lives on loads in flight"
}

#: Card and commit of the last green ``make gpu-check``.
GPU_RUN = ""
#: Kernels that no test is named after.
OTHER_TESTS = {"conv_bias_gradient_kernel": "conv_epilogue", "sum_partial_kernel": "adversarial_loss"}
CMAKE = Path(__file__).parents[1] / "CMakeLists.txt"

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


def span(numbers) -> str:
    numbers = sorted(numbers)
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]}-{numbers[-1]}"


def print_table(found) -> None:
    """A row for each kernel as it was compiled."""
    layout = "{:64}{:>10}{:>8}{:>8}"
    print(layout.format("kernel", "registers", "shared", "spilled"))
    for name, archs in found.items():
        registers, shared, spilled = zip(*archs.values(), strict=True)
        print(layout.format(name, span(registers), max(shared), max(spilled)))


def print_markdown(found) -> None:
    """A row for each kernel in the sources, over its types and architectures; empty bodies left out."""
    merged = defaultdict(list)
    for name, archs in found.items():
        merged[name.partition("<")[0]] += [usage for usage in archs.values() if usage[0] > 4]
    print("| kernel | registers | static shared memory, bytes | spilled, bytes | run on the CPU by | run on a GPU |")
    print("|---|---|---|---|---|---|")
    tests = re.findall(r"^  (\w+)$", re.search(r"set\(SDGAN_CUDA_TESTS(.*?)\)", CMAKE.read_text(), re.DOTALL)[1], re.M)
    for name, usages in sorted(merged.items()):
        registers, shared, spilled = zip(*usages, strict=True)
        by = max((test for test in tests if name.startswith(test)), key=len, default=OTHER_TESTS.get(name))
        print(f"| `{name}` | {span(registers)} | {max(shared)} | {max(spilled)} | `{by}` | {GPU_RUN or 'not yet'} |")
    for name, reason in SPILLS.items():
        print(f"\n`{name}` spills {reason}.")


def main() -> int:
    if sys.argv[1] == "--nvcc":
        return compile_and_keep(sys.argv[2:])
    found = kernels(Path(sys.argv[1]))
    (print_markdown if "--markdown" in sys.argv else print_table)(found)
    architectures = sorted({arch for archs in found.values() for arch in archs}, key=lambda arch: (len(arch), arch))
    print(
        f"\n{len(found)} kernels, each for {', '.join(architectures)}" if found else "no CUDA kernel was compiled here"
    )
    bad = [
        f"{name} spills {usage[2]} bytes on {arch}"
        for name, archs in found.items()
        for arch, usage in archs.items()
        if usage[2] and name.partition("<")[0] not in SPILLS
    ]
    print("\n".join(bad), file=sys.stderr, end="\n" if bad else "")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
