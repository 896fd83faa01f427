"""The report's page: no script, no link to elsewhere, for a phone as for a screen, light and dark."""

from html import escape

import guide
from targets import number

STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5b6570;--back:#fff;--line:#d8dee4;--head:#f4f6f8;
--process:#0b66b0;--thread:#3a95cf;--torch_data:#c9560a;--python:#0a8f62;--limit:#6e7781;--auto:#a3348f;--grid:#e3e8ec;
--good:#0a7a52;--bad:#b3420a}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa5b0;--back:#14181c;--line:#343c44;--head:#1d2329;
--process:#5fb0f5;--thread:#a9dcff;--torch_data:#ff9a4d;--python:#3fd39b;--limit:#9aa5b0;--auto:#ea8fd6;--grid:#2a3138;
--good:#3fd39b;--bad:#ff9a4d}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--back);color:var(--ink);
font:1rem/1.5 system-ui,"DejaVu Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}
p,ul{margin:.4rem 0;max-width:48rem}.soft{color:var(--soft)}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.87rem;width:100%}
th,td{text-align:left;vertical-align:top;padding:.38rem .7rem .38rem 0;border-bottom:1px solid var(--line);
min-width:5.5rem}
th{font-weight:600;color:var(--soft)}td.wide{min-width:13rem}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
.reached{color:var(--good)}.missed{color:var(--bad);font-weight:600}.unknown{color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));gap:1rem 1.4rem}
figure{margin:0;color:var(--soft);max-width:34rem}figcaption{color:var(--ink);font-weight:600;font-size:.92rem}
svg{width:100%;height:auto;display:block}
@media(max-width:40rem){.cards thead{display:none}.cards tr{display:grid;grid-template-columns:auto 1fr auto;
gap:.1rem .8rem;padding:.5rem 0;border-bottom:1px solid var(--line)}.cards td{border:0;padding:0;min-width:0}
.cards td:nth-child(2){grid-column:1/-1;order:-1}.cards td:nth-child(4){order:1}.cards td:nth-child(3){order:2}
.cards td:nth-child(5){grid-column:1/-1;order:3}
.stack thead{display:none}.stack tr{display:block;padding:.5rem 0;border-bottom:1px solid var(--line)}
.stack td{display:block;border:0;padding:0;white-space:normal}.stack td:first-child{font-weight:600}
.stack td:not(:first-child):not([data-name=""])::before{content:attr(data-name)": ";color:var(--soft)}}
pre{overflow-x:auto;background:var(--head);padding:.7rem;font-size:.78rem}summary{cursor:pointer;color:var(--soft)}
"""

SIGNS = {"reached": "✓ reached", "missed": "✗ missed", "unknown": "– not measured"}
OTHERS_MOST = 3  # percent of the machine's CPU time that other programs may take
SECTIONS = (
    (
        "throughput",
        "Throughput by workers",
        "Medians of interleaved repeats; a thick bar is their range. Stars: kAuto, "
        "in processes. Dashed: the physical limit of the workload.",
    ),
    (
        "first_batch",
        "Time to the first batch",
        "From making the loader to its first batch, and of a later epoch with " "the same workers.",
    ),
    (
        "overhead",
        "What a batch costs, by its size",
        "CPU time that the training loop spends on a batch that one "
        "worker process makes, whose bytes nobody writes; the dashed line is one memcpy of it.",
    ),
    ("waiting", "Waiting for data, by training step", "The share of an epoch that the loop spends in the loader."),
    (
        "auto",
        "kAuto against the sweep",
        "Each number is a fixed count of worker processes, the star is kAuto after the first 50 batches or 5 % of a run of "
        "its own length (--auto-seconds), the dashed line its target.",
    ),
)


def cell(text, kind=""):
    return f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(str(text))}</td>"


def table(head, rows, kind="scroll"):
    """`rows`: lists of cells. It scrolls where it is too wide. On a phone the rows are cards with a grid of cells, or
    "stack": with a line for each cell that begins with its column's name."""
    if kind == "stack":
        names = [escape(text, quote=True) for text in head]
        rows = [[cell.replace("<td", f'<td data-name="{name}"', 1) for name, cell in zip(names, row)] for row in rows]
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(cells)}</tr>\n" for cells in rows)
    return f'<div class="{kind}"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def failures_of(parts, folder):
    """(part, the last lines that it printed)."""
    found = []
    for part in parts:
        path = folder / "logs" / f"{part['name']}.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        found.append((part, "\n".join(text.splitlines()[-12:])))
    return found


