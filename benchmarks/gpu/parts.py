"""What gpu-check does: it builds, and then runs its parts. Each touches the GPU in processes of its own."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Machine
from .summary import judge_curves, write_summary
from .supervise import OUT_OF_TIME, Journal, Outcome, supervise
from .tables import append_rows, read_rows

ROOT = Path(__file__).resolve().parents[2]
#: For the programs that are started: this package can be imported.
PATH = f"{ROOT / 'benchmarks'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
NATIVE = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
#: Minutes; with the build they stay below 8 on 16 cores.
MINUTES = {"tests": 2.6, "bench": 3.2, "train": 1.0}
NEVER = 1e6
TABLES = {"tests": ("tests",), "bench": ("ops", "step", "paths"), "train": ("train",)}


@dataclass
class Check:
    machine: Machine
    results: Path
    work: Path
    data: str
    minutes: float | None
    rehearse: bool
    conditions: dict[str, str]
    notes: list[dict] = field(default_factory=list)

    def note(self, part: str, text: str) -> None:
        if text and text not in [row["note"] for row in self.notes]:
            self.notes.append({"part": part, "note": text})
            print(f"{part}: {text}", flush=True)

    def file(self, table: str) -> Path:
        return self.results / f"{self.machine.slug}-{table}.csv"

    def seconds(self, part: str) -> float:
        return 60 * (self.minutes or MINUTES[part])

    def begin(self, part: str) -> None:
        """Forgets what an earlier run of this part wrote."""
        for table in TABLES[part]:
            self.file(table).unlink(missing_ok=True)
        shutil.rmtree(self.work / part, ignore_errors=True)
        (self.work / part).mkdir(parents=True)

    def save(self) -> None:
        """Notes of parts that did not run this time stay."""
        ran = {row["part"] for row in self.notes}
        kept = [row for row in read_rows(self.file("notes")) if row["part"] not in ran]
        self.file("notes").unlink(missing_ok=True)
        append_rows(self.file("notes"), kept + self.notes)
        write_summary(self.results, self.machine.slug)


# ---------------------------------------------------------------------------------------------------------- build
def build(machine: Machine) -> str:
    """Builds for this card; returns what went wrong, in words."""
    environment = {
        "SDGAN_CUDA": "ON",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST") or machine.arch,
        "MAX_JOBS": os.environ.get("MAX_JOBS") or str(os.cpu_count()),
    }
    flags = ["--no-build-isolation", "--no-deps", "--no-index", "-q"]
    command = [sys.executable, "-m", "pip", "install", *flags, "-e", str(ROOT)]
    start = time.monotonic()
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if ran.returncode:
        print(ran.stdout[-4000:] + ran.stderr[-4000:], flush=True)
        return f"the build failed: {(ran.stderr.strip().splitlines() or ['no word'])[-1][:200]}"
    print(f"built for {environment['TORCH_CUDA_ARCH_LIST']} in {time.monotonic() - start:.0f} s", flush=True)
    code = "import sdgan_ext; info = sdgan_ext.build_info(); print(info['cuda'], info['cuda_reason'])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if not ran.stdout.startswith("True"):
        return f"the build has no CUDA kernels: {(ran.stdout + ran.stderr).strip()[-200:]}"
    return ""


# ---------------------------------------------------------------------------------------------------------- tests
def tests(check: Check) -> bool:
    """The op matrix a file at a time, compute-sanitizer and the C++ programs, beside one another."""
    deadline = time.monotonic() + check.seconds("tests")
    cuda, cpu = (sorted((ROOT / "python_tests" / name).glob("test_*.py")) for name in ("cuda", "ops"))
    jobs = [(pytest_files, [cuda])] if check.rehearse else [(pytest_files, [[path]]) for path in cuda]
    jobs += [(sanitizer, ["memcheck"]), (sanitizer, ["racecheck"]), (native_programs, [])]
    jobs += [] if check.rehearse else [(pytest_files, [[path]]) for path in cpu]  # with this torch
    good = True
    with ThreadPoolExecutor(len(jobs) if (os.cpu_count() or 1) >= 8 else 1) as pool:
        for job in as_completed([pool.submit(run, check, *arguments, deadline) for run, arguments in jobs]):
            rows = job.result()
            good &= not any(row["failed"] or row["crashed"] or row["incomplete"] for row in rows)
            append_rows(check.file("tests"), [row | check.conditions for row in rows])
            check.save()
    return good


def test_row(suite: str, test: str = "", **values) -> dict:
    row = {"suite": suite, "test": test, "passed": 0, "failed": 0, "crashed": 0, "skipped": 0}
    return row | {"seconds": 0, "incomplete": "", "message": "", "note": ""} | values


def pytest_files(check: Check, files: list[Path], deadline: float) -> list[dict]:
    """A row for each test function."""
    suite = f"{files[0].parent.name}/{files[0].stem}" if len(files) == 1 else files[0].parent.name
    work = check.work / "tests" / suite.replace("/", "-")
    journal = Journal(work.with_suffix(".jsonl"))
    environment = {"OMP_NUM_THREADS": "2", "PYTHONPATH": PATH}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "gpu.journal_plugin"]
    command += ["--journal", journal.path, *files]
    if check.rehearse:
        command += ["--few", "1"]
        environment["SDGAN_TEST_DEVICE"] = "cpu"
    outcome = supervise(
        command, journal, work.with_suffix(".log"), deadline=deadline, fine=(0, 1, 5), env=environment, stall=100
    )
    functions: dict[str, dict] = {}
    for key, record in journal.records().items():
        function = key.split("[")[0].split("/")[-1]
        row = functions.setdefault(function, test_row(suite, function))
        state = record["state"] if record["state"] in row else "skipped"
        row[state] += 1  # a test that was begun when the time was up is skipped
        row["seconds"] = round(row["seconds"] + record.get("seconds", 0), 2)
        if state in ("failed", "crashed") and not row["message"]:
            row["message"] = f"[{key.partition('[')[2]} {record.get('message', '')}"
            print(f"{state}: {key}: {record.get('message', '')}", flush=True)
    rows = list(functions.values())
    if not outcome.finished or not rows:
        rows.append(test_row(suite, incomplete="True", note=f"not all of it ran: {outcome.why or 'there was no test'}"))
    return rows


def sanitizer(check: Check, tool: str, deadline: float) -> list[dict]:
    suite = f"compute-sanitizer {tool}"
    program = shutil.which("compute-sanitizer")
    if check.rehearse or program is None:
        why = "a rehearsal" if check.rehearse else "compute-sanitizer is not installed"
        return [test_row(suite, skipped=1, note=f"not run: {why}")]
    # Of ours alone: torch's own kernels would take minutes. Without its cache, each tensor ends where its memory does.
    command = [program, "--tool", tool, "--kernel-name", "kns=sdgan", "--error-exitcode", "86", "--print-limit", "20"]
    command += [sys.executable, ROOT / "python_tests" / "cuda" / "smoke.py"]
    log = check.work / "tests" / f"{tool}.log"
    outcome = run_program(command, log, deadline, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    text = log.read_text(errors="replace")
    summary = [line.strip("= ") for line in text.splitlines() if "SUMMARY" in line]
    if "Device not supported" in text or "not supported on this" in text:
        return [test_row(suite, skipped=1, note="not run: it does not support this machine")]
    if outcome.finished and summary:
        return [test_row(suite, passed=1, seconds=round(outcome.seconds, 1), message=summary[-1])]
    if outcome.why == OUT_OF_TIME:
        return [test_row(suite, incomplete="True", note=f"not all of it ran: {outcome.why}")]
    words = "; ".join([outcome.why, *summary[-1:]])
    print(f"failed: {suite}: {words}\n{text[-1500:]}", flush=True)
    return [test_row(suite, failed=1, seconds=round(outcome.seconds, 1), message=words)]


def native_programs(check: Check, deadline: float) -> list[dict]:
    """The C++ test of the PTX wrappers against their implementations for the host."""
    suite = "test_ptx_gpu"
    if check.rehearse:
        return [test_row(suite, skipped=1, note="not run: a rehearsal")]
    log = check.work / "tests" / f"{suite}.log"
    cmake = _cmake()
    configured = run_program([cmake, "-DSDGAN_TESTS=ON", NATIVE], log, deadline)
    targets = subprocess.run([cmake, "--build", NATIVE, "--target", "help"], capture_output=True, text=True).stdout
    if suite not in targets:
        return [test_row(suite, skipped=1, note="not run: this version has no such program")]
    built = run_program([cmake, "--build", NATIVE, "--target", suite], log, deadline)
    programs = [path for path in NATIVE.rglob(suite) if path.is_file()]
    if not (configured.finished and built.finished and programs):
        return [test_row(suite, failed=1, message=f"it was not built: {configured.why or built.why}")]
    ran = run_program([programs[0]], log, deadline, fine=(0, 77))
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    if not ran.finished:
        print(f"failed: {suite}: {last}", flush=True)
    state = {0: "passed", 77: "skipped"}.get(ran.code, "failed")
    return [test_row(suite, **{state: 1}, message=last[:200])]


def run_program(command, log: Path, deadline: float, env: dict | None = None, fine=(0,)) -> Outcome:
    """One that keeps no journal."""
    journal = Journal(log.with_suffix(".none"))
    return supervise(command, journal, log, deadline=deadline, stall=NEVER, fine=fine, env=env)


def _cmake() -> str:
    try:
        import cmake

        return str(Path(cmake.CMAKE_BIN_DIR, "cmake"))
    except ImportError:
        return "cmake"


# ---------------------------------------------------------------------------------------------------------- bench
def bench(check: Check) -> bool:
    """All but torch.compile first: it takes minutes to warm up, and gets what time is left, a third at least."""
    total = check.seconds("bench")
    start = time.monotonic()
    good = True
    for group, share, stall in (("main", 0.65, 60.0), ("compile", 1.0, NEVER)):
        deadline = start + total * share
        good &= child(check, "bench", group, ["--group", group], deadline, stall)
        check.save()
    return good


def child(
    check: Check, program: str, name: str, flags: list, deadline: float, stall: float, env: dict | None = None
) -> bool:
    """Runs a program of this folder that keeps a journal, for the part of its name; notes what did not go well."""
    journal = Journal(check.work / program / f"{name}.jsonl")
    conditions = check.work / "conditions.json"
    ahead = max(1.0, deadline - time.monotonic() - 5)  # begins nothing that could not end
    command = [sys.executable, "-m", f"gpu.{program}", *flags, "--journal", journal.path, "--results", check.results]
    command += ["--conditions", conditions, "--seconds", f"{ahead:.0f}"] + ["--rehearse"] * check.rehearse
    log = check.work / program / f"{name}.log"
    environment = {**(env or {}), "PYTHONPATH": PATH}
    outcome = supervise(command, journal, log, deadline=deadline, stall=stall, env=environment)
    records = journal.records()
    late = [key for key, record in records.items() if "time was up" in record.get("message", "")]
    for key, record in records.items():
        for note in record.get("notes", []):
            check.note(program, note)
        if record["state"] in ("failed", "crashed"):
            check.note(program, f"{key} {record['state']}: {record.get('message', '')}")
        elif record["state"] == "skipped" and key not in late:
            check.note(program, f"{key}: {record.get('message', '')}")
    if late:
        check.note(program, f"no time was left for {len(late)}: {', '.join(late)}")
    if not outcome.finished:
        check.note(program, f"{name} did not come to its end: {outcome.why}")
    bad = [key for key, record in records.items() if record["state"] in ("failed", "crashed")]
    return not bad and (outcome.finished or outcome.why == OUT_OF_TIME)


# ---------------------------------------------------------------------------------------------------------- train
def train(check: Check) -> bool:
    """The CPU's curves beside the GPU's, in processes of their own."""
    deadline = time.monotonic() + check.seconds("train")
    cores = os.cpu_count() or 1
    few = {"OMP_NUM_THREADS": str(max(1, cores // 2 - 2))}
    control = few | {"SDGAN_CPU_ISA": "generic", "SDGAN_CONV": "library"}  # the same but for rounding
    check.note("train", "data: rendered digits, MNIST was not there" if check.data == "digits" else "data: MNIST")

    def runs(name: str, env: dict | None) -> bool:
        flags = ["--runs", name, "--data", check.data]
        return child(check, "train", name, flags, deadline, NEVER, env)

    with ThreadPoolExecutor(3 if cores >= 8 else 1) as pool:
        jobs = [pool.submit(runs, *job) for job in (("gpu", None), ("cpu", few), ("control", control))]
        good = all([job.result() for job in jobs])
    verdicts = [v for v in judge_curves(read_rows(check.file("train"))) if v["run"].startswith("gpu")]
    if not verdicts:
        check.note("train", "no curve of the GPU could be compared with the CPU's")
    apart = [f"{v['preset']} {v['run']} {v['loss']}" for v in verdicts if not v["near"]]
    if apart:
        check.note("train", f"curves that are not the CPU's: {', '.join(apart)}")
    return good and bool(verdicts) and not apart


#: In the order of a run.
PARTS = {"tests": tests, "bench": bench, "train": train}
