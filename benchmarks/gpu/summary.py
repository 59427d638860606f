"""One page for people from the results of gpu-check: what passed, what was fast enough, what `auto` should take."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .tables import append_rows, read_rows

TABLES = ("tests", "ops", "step", "train", "paths", "notes")
LAST_STOCK = "eager channels_last"
#: The losses whose curves are compared; a curve has all others too.
JUDGED = ("discriminator/total", "encoder_generator/reconstruction", "encoder_generator/kl")
#: Measured: of rounding alone, two runs on a CPU differ by up to 0.9% in the first 10 steps, by up to 12% in 30.
FIRST, LAST = 10, 100
NEAR = 0.02
CONTROL = "cpu, other kernels"


# ---------------------------------------------------------------------------------------------------------- goals
@dataclass(frozen=True)
class Goal:
    """A row of the goals: the ratios of the cells that ``ratios`` finds must reach ``goal``."""

    what: str
    goal: float
    ratios: Callable[["Results"], dict[str, float]]
    at_most: bool = False


class Results:
    def __init__(self, folder: Path, slug: str):
        self.folder, self.slug = folder, slug
        self.tables = {name: read_rows(folder / f"{slug}-{name}.csv") for name in TABLES}

    def __getitem__(self, table: str) -> list[dict]:
        return self.tables[table]

    def op_ratios(self, over: str, contestant: str = "sdgan_ext", **wanted) -> dict[str, float]:
        """The busy time of ``over`` in that of ``contestant`` in the same comparison, for rows that match ``wanted``.

        The baseline that its rows name identifies a comparison: those with torch.compile are runs of their own.
        """
        compared: dict[tuple, dict[str, float]] = {}
        for row in self["ops"]:
            if all(test(row) if callable(test) else row[name] == test for name, test in wanted.items()):
                key = tuple(row[name] for name in ("op", "shape", "batch", "dtype", "passes", "baseline"))
                compared.setdefault(key, {})[row["contestant"]] = float(row["busy_us"])
        return {
            " ".join(word for word in key[:5] if word): times[over] / times[contestant]
            for key, times in compared.items()
            if over in times and contestant in times
        }

    def step_ratio(self, preset: str, batch: int, baseline: str, contestant: str) -> dict[str, float]:
        """The last comparison that has both."""
        comparisons: list[dict[str, float]] = []
        for row in self["step"]:
            if row["preset"] == preset and row["batch"] == str(batch):
                if row["contestant"] == "eager" or not comparisons:
                    comparisons.append({})
                comparisons[-1][row["contestant"]] = float(row["step_us"])
        both = [times for times in comparisons if baseline in times and contestant in times]
        return {f"{preset} step, batch {batch}": both[-1][baseline] / both[-1][contestant]} if both else {}


def wide_transposed(row: dict) -> bool:
    return row["op"] == "conv_transpose2d" and "->3 " not in row["shape"] and row["batch"] in ("128", "512")


def one_pass_layers(row: dict) -> bool:
    return row["shape"].startswith(("64->3 ", "128->1 "))


def _conv_goal(dtype: str, passes: str, which: Callable[[dict], bool], baseline: str = LAST_STOCK):
    def ratios(results: Results) -> dict[str, float]:
        wanted = {"dtype": dtype, "passes": passes, "baseline": baseline, "op": which}
        return results.op_ratios(baseline, **wanted)

    return ratios


def losses_in_a_graph(results: Results) -> dict[str, float]:
    """us of the losses' forward and backward together, up to 4,096 logits."""
    return {
        f"{row['op']} {row['shape']}": float(row["busy_us"])
        for row in results["ops"]
        if row["op"] in ("discriminator_loss", "generator_loss")
        and row["contestant"] == "sdgan_ext, in a graph"
        and int(row["shape"].split("x")[0]) <= 4096
    }


def everything(results: Results) -> dict[str, float]:
    return {
        **results.op_ratios(LAST_STOCK, baseline=LAST_STOCK),
        **results.op_ratios("eager", baseline="eager"),
    }


