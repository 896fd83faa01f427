"""The report's plots, as SVG that takes its colours from the page. Needs matplotlib."""

import io
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: E402

from targets import auto_ratios, number, size_name  # noqa: E402

# Told apart by those who see colours differently (after Okabe and Ito), and by their markers.
INK, GRID = "#6e7781", "#d0d7df"
COLOURS = {
    "process": "#0b66b0",
    "thread": "#4aa3df",
    "torch_data": "#c9560a",
    "python": "#0a8f62",
    "limit": "#6e7782",
    "auto": "#a3348f",
}
MARKERS = {"process": "o", "thread": "s", "torch_data": "^", "python": "D", "limit": "", "auto": "*"}
NAMES = {
    "process": "processes",
    "thread": "threads",
    "torch_data": "torch::data",
    "python": "Python",
    "limit": "limit",
    "auto": "kAuto",
}
TITLES = {
    "windows": "windows, a sample at a time",
    "windows_batch": "windows, batch-native",
    "images": "images to float",
    "images_converter": "images, with BatchConverter",
    "burn": "burn: 1 ms of computing a sample",
    "wait": "wait: 2 ms of waiting a sample",
    "tail": "tail: one sample in 160 takes 40 ms",
    "noop": "noop: nothing to do",
}

plt.rcParams.update(
    {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
)


def si(value, _=None):
    """1,500,000 as 1.5 M."""
    for scale, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{name}"
    return f"{value:g}"


def svg_of(figure, name):
    plt.rcParams["svg.hashsalt"] = name
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return out.getvalue()


def for_page(svg, label):
    """Without the XML head, in the page's colours, wide as its column."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{label}"', svg, count=1)
    for name, colour in {**COLOURS, "grid": GRID}.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    return svg.replace(INK, "currentColor")


def axes_of(width=4.0, height=2.9, right=0.74, left=0.155):
    figure, axes = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(left=left, right=right, top=0.9, bottom=0.47 / height)
    return figure, axes


def label_ends(axes, ends):
    """Names at the right ends of lines, (x, y, name, colour) each, moved apart where they would overlap."""
    axes.figure.canvas.draw()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = sorted(([to_axes.transform((x, y))[1], text, colour] for x, y, text, colour in ends), key=lambda p: p[0])
    gap = 0.073
    for i in range(1, len(places)):
        places[i][0] = max(places[i][0], places[i - 1][0] + gap)
    over = places[-1][0] - 1.0 if places else 0
    if over > 0:
        places[-1][0] -= over
        for i in range(len(places) - 2, -1, -1):
            places[i][0] = min(places[i][0], places[i + 1][0] - gap)
    for y, text, colour in places:
        axes.text(1.02, y, text, color=colour, transform=axes.transAxes, va="center", clip_on=False, fontsize=8.5)


def series_of(results, workload):
    """Rows by line of the plot: processes, threads, torch::data, Python; the faster of orders and fetches."""
    series = {}
    for key, conditions in (
        ("process", {"loader": "torchfeed", "mode": "process"}),
        ("thread", {"loader": "torchfeed", "mode": "thread"}),
        ("torch_data", {"loader": "torch_data"}),
        ("python", {"loader": "python"}),
        ("limit", {"loader": "limit"}),
    ):
        best = {}
        for row in results.select(workload, **conditions):
            known = best.get(row["workers"])
            if known is None or row["samples_per_second"] > known["samples_per_second"]:
                best[row["workers"]] = row
        if set(best) - {0} or best and key != "thread":  # inline is of both modes
            series[key] = best
    return series


def throughput(results, workload):
    series = series_of(results, workload)
    counts = sorted({count for rows in series.values() for count in rows if count != "auto"})
    places = {**{count: i for i, count in enumerate(counts)}, "auto": len(counts)}
    paces = [row["samples_per_second"] for rows in series.values() for row in rows.values()]
    figure, axes = axes_of()
    logarithmic = max(paces) > 12 * min(paces)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(paces) < 100 * min(paces) else (1,)))
    ends = []
    for key, rows in series.items():
        fixed = [rows[count] for count in counts if count in rows]
        xs, ys = [places[row["workers"]] for row in fixed], [row["samples_per_second"] for row in fixed]
        style = {"color": COLOURS[key], "marker": MARKERS[key], "linestyle": "--" if key == "limit" else "-"}
        if key == "limit" and len(xs) == 1:
            axes.axhline(ys[0], color=COLOURS[key], linestyle="--")
        else:
            axes.plot(xs, ys, **style)
        for x, row in zip(xs, fixed):
            if row.samples_per_second_low:
                axes.plot(
                    [x, x],
                    [row.samples_per_second_low, row.samples_per_second_high],
                    color=COLOURS[key],
                    linewidth=3.5,
                    alpha=0.35,
                    solid_capstyle="butt",
                )
        if ys:
            ends.append((xs[-1], ys[-1], NAMES[key], COLOURS[key]))
        if "auto" in rows and key == "process":
            y = rows["auto"]["samples_per_second"]
            axes.plot([places["auto"]], [y], color=COLOURS["auto"], marker=MARKERS["auto"], markersize=9)
    has_auto = "auto" in series.get("process", {})
    axes.set_xticks(range(len(counts) + has_auto), [*map(str, counts), *(["kAuto"] if has_auto else [])])
    axes.set_xlim(-0.3, len(counts) - 0.7 + has_auto)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("workers (0: inline)")
    axes.set_title("samples/s" + (", logarithmic" if logarithmic else ""), fontsize=8.5)
    axes.yaxis.set_major_formatter(FuncFormatter(si))
    axes.yaxis.set_minor_locator(NullLocator())
    if not logarithmic:
        axes.set_ylim(0, max(paces) * 1.06)
    label_ends(axes, ends)
    return figure


def first_batch(results, workload="windows", workers=2):
    """None where nothing was measured."""
    lines = []
    for text, key, conditions in (
        ("Python", "python", {"loader": "python", "workers": workers}),
        ("torch::data", "torch_data", {"loader": "torch_data", "workers": workers}),
        ("threads", "thread", {"loader": "torchfeed", "mode": "thread", "workers": workers}),
        ("processes", "process", {"loader": "torchfeed", "mode": "process", "workers": workers}),
        ("kAuto", "auto", {"loader": "torchfeed", "mode": "process", "workers": "auto"}),
    ):
        row = next((row for row in results.select(workload, **conditions) if row.first_batch_ms), None)
        if row:
            lines.append((text, key, row))
    if not lines:
        return None
    figure, axes = axes_of(height=2.5, right=0.95, left=0.22)
    axes.set_xscale("log")
    values = []
    for y, (_, key, row) in enumerate(lines):
        points = [(row.first_batch_ms, COLOURS[key])]
        if row.later_first_batch_ms:
            points.append((row.later_first_batch_ms, "none"))
            axes.plot(
                [row.first_batch_ms, row.later_first_batch_ms], [y, y], color=COLOURS[key], linewidth=1, alpha=0.6
            )
        near = len(points) > 1 and max(points)[0] < 2.5 * min(points)[0]
        for x, filling in points:
            axes.plot([x], [y], marker="o", color=COLOURS[key], markerfacecolor=filling)
            side = "center" if not near else "right" if x == min(points)[0] else "left"
            axes.text(x, y + 0.22, number(x), color=COLOURS[key], ha=side, fontsize=8)
            values.append(x)
    axes.set_yticks(range(len(lines)), [text for text, _, _ in lines])
    axes.set_ylim(-0.5, len(lines) - 0.3)
    axes.set_xlim(min(values) / 2, max(values) * 2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ms (filled: a new loader; hollow: a later epoch)")
    return figure


def overhead(results):
    """None where loader_micro has not measured it."""
    lines = {}
    for name, run in results.micro.items():
        base, _, size = name.partition("/")
        if base == "consumer_cost":
            lines.setdefault("process", {})[int(size)] = 1e6 * run["cpu_time"]
        elif base == "memcpy_batch":
            lines.setdefault("limit", {})[int(size)] = 1e6 * run["real_time"]
    for row in results.sizes:
        if row.trainer_us_per_batch:
            lines.setdefault(row["loader"], {})[row.batch_bytes] = row.trainer_us_per_batch
    if "process" not in lines:
        return None
    figure, axes = axes_of()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends = []
    for key, points in lines.items():
        sizes = sorted(points)
        axes.plot(
            sizes,
            [points[size] for size in sizes],
            color=COLOURS[key],
            marker=MARKERS[key],
            linestyle="--" if key == "limit" else "-",
        )
        name = {"limit": "memcpy", "process": "torchfeed"}.get(key, NAMES[key])
        ends.append((sizes[-1], points[sizes[-1]], f"{name} {number(points[sizes[-1]])}", COLOURS[key]))
    sizes = sorted(lines["process"])
    axes.set_xticks(sizes, [size_name(size).replace(" ", "\n") if size < 32 << 20 else "" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("us a batch, logarithmic", fontsize=8.5)
    figure.subplots_adjust(bottom=0.21)
    axes.set_xlabel("size of a batch, to 32 MiB", labelpad=2)
    label_ends(axes, ends)
    return figure


def waiting(results, workload):
    """Share of time that the training loop waits, by its step. None with fewer than two steps."""
    series = {}
    for row in results.select(workload, step_ms=None):
        if (
            row.waiting_share is None
            or row["loader"] == "limit"
            or row["workers"] not in (0, 2, "auto")
            or row["loader"] == "torchfeed"
            and row.mode == "thread"
        ):
            continue
        key = "auto" if row["workers"] == "auto" else "process" if row["loader"] == "torchfeed" else row["loader"]
        key += ", inline" if row["workers"] == 0 else ""
        known = series.setdefault(key, {}).get(row["step_ms"])
        if known is None or row.waiting_share < known.waiting_share:
            series[key][row["step_ms"]] = row
    lines = {
        key: series[key]
        for key in ("process, inline", "process", "auto", "torch_data", "python")
        if len(series.get(key, ())) > 1
    }
    if not lines:
        return None
    figure, axes = axes_of()
    ends = []
    for key, rows in lines.items():
        steps = sorted(rows)
        inline = key == "process, inline"
        colour, marker = (COLOURS["thread"], "x") if inline else (COLOURS[key], MARKERS[key])
        shares = [100 * rows[step].waiting_share for step in steps]
        axes.plot(steps, shares, color=colour, marker=marker)
        ends.append((steps[-1], shares[-1], "inline" if inline else NAMES[key], colour))
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.set_ylim(0, 104)
    axes.set_xlabel("training step, ms a batch")
    axes.set_title("% of the time waiting for data, 2 workers", fontsize=8.5)
    label_ends(axes, ends)
    return figure


def together(points, near=4):
    """Names at nearly the same place as one: (3, 1), (4, 2) -> (3.5, "1 2")."""
    groups = []
    for x, name in sorted(points):
        if groups and x - groups[-1][-1][0] < near:
            groups[-1].append((x, name))
        else:
            groups.append([(x, name)])
    return [
        (sum(x for x, _ in group) / len(group), " ".join(str(name) for _, name in sorted(group, key=lambda p: p[1])))
        for group in groups
    ]


def automatic(results):
    """kAuto and all fixed numbers of workers, as shares of the best of those."""
    found = list(auto_ratios(results))
    if not found:
        return None
    figure, axes = axes_of(height=0.75 + 0.27 * len(found), right=0.97, left=0.35)
    figure.subplots_adjust(top=1 - 0.08 / (0.75 + 0.27 * len(found)), bottom=0.5 / (0.75 + 0.27 * len(found)))
    axes.axvline(95, color=INK, linewidth=0.8, linestyle="--")
    for y, (auto, best, _) in enumerate(reversed(found)):
        fixed = results.select(auto["workload"], "torchfeed", "process", "fixed", auto["step_ms"], auto["in_order"])
        for x, counts in together(
            [(100 * row["samples_per_second"] / best["samples_per_second"], row["workers"]) for row in fixed]
        ):
            axes.text(x, y, counts, color=COLOURS["process"], ha="center", va="center", fontsize=8)
        axes.plot(
            [100 * auto["samples_per_second"] / best["samples_per_second"]],
            [y],
            color=COLOURS["auto"],
            marker=MARKERS["auto"],
            markersize=8,
            alpha=0.9,
            zorder=3,
        )
    axes.set_yticks(
        range(len(found)),
        [
            auto["workload"]
            + (f", {auto['step_ms']:g} ms" if auto["step_ms"] else "")
            + ("" if auto["in_order"] else ", any order")
            for auto, _, _ in reversed(found)
        ],
    )
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("% of the best fixed number of workers")
    axes.grid(axis="y", visible=False)
    return figure
