#!/usr/bin/env python3
"""Makes report.html of what scripts/compare.sh has measured.

    python3 benchmarks/report/make_report.py build/report

Reads all JSON files, optimizer_gain.txt, csv_bench.txt, threads.txt and parts.tsv of the folder; writes report.html,
whole in itself, and plots/*.svg there. Without matplotlib the report has its tables alone, and says so. Ends with exit
code 1 where a part has failed or a file could not be read (the report tells), with 2 where there is nothing to report.
"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import page  # noqa: E402
import results as measured  # noqa: E402
import targets  # noqa: E402


def make_plots(results):
    """(section, name, title, SVG) of each plot, and a sentence where there are none."""
    try:
        import plots
    except ImportError as error:
        return [], f"No plots: {sys.executable} has no matplotlib ({error}). Debian's package is python3-matplotlib."
    figures = []
    for workload in results.workloads():
        if results.select(workload):
            figures.append(
                (
                    "throughput",
                    f"throughput_{workload}",
                    plots.TITLES.get(workload, workload),
                    plots.throughput(results, workload),
                )
            )
    for workload, title in (("windows", "windows, 2 workers"), ("images", "images, 2 workers")):
        figures.append(("first_batch", f"first_batch_{workload}", title, plots.first_batch(results, workload)))
    figures.append(("overhead", "overhead", "What a batch costs", plots.overhead(results)))
    for workload in results.workloads():
        figures.append(
            ("waiting", f"waiting_{workload}", plots.TITLES.get(workload, workload), plots.waiting(results, workload))
        )
    figures.append(("auto", "auto", "kAuto (star) among fixed numbers of workers", plots.automatic(results)))
    return [
        (section, name, title, plots.svg_of(figure, name)) for section, name, title, figure in figures if figure
    ], ""


def main(arguments):
    parser = argparse.ArgumentParser(description="Makes report.html of what scripts/compare.sh has measured.")
    parser.add_argument("folder", type=Path, help="with the parts' files; report.html goes there too")
    options = parser.parse_args(arguments)
    try:
        results, faults = measured.read_folder(options.folder)
        figures, no_plots = make_plots(results)
        lines = targets.evaluate(results)
        failed = [part for part in results.parts if part["exit"] != 0]
        html = page.render(results, lines, figures, no_plots, faults, page.failures_of(failed, options.folder))
        folder = options.folder / "plots"
        folder.mkdir(exist_ok=True)
        for _, name, _, svg in figures:
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (options.folder / "report.html").write_text(html, encoding="utf-8")
    except measured.BadInput as fault:
        print(f"report: error: {fault}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 2
    for fault in faults:
        print(f"report: left out: {fault}", file=sys.stderr)
    if no_plots:
        print(f"report: {no_plots}", file=sys.stderr)
    reached = sum(line.verdict == "reached" for line in lines)
    missed = sum(line.verdict == "missed" for line in lines)
    print(
        f"report: {reached} targets reached, {missed} missed, {len(lines) - reached - missed} not measured: "
        f"{options.folder / 'report.html'}"
    )
    return 1 if faults or failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