def graphed_or_not(preset: str, batch: int, baseline: str) -> Callable[[Results], dict[str, float]]:
    def ratios(results: Results) -> dict[str, float]:
        graphed = results.step_ratio(preset, batch, baseline, "sdgan_ext graphed")
        return graphed or results.step_ratio(preset, batch, baseline, "sdgan_ext")

    return ratios


COMPILED_STEP = "compile reduce-overhead"
BOTH = "forward + backward"
GOALS = [
    Goal("bf16 ConvT block, batch >= 128, forward", 1.4, _conv_goal("bf16", "forward", wide_transposed)),
    Goal(f"the same, {BOTH}", 1.3, _conv_goal("bf16", BOTH, wide_transposed)),
    Goal("the same over torch.compile max-autotune", 1.15, _conv_goal("bf16", BOTH, wide_transposed, "compile")),
    Goal(f"tf32 ConvT block, batch >= 128, {BOTH}", 1.25, _conv_goal("tf32", BOTH, wide_transposed)),
    Goal(f"bf16 64->3 and 128->1, {BOTH}", 3.0, _conv_goal("bf16", BOTH, one_pass_layers)),
    Goal(f"tf32 64->3 and 128->1, {BOTH}", 3.0, _conv_goal("tf32", BOTH, one_pass_layers)),
    Goal("losses up to 4,096 logits, in a graph, us", 5.0, losses_in_a_graph, at_most=True),
    Goal(
        "reparameterise + KL 65536x128",
        4.0,
        lambda results: results.op_ratios("eager", op="sample_gaussian", shape="65536x128"),
    ),
    Goal("dcgan-64 step, batch 128, over default eager", 3.0, graphed_or_not("dcgan-64", 128, "eager")),
    Goal("the same over compile reduce-overhead", 1.5, graphed_or_not("dcgan-64", 128, COMPILED_STEP)),
    Goal("anything in the grid over stock in the same precision", 1.0, everything),
]


