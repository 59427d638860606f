"""Draws benchmarks/results/*.svg from the CSV files beside them, and says which goals they reach.

    python benchmarks/plot.py [--results FOLDER]

bench_x.csv becomes bench_x.svg: a bar for each of its rows, as long as it is fast relative to stock PyTorch in
channels_last (where there is no such row, to "eager"). overview.svg has the goals of _goals.py.
"""

import argparse
import sys
from html import escape
from pathlib import Path

from _goals import GOALS, Verdict, judge, ratio_of, read_results, slower

RESULTS = Path(__file__).parent / "results"
COLORS = {
    "eager": "#d5dae1",
    "eager, D not frozen": "#e6e9ee",
    "eager channels_last": "#aab4c2",
    "eager softplus": "#aab4c2",
    "compile": "#e5cf9f",
    "openvino": "#b9a3d6",
    "onnxruntime": "#9fcbb5",
    "ncnn": "#e3b7a0",
    "sdgan_ext": "#3f7fd4",
    "sdgan_ext NCHW": "#9cc3f0",
}
INK, SOFT, GRID, BAD, GOOD = "#2b3440", "#6b7684", "#e8ebef", "#c2452d", "#2f8f5b"
OTHER = "#cdb9e0"
FONT = "font-family='Helvetica, Arial, sans-serif'"
BAR, GAP, LEFT, MARGIN = 13, 3, 300, 20
CHAR = 6.2  # the width of a character of 11 px, on the safe side


class Picture:
    """An SVG in the making."""

    def __init__(self, width: float, height: float):
        self.width, self.height, self.parts = width, height, []

    def text(self, x, y, words, *, size=11, color=INK, anchor="start", weight="normal") -> None:
        style = f"font-size='{size}' fill='{color}' text-anchor='{anchor}' font-weight='{weight}'"
        self.parts.append(f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(str(words))}</text>")

    def bar(self, x, y, width, height, color, title="") -> None:
        inside = f"<title>{escape(title)}</title>" if title else ""
        size = f"width='{max(width, 0.5):.1f}' height='{height:.1f}'"
        self.parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' {size} rx='2' fill='{color}'>{inside}</rect>")

    def line(self, x1, y1, x2, y2, color=GRID, *, width=1.0, dashes="") -> None:
        dashes = f" stroke-dasharray='{dashes}'" if dashes else ""
        ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
        self.parts.append(f"<line {ends} stroke='{color}' stroke-width='{width}'{dashes}/>")

    def save(self, path: Path) -> None:
        size = f"width='{self.width:.0f}' height='{self.height:.0f}' viewBox='0 0 {self.width:.0f} {self.height:.0f}'"
        paper = "<rect width='100%' height='100%' fill='#ffffff'/>"
        lines = [f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT}>", paper, *self.parts, "</svg>\n"]
        path.write_text("\n".join(lines))


def duration(us: str) -> str:
    value = float(us)
    for unit, scale in (("s", 1e6), ("ms", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} us"


def where(rows: list[dict]) -> str:
    """The conditions that all rows share, or all of those that they have."""
    threads = sorted({int(row["threads"]) for row in rows})
    commits = sorted({row["commit"] + " with changes" * (row["dirty"] == "True") for row in rows})
    cpus, isas, torches = (sorted({row[name] for row in rows}) for name in ("cpu", "isa", "torch"))
    many = "thread" if threads == [1] else "threads"
    said = [", ".join(cpus), "/".join(isas), f"{', '.join(map(str, threads))} {many}", "torch " + ", ".join(torches)]
    return " · ".join([*said, "commit " + ", ".join(commits)])


def ticks(most: float) -> list[float]:
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if most / step <= 8)
    return [step * i for i in range(1, int(most / step) + 1)]


def grouped(rows: list[dict]) -> dict[tuple, dict[str, list[dict]]]:
    """(op, shape, dtype, threads) -> passes -> rows."""
    groups: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("op", "shape", "dtype", "threads"))
        groups.setdefault(key, {}).setdefault(row["passes"], []).append(row)
    return groups