def summary(results, lines):
    counts = {kind: sum(line.verdict == kind for line in lines) for kind in SIGNS}
    texts = [
        f"{counts['reached']} of {len(lines)} targets reached, {counts['missed']} missed, {counts['unknown']} not "
        "measured."
    ]
    compared = ahead = 0
    for workload in results.workloads():
        ours = results.best(workload, "torchfeed")
        peers = [peer for peer in (results.best(workload, loader) for loader in ("torch_data", "python")) if peer]
        if ours and peers:
            compared += 1
            ahead += all(ours["samples_per_second"] > peer["samples_per_second"] for peer in peers)
    if compared:
        texts.append(
            f"With each loader at its best setting, torchfeed is the fastest in {ahead} of {compared} workloads."
        )
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)


def targets_table(lines):
    rows = [
        [
            cell(SIGNS[line.verdict], f"n {line.verdict}"),
            cell(line.what, "wide"),
            cell(line.target, "n"),
            cell(line.measured or "–"),
            cell(line.why, "wide soft"),
        ]
        for line in lines
    ]
    return "<h2>Figures to reach</h2>\n" + table(("", "figure", "target", "measured", "how, or why not"), rows, "cards")


def fastest_table(results):
    found = [texts for texts in (guide.fastest(results, workload) for workload in results.workloads()) if texts]
    if not found:
        return ""
    rows = [
        [
            cell(texts["workload"]),
            cell(texts["torchfeed"]),
            cell(texts["torch_data"]),
            cell(texts["python"]),
            cell(texts["limit"], "wide"),
            cell(texts["why"], "wide soft"),
        ]
        for texts in found
    ]
    return (
        "<h2>Fastest setting of each workload</h2>\n<p>torchfeed at its best, and how many times as fast as each peer "
        "at its own best.</p>\n"
        + table(("workload", "torchfeed, samples", "× torch::data", "× Python", "of the limit", "why"), rows, "stack")
    )


def guide_table(results):
    rows = [
        [cell(advice, "wide"), cell(promise), cell(brings, "wide")]
        for advice, promise, brings in guide.rows_of(results)
    ]
    return "<h2>The field's advice, measured here</h2>\n" + table(("advice", "promised", "here"), rows, "stack")


def optimizer_table(results):
    if not results.optimizer:
        return ""
    rows = [
        [
            cell(line["what"], "wide"),
            cell(number(line["default_ms"]), "n"),
            cell(number(line["plan_ms"]), "n"),
            cell(f"{number(line['gain'])}x", "n"),
            cell(f"{number(line['low'])} to {number(line['high'])}", "n"),
        ]
        for line in results.optimizer.values()
    ]
    return (
        f"<h2>Training steps after optimize_system_for_training()</h2>\n<p>{escape(results.optimizer_head)}.</p>\n"
        + table(("model", "default ms", "optimized ms", "gain", "range"), rows)
    )


def plots_of(figures, results):
    try:
        from plots import for_page
    except ImportError:
        return ""
    text = ""
    for section, title, note in SECTIONS:
        chosen = [figure for figure in figures if figure[0] == section]
        if chosen:
            drawn = "".join(
                f"<figure><figcaption>{escape(name)}</figcaption>{for_page(svg, escape(name, quote=True))}"
                "</figure>\n"
                for _, _, name, svg in chosen
            )
            text += (
                f'<h2>{escape(title)}</h2>\n<p class="soft">{escape(note)}</p>\n<div class="plots">\n{drawn}</div>\n'
            )
    return text