def goal_lines(results: Results) -> list[str]:
    lines = ["| goal | at least | worst | mean | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        ratios = goal.ratios(results)
        bound = f"{'at most ' if goal.at_most else ''}{goal.goal:g}"
        if not ratios:
            lines.append(f"| {goal.what} | {bound} | | | not measured |")
            continue
        worst = (max if goal.at_most else min)(ratios, key=ratios.get)
        met = [value <= goal.goal if goal.at_most else value >= goal.goal for value in ratios.values()]
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        verdict = "met" if all(met) else f"**missed**, {sum(met)} of {len(met)} reach it"
        lines.append(f"| {goal.what} | {bound} | {ratios[worst]:.2f} ({worst}) | {mean:.2f} | {verdict} |")
    return lines


# ---------------------------------------------------------------------------------------------------------- paths
def path_rows(results: Results) -> list[dict]:
    """For every convolution the time of each path, the fastest one and the one that `auto` took."""
    groups: dict[tuple, dict[str, dict]] = {}
    for row in results["ops"]:
        key = tuple(row[name] for name in ("op", "shape", "batch", "dtype", "passes"))
        if row["op"].startswith("conv") and row["baseline"] == LAST_STOCK:
            groups.setdefault(key, {})[row["contestant"]] = row
    rows = []
    for key, group in groups.items():
        times = {
            path: float(group[f"sdgan_ext {path}"]["busy_us"])
            for path in ("implicit_gemm", "small_channel", "library")
            if f"sdgan_ext {path}" in group
        }
        if not times:
            continue
        fastest = min(times, key=times.get)
        taken = group.get("sdgan_ext", {}).get("taken", "")
        rows.append(
            dict(zip(("op", "shape", "batch", "dtype", "passes"), key, strict=True))
            | {f"{path}_us": times.get(path, "") for path in ("implicit_gemm", "small_channel", "library")}
            | {
                "stock_us": group.get(LAST_STOCK, {}).get("busy_us", ""),
                "fastest": fastest,
                "taken": taken,
                "loss": f"{times[taken] / times[fastest]:.3f}" if taken in times else "",
                "gpu": next(iter(group.values()))["gpu"],
                "commit": next(iter(group.values()))["commit"],
            }
        )
    return rows


def path_lines(rows: list[dict]) -> list[str]:
    """Only where `auto` should change; a difference below 3% is noise."""
    wrong = [row for row in rows if row["taken"] != row["fastest"] and (not row["loss"] or float(row["loss"]) > 1.03)]
    right = len(rows) - len(wrong)
    if not rows:
        return ["No convolution was measured."]
    lines = [f"`auto` takes the fastest backend, or one within 3%, in {right} of {len(rows)} cases."]
    if wrong:
        lines += [
            "",
            "| where it does not | implicit_gemm us | small_channel us | library us | stock us | should take | takes |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in wrong:
            case = " ".join(row[name] for name in ("op", "shape", "batch", "dtype", "passes"))
            times = " | ".join(str(row[f"{path}_us"]) for path in ("implicit_gemm", "small_channel", "library"))
            took = row["taken"] or "not said"
            lines.append(f"| {case} | {times} | {row['stock_us']} | {row['fastest']} | {took} |")
    return lines


# ----------------------------------------------------------------------------------------------------- other parts
def test_lines(rows: list[dict]) -> list[str]:
    if not rows:
        return ["Not run."]
    totals = {state: sum(int(row[state]) for row in rows) for state in ("passed", "failed", "crashed", "skipped")}
    lines = [", ".join(f"{count} {state}" for state, count in totals.items()) + "."]
    bad = [row for row in rows if int(row["failed"]) or int(row["crashed"]) or row["note"]]
    if bad:
        lines += ["", "| suite, test | passed | failed | crashed | the first one says |", "|---|---|---|---|---|"]
        for row in bad[:30]:
            said = " ".join(filter(None, (row["note"], row["message"]))).replace("|", "\\|")[:200]
            name = f"{row['suite']} {row['test']}".strip()
            lines.append(f"| {name} | {row['passed']} | {row['failed']} | {row['crashed']} | {said} |")
        if len(bad) > 30:
            lines.append(f"| and {len(bad) - 30} more | | | | |")
    return lines


def curves_of(rows: list[dict]) -> dict[str, dict[str, list[dict]]]:
    curves: dict[str, dict[str, list[dict]]] = {}
    for row in rows:
        curves.setdefault(row["preset"], {}).setdefault(row["run"], []).append(row)
    return curves


def apart(ours: list[dict], cpu: list[dict], loss: str) -> tuple[float, float]:
    """The largest difference in the first 10 steps, as a share of the CPU's mean there; and, since the
    training amplifies rounding, the difference of the means of the last 100 in standard deviations of the CPU's."""
    a, b = ([float(row[loss]) for row in rows] for rows in (ours, cpu))
    scale = statistics.fmean(abs(value) for value in b[:FIRST])
    first = max(abs(x - y) for x, y in zip(a[:FIRST], b[:FIRST], strict=True)) / max(scale, 1e-12)
    means = statistics.fmean(a[-LAST:]) - statistics.fmean(b[-LAST:])
    return first, abs(means) / max(statistics.pstdev(b[-LAST:]), 1e-12)


def judge_curves(rows: list[dict]) -> list[dict]:
    """A verdict for each preset, run and loss; empty where there is nothing to compare with."""
    verdicts = []
    for preset, runs in curves_of(rows).items():
        cpu = runs.pop("cpu", None)
        for run, own in runs.items() if cpu else ():
            for loss in JUDGED:
                first, last = apart(own, cpu, loss)
                limit = max(NEAR, 3 * apart(runs[CONTROL], cpu, loss)[0]) if CONTROL in runs else NEAR
                near = first <= limit and last <= 1 and len(own) == len(cpu)
                about = {"preset": preset, "run": run, "steps": len(own), "loss": loss}
                verdicts.append(about | {"first": first, "last": last, "near": near})
    return verdicts


def train_lines(rows: list[dict]) -> list[str]:
    verdicts = judge_curves(rows)
    if not verdicts:
        return ["No curve to compare." if rows else "Not run."]
    lines = [
        f"Against the CPU from the same seed: the largest difference in the first {FIRST} steps (near: {NEAR:.0%}, or "
        f"three times that of other kernels on the CPU, which is rounding alone), and that of the means of the last "
        f"{LAST} in standard deviations (near: 1).",
        "",
        "| run | steps | " + " | ".join(JUDGED) + " | |",
        "|---|---|" + "---|" * (len(JUDGED) + 1),
    ]
    for i in range(0, len(verdicts), len(JUDGED)):
        group = verdicts[i : i + len(JUDGED)]
        cells = " | ".join(f"{v['first']:.2%}, {v['last']:.2f}" for v in group)
        near = "near" if all(v["near"] for v in group) else "**apart**"
        lines.append(f"| {group[0]['preset']}, {group[0]['run']} | {group[0]['steps']} | {cells} | {near} |")
    return lines


def step_lines(rows: list[dict]) -> list[str]:
    if not rows:
        return ["Not measured."]
    lines = ["| step | contestant | us | images/s | kernels | over eager |", "|---|---|---|---|---|---|"]
    for row in rows:
        name = f"{row['preset']}, batch {row['batch']}"
        numbers = f"{row['step_us']} | {row['images_per_second']} | {row['launches']} | {row['speedup']}"
        lines.append(f"| {name} | {row['contestant']} | {numbers} |")
    return lines


def share_lines(rows: list[dict]) -> list[str]:
    """Ours beside the floor, forward and backward together."""
    ours = [row for row in rows if row["contestant"] == "sdgan_ext" and row["passes"] == BOTH]
    ours = [row for row in ours if row["baseline"] != "compile" and row["batch"] in ("128", "")]
    if not ours:
        return ["Not measured."]
    lines = ["| ours | us | floor us | share | TFLOP/s | GB/s | kernels | over stock |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in ours:
        name = " ".join(filter(None, (row["op"], row["shape"], row["batch"], row["dtype"])))
        share = f"{float(row['floor_share']):.0%}" if row["floor_share"] else ""
        numbers = (
            f"{row['floor_us']} | {share} | {row['tflops']} | {row['gbps']} | {row['launches']} | {row['speedup']}"
        )
        lines.append(f"| {name} | {row['busy_us']} | {numbers} |")
    return lines


def machine_lines(results: Results) -> list[str]:
    """Parts may have been run at several commits, each of which is named."""
    seen: dict[tuple, list[str]] = {}
    for table in ("tests", "ops", "step", "train"):
        for row in results[table]:
            where = tuple(row[name] for name in ("gpu", "torch", "cuda", "driver", "commit", "dirty"))
            parts = seen.setdefault(where, [])
            if table not in parts:
                parts.append(table)
    lines = []
    for (gpu, torch, cuda, driver, commit, dirty), parts in seen.items():
        changed = ", with changes that are not committed" if dirty == "True" else ""
        lines.append(
            f"- {', '.join(parts)}: {gpu}, torch {torch}, CUDA {cuda}, driver {driver}, commit {commit}{changed}"
        )
    return lines


def write_summary(folder: Path, slug: str) -> Path:
    results = Results(folder, slug)
    paths = path_rows(results)
    (folder / f"{slug}-paths.csv").unlink(missing_ok=True)
    append_rows(folder / f"{slug}-paths.csv", paths)
    sections: Iterable[tuple[str, list[str]]] = [
        ("Tests", test_lines(results["tests"])),
        ("Goals", goal_lines(results)),
        ("Steps", step_lines(results["step"])),
        ("Training", train_lines(results["train"])),
        ("What `auto` should take", path_lines(paths)),
        ("Beside the floor, batch 128", share_lines(results["ops"])),
        ("Notes", [f"- {row['part']}: {row['note']}" for row in results["notes"]] or ["None."]),
    ]
    lines = [f"# gpu-check: {slug}", "", "Made by `make gpu-check` from the CSV files beside it; see docs/cuda.md.", ""]
    lines += machine_lines(results)
    for title, body in sections:
        lines += ["", f"## {title}", "", *body]
    path = folder / f"{slug}-summary.md"
    path.write_text("\n".join(lines) + "\n")
    return path