def speed(row: dict, rows: list[dict]) -> float:
    """How many times as fast as stock in channels_last, or "eager" where layouts are no matter."""
    medians = {other["contestant"]: float(other["median_us"]) for other in rows}
    base = medians.get("eager channels_last") or medians.get("eager") or next(iter(medians.values()))
    return base / float(row["median_us"])


def draw_table(name: str, rows: list[dict], path: Path) -> None:
    groups = grouped(rows)
    panels = list(dict.fromkeys(row["passes"] for row in rows))
    several = len({row["threads"] for row in rows}) > 1
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))
    panel = 400 if len(panels) > 1 else 560
    most = max(speed(row, same) for passes in groups.values() for same in passes.values() for row in same)
    scale = (panel - 130) / max(most, 1.2)
    heights = {key: max(len(same) for same in passes.values()) * (BAR + GAP) + 14 for key, passes in groups.items()}
    top, width = 112, MARGIN + LEFT + len(panels) * panel
    picture = Picture(width, top + sum(heights.values()) + 34)
    bottom = picture.height - 26
    picture.text(MARGIN, 30, name.removeprefix("bench_"), size=18, weight="bold")
    picture.text(MARGIN, 49, where(rows), color=SOFT)
    marks = "~ was disturbed, red is slower than stock in its layout"
    base = "eager channels_last" if "eager channels_last" in contestants else "eager"
    picture.text(MARGIN, 66, f"times as fast as {base}: longer is faster; medians; {marks}", color=SOFT)
    legend(picture, MARGIN, 88, contestants)
    for index, passes in enumerate(panels):
        x = MARGIN + LEFT + index * panel
        picture.text(x, top - 8, passes, size=12, weight="bold")
        for tick in ticks(most):
            picture.line(x + tick * scale, top, x + tick * scale, bottom)
            picture.text(x + tick * scale, bottom + 15, f"{tick:g}", size=10, color=SOFT, anchor="middle")
        picture.line(x, top, x, bottom, SOFT)
    y = top + 6
    for key, passes in groups.items():
        op, shape, dtype, threads = key
        picture.text(MARGIN, y + 10, shape, weight="bold")
        details = [op if op != name.removeprefix("bench_") else "", dtype, f"{threads} thread(s)" if several else ""]
        picture.text(MARGIN, y + 25, ", ".join(filter(None, details)), size=10, color=SOFT)
        for index, which in enumerate(panels):
            for place, row in enumerate(passes.get(which, [])):
                ratio = speed(row, passes[which])
                draw_row(picture, MARGIN + LEFT + index * panel, y + place * (BAR + GAP), scale, row, ratio)
        y += heights[key]
        picture.line(MARGIN, y - 6, width - MARGIN, y - 6)
    for index in range(len(panels)):
        x = MARGIN + LEFT + index * panel + scale
        picture.line(x, top - 2, x, bottom, INK, width=1.2, dashes="4 3")
    picture.save(path)


def draw_row(picture: Picture, x: float, y: float, scale: float, row: dict, ratio: float) -> None:
    color = COLORS.get(row["contestant"], OTHER)
    words = f"{row['contestant']}: {ratio:.2f}x, {duration(row['median_us'])} ({row['samples']} samples)"
    picture.bar(x, y, ratio * scale, BAR, color, words + (f", {row['kernel']}" if row["kernel"] else ""))
    own = ratio_of(row)
    bad = own is not None and own < 1
    label = f"{ratio:.2f}" + ("~" if row["disturbed"] == "True" else "")
    right = x + max(ratio, 1) * scale + 6  # right of the line at 1
    picture.text(right, y + 10, label, size=10, color=BAD if bad else INK, weight="bold" if own else "normal")
    picture.text(right + (len(label) + 1) * CHAR, y + 10, duration(row["median_us"]), size=10, color=SOFT)


def legend(picture: Picture, x: float, y: float, names: list[str]) -> None:
    for name in names:
        picture.bar(x, y - 10, 12, 12, COLORS.get(name, OTHER))
        picture.text(x + 17, y, name, color=SOFT)
        x += 17 + len(name) * CHAR + 16


