"""`make gpu-check`: builds, tests, measures and trains on this machine's NVIDIA GPU; docs/cuda.md says what and how.

    PYTHONPATH=benchmarks python -m gpu.check [--part tests|bench|train|all] [--data FOLDER] [--minutes M] [--rehearse]

Writes benchmarks/results/<gpu>-{tests,ops,step,train,paths,notes}.csv and <gpu>-summary.md as it goes. What touches the
GPU runs in processes of its own, which are ended when they hang and started again behind what broke them. --rehearse
does all of it on the CPU, with few small cases; its results mean nothing.

Exit code: 0, or 1 where a part failed, or 2 where there is no GPU.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from .machine import find_machine, gpu_conditions
from .parts import MINUTES, PARTS, ROOT, Check, build
from .supervise import end_all


def data_source(asked: str) -> str:
    """``asked`` where it holds MNIST's training images, else the rendered digits."""
    folder = Path(asked)
    return str(folder.resolve()) if list(folder.glob("train-images*")) else "digits"


def _leave(number: int, frame) -> None:
    """What is written stays; the processes go."""
    end_all()
    os._exit(128 + number)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument(
        "--data", default="data/mnist", help="folder of MNIST's IDX files; without it digits are rendered"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--minutes", type=float, help=f"of every part that runs, instead of {MINUTES}")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with few small cases")
    options = parser.parse_args(argv)
    machine = find_machine(options.rehearse)
    if machine is None:
        print(
            "gpu-check needs an NVIDIA GPU and a torch that sees it (torch.cuda.is_available()), here is none; "
            "`PYTHONPATH=benchmarks python -m gpu.check --rehearse` tries its code on the CPU",
            file=sys.stderr,
        )
        return 2
    options.results.mkdir(parents=True, exist_ok=True)
    work = (options.results if options.rehearse else ROOT / "build") / "gpu-check"
    work.mkdir(parents=True, exist_ok=True)
    conditions = gpu_conditions(machine)
    (work / "conditions.json").write_text(json.dumps(conditions))
    check = Check(
        machine, options.results, work, data_source(options.data), options.minutes, options.rehearse, conditions
    )
    print("  ".join(f"{name} {value}" for name, value in conditions.items()), flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    parts = tuple(PARTS) if options.part == "all" else (options.part,)
    failed = []
    if not options.rehearse and (wrong := build(machine)):
        print(wrong, file=sys.stderr)
        return 1
    for part in parts:
        start = time.monotonic()
        check.begin(part)
        try:
            good = PARTS[part](check)
        except Exception as error:  # a part that fails does not stop the others
            check.note(part, f"{type(error).__name__}: {error}")
            good = False
        failed += [] if good else [part]
        check.note(part, f"{'passed' if good else 'FAILED'} in {time.monotonic() - start:.0f} s")
        check.save()
    summary = check.results / f"{machine.slug}-summary.md"
    print(summary.read_text())
    print(f"wrote {summary}; {'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