def machine_of(results):
    machine, versions = results.machine, results.versions
    facts = [
        f"{machine.get('cpu', 'unknown CPU')}: {machine.get('physical_cores', '?')} cores, "
        f"{machine.get('logical_cpus', '?')} logical CPUs, {machine.get('memory_gb', '?')} GB; "
        f"Linux {machine.get('kernel', '?')}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "".join(f'<p class="soft">{escape(fact)}</p>\n' for fact in facts if fact)


def settings_of(results):
    parts_of = {}
    for name, settings in results.settings.items():
        parts_of.setdefault(", ".join(f"{key} {value}" for key, value in settings.items()), []).append(name)
    rows = [[cell(", ".join(names), "wide"), cell(settings, "wide")] for settings, names in parts_of.items()]
    text = "<h2>How it was measured</h2>\n" + (table(("parts", "settings"), rows, "stack") if rows else "")
    if results.parts:
        rows = [
            [
                cell(part["name"]),
                cell(
                    "done" if part["exit"] == 0 else f"failed, exit code {part['exit']}",
                    "" if part["exit"] == 0 else "missed",
                ),
                cell(f"{part['seconds']:.0f} s", "n"),
                cell(f"{part['others']} %", "n"),
                cell(part["command"], "wide soft"),
            ]
            for part in results.parts
        ]
        text += table(("part", "", "took", "others took", "command"), rows, "stack")
    return text


def all_rows(results):
    def value(row, key, scale=1):
        return cell("–" if row.get(key) is None else number(scale * row[key]), "n")

    if not results.rows:
        return ""
    rows = [
        [
            cell(row["workload"]),
            cell(row["loader"]),
            cell(row.name),
            cell(f"{row['step_ms']:g}", "n"),
            value(row, "samples_per_second"),
            cell(number(row.us_per_batch), "n"),
            value(row, "us_per_batch_p50"),
            value(row, "us_per_batch_p99"),
            value(row, "first_batch_ms"),
            value(row, "later_first_batch_ms"),
            value(row, "turnaround_ms"),
            value(row, "waiting_share", 100),
            value(row, "trainer_cpu_seconds"),
            value(row, "worker_cpu_seconds"),
            value(row, "peak_pss_mb"),
            value(row, "descriptors"),
        ]
        for row in results.rows
    ]
    head = (
        "workload",
        "loader",
        "setting",
        "step ms",
        "samples/s",
        "us a batch",
        "p50 us",
        "p99 us",
        "first batch ms",
        "later epoch ms",
        "turnaround ms",
        "waiting %",
        "trainer CPU s",
        "workers CPU s",
        "PSS MB",
        "descriptors",
    )
    return f"<details><summary>All {len(rows)} rows</summary>\n{table(head, rows)}</details>\n"


def render(results, lines, figures, no_plots, faults, failures):
    notes = [no_plots] if no_plots else []
    notes += [f"Left out: {fault}" for fault in faults]
    disturbed = [f"{part['name']} ({part['others']} %)" for part in results.parts if part["others"] > OTHERS_MOST]
    if disturbed:
        notes.append(
            "Other programs took CPU time of this machine meanwhile, so that these figures are not to be trusted: "
            + ", ".join(disturbed)
        )
    problems = "".join(f'<p class="missed">{escape(note)}</p>\n' for note in notes)
    for part, log in failures:
        problems += (
            f'<p class="missed">The part {escape(part["name"])} failed with exit code {part["exit"]}; the rest '
            f"does not need it.</p>\n" + (f"<pre>{escape(log)}</pre>\n" if log else "")
        )
    body = "".join(
        (
            "<h1>torchfeed beside torch::data and Python’s DataLoader</h1>\n",
            machine_of(results),
            summary(results, lines),
            problems,
            targets_table(lines),
            fastest_table(results),
            plots_of(figures, results),
            guide_table(results),
            optimizer_table(results),
            settings_of(results),
            all_rows(results),
        )
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>torchfeed: the comparison</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