def draw_overview(tables: dict[str, list[dict]], path: Path) -> None:
    rows = [row for table in tables.values() for row in table]
    verdicts = [verdict for verdict in judge(rows) if verdict.ratios]
    most = max((max(*verdict.ratios, verdict.goal.ratio) for verdict in verdicts), default=1.0)
    left, panel, row_height, top = LEFT + 150, 400, 25, 92
    picture = Picture(left + panel + 150, top + row_height * len(verdicts) + 62)
    scale, bottom = panel / most, top + row_height * len(verdicts)
    picture.text(MARGIN, 30, "sdgan_ext over stock PyTorch", size=18, weight="bold")
    picture.text(MARGIN, 49, where(rows), color=SOFT)
    what = "ratio of medians over stock in channels_last where nothing else is said, float32"
    means = "geometric mean, from slowest to fastest, mark at the goal"
    picture.text(MARGIN, 66, f"{what}; {means}", color=SOFT)
    for tick in ticks(most):
        picture.line(left + tick * scale, top - 6, left + tick * scale, bottom)
        picture.text(left + tick * scale, bottom + 15, f"{tick:g}", size=10, color=SOFT, anchor="middle")
    picture.line(left, top - 6, left, bottom, SOFT)
    for place, verdict in enumerate(verdicts):
        draw_verdict(picture, left, top + place * row_height, scale, verdict)
    picture.line(left + scale, top - 6, left + scale, bottom, INK, width=1.2, dashes="4 3")
    ours, below = [row for row in rows if ratio_of(row)], slower(rows)
    reach = f"{len(ours) - len(below)} of {len(ours)} comparisons"
    words = f"the whole grid, every dtype and layout: {reach} at 1.0 or above"
    picture.text(MARGIN, bottom + 42, words, color=SOFT)
    picture.save(path)


def draw_verdict(picture: Picture, x: float, y: float, scale: float, verdict: Verdict) -> None:
    goal, mean = verdict.goal, verdict.mean
    picture.text(MARGIN, y + 12, goal.name, weight="bold")
    base = {"eager": "default eager", "compile": "torch.compile", "best_other": "the best other"}
    over = "" if goal.over == "channels_last" else f", over {base[goal.over]}"
    picture.text(x - 12, y + 12, goal.passes + over, size=10, color=SOFT, anchor="end")
    picture.bar(x, y + 2, mean * scale, BAR, COLORS["sdgan_ext"] if mean >= 1 else BAD, str(verdict))
    low, high = min(verdict.ratios), max(verdict.ratios)
    if high > low:
        picture.line(x + low * scale, y + 8.5, x + high * scale, y + 8.5, INK, width=1.5)
    mark = x + goal.ratio * scale
    color = GOOD if verdict.met else BAD
    picture.line(mark, y - 1, mark, y + 18, color, width=2.5)
    right = x + max(high, goal.ratio, 1) * scale + 9
    picture.text(right, y + 12, f"{mean:.2f}", weight="bold", color=color)
    picture.text(right + 30, y + 12, f"goal {goal.ratio:g}", size=10, color=SOFT)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the CSV files; SVGs go there too")
    folder = parser.parse_args(argv).results
    tables = read_results(folder)
    if not tables:
        print(f"plot.py: there is no bench_*.csv of this version in {folder}; run `make bench`", file=sys.stderr)
        return 2
    for name, rows in tables.items():
        draw_table(name, rows, folder / f"{name}.svg")
    draw_overview(tables, folder / "overview.svg")
    print(f"drew {', '.join(f'{name}.svg' for name in (*tables, 'overview'))} in {folder}\n")
    rows = [row for table in tables.values() for row in table]
    for verdict in judge(rows, GOALS):
        print(verdict)
    for row in slower(rows):
        what = f"{row['op']} {row['shape']}, {row['dtype']}, {row['passes']}, {row['threads']} threads"
        print(f"below 1.0: {ratio_of(row):.2f} {row['contestant']}, {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
