"""The table "Figures to reach" of the design: each target, what was measured, and whether it was reached."""

from dataclasses import dataclass


@dataclass
class Line:
    what: str
    target: str
    measured: str
    verdict: str  # "reached", "missed" or "unknown"
    why: str  # how it was measured; of what is unknown, why


def number(value):
    """Three figures, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:.{digits}f}"


class Table:
    def __init__(self):
        self.lines = []

    def unknown(self, what, target, why):
        self.lines.append(Line(what, target, "", "unknown", why))

    def add(self, what, target, measured, goal, unit, at_most, why=""):
        reached = measured <= goal if at_most else measured >= goal
        text = number(measured) + unit
        if not reached:
            off = abs(measured / goal - 1) * 100
            text += (
                f", {number(measured / goal)} times the target"
                if at_most and off > 100
                else f", {number(max(off, 0.1))} % {'more' if at_most else 'less'} than the target"
            )
        self.lines.append(Line(what, target, text, "reached" if reached else "missed", why))

    def at_least(self, what, measured, goal, unit="x", why="", missing=""):
        self.compare(what, f"≥ {goal:g}{unit}", measured, goal, unit, False, why, missing)

    def at_most(self, what, measured, goal, unit, why="", missing=""):
        self.compare(what, f"≤ {goal:g}{unit}", measured, goal, unit, True, why, missing)

    def compare(self, what, target, measured, goal, unit, at_most, why, missing):
        if measured is None:
            self.unknown(what, target, missing or "no such measurement in this report")
        else:
            self.add(what, target, measured, goal, unit, at_most, why)


def ratio(first, second):
    return first["samples_per_second"] / second["samples_per_second"] if first and second else None


def names(first, second):
    return f"{first.name} against {second.name}" if first and second else ""


def first_of(rows):
    return rows[0] if rows else None


NO_PYTHON = "no figures of Python's DataLoader: it takes a python3 with PyTorch (Debian: python3-torch)"


def windows(results, table):
    ours = first_of(results.select("windows_batch", "torchfeed", "process", 1))
    theirs = results.best("windows", "torch_data", workers="fixed")
    batched = results.best("windows_batch", "torch_data", workers="fixed")
    why = names(ours, theirs)
    if ours and batched:
        why += f"; {number(ratio(ours, batched))}x when torch::data has the batch-native dataset too ({batched.name})"
    table.at_least(
        "windows, batch-native, 1 process: against torch::data at its best", ratio(ours, theirs), 10, why=why
    )
    python = first_of(results.select("windows", "python", workers=1))
    batched = first_of(results.select("windows_batch", "python", workers=1))
    why = names(ours, python)
    if ours and batched:
        why += f"; {number(ratio(ours, batched))}x when it fetches whole batches"
    table.at_least(
        "windows, batch-native, 1 process: against Python's DataLoader with 1 worker",
        ratio(ours, python),
        150,
        why=why,
        missing=NO_PYTHON,
    )
    gather = results.seconds("memcpy_gather")
    why = f"memcpy alone takes {number(1e6 * gather)} us" if gather else ""
    table.at_most("windows, batch-native, 1 process: a batch", ours.us_per_batch if ours else None, 5, " us", why)

    process = max(results.select("windows", "torchfeed", "process", "fixed"), default=None, key=pace)
    any_mode = results.best("windows", "torchfeed", workers="fixed")
    table.at_least(
        "windows, a sample at a time, processes: against torch::data at its best",
        ratio(process, theirs),
        1,
        why=names(process, theirs),
    )
    table.at_least(
        "windows, a sample at a time, the better mode: against torch::data at its best",
        ratio(any_mode, theirs),
        1.5,
        why=names(any_mode, theirs),
    )


def pace(row):
    return row["samples_per_second"]


def images(results, table):
    theirs = results.best("images", "torch_data", workers="fixed")
    for workload, goal, what in (
        ("images", 1.2, "as a user would write it"),
        ("images_converter", 3, "with BatchConverter"),
    ):
        ours = results.best(workload, "torchfeed", workers="fixed")
        table.at_least(
            f"images to float, {what}: against torch::data at its best",
            ratio(ours, theirs),
            goal,
            why=names(ours, theirs),
        )


def scaling(results, table):
    for workload, workers, goal in (("burn", 2, 1.95), ("wait", 8, 7.8)):
        inline = first_of(results.select(workload, "torchfeed", workers=0))
        row = results.best(workload, "torchfeed", workers=workers)
        table.at_least(
            f"{workload}, {workers} workers: against inline", ratio(row, inline), goal, why=row.name if row else ""
        )
    for in_order, goal, what in ((False, 0.95, "out of order"), (True, 0.9, "in order")):
        row = results.best("tail", "torchfeed", workers=4, in_order=in_order)
        limit = first_of(results.select("tail", "limit", workers=4))
        table.at_least(
            f"tail, 4 workers, {what}: of the ideal, total work / workers",
            ratio(row, limit),
            goal,
            "",
            row.name if row else "",
        )


def first_batches(results, table):
    for name, goal, what in (
        ("first_batch/2", 10, "2 workers"),
        ("first_batch_with_heap/2", 80, "2 workers beside 1 GB of heap"),
    ):
        seconds = results.seconds(name)
        table.at_most(
            f"make_data_loader to first batch, {what}", 1e3 * seconds if seconds else None, goal, " ms", "loader_micro"
        )
    runs = {name: run["beyond_ms"] for name, run in results.micro.items() if name.startswith("first_batch_with_auto/")}
    worst = max(runs, key=runs.get, default=None)
    table.at_most(
        "make_data_loader to first batch with kAuto, beyond the batch's own cost",
        max(runs[worst], 0) if worst else None,
        2,
        " ms",
        f"loader_micro, the worst of {len(runs)} sizes: {size_name(int(worst.split('/')[1]))}" if worst else "",
    )
    beyond = []
    for row in results.select(loader="torchfeed", mode="process", workers=2):
        inline = first_of(results.select(row["workload"], "torchfeed", workers=0))
        if inline and row.get("later_first_batch_ms") is not None:
            beyond.append((row["later_first_batch_ms"] - 1e-3 * inline.us_per_batch, row["workload"]))
    worst = max(beyond, default=(None, ""))
    table.at_most(
        "a later epoch's first batch, 2 processes, beyond the batch's own cost",
        worst[0] if worst[0] is None else max(worst[0], 0),
        0.5,
        " ms",
        f"the worst of {len(beyond)} settings: {worst[1]}",
    )


def costs(results, table):
    runs = {name: run["cpu_time"] for name, run in results.micro.items() if name.startswith("consumer_cost/")}
    worst = max(runs, key=runs.get, default=None)
    table.at_most(
        "consumer's CPU a batch, whatever its size",
        1e6 * runs[worst] if worst else None,
        5,
        " us",
        f"the worst of {len(runs)} sizes: {size_name(int(worst.split('/')[1]))}" if worst else "",
    )
    runs = {name: run["MB_a_worker"] for name, run in results.micro.items() if name.startswith("memory_of_workers/")}
    worst = max(runs, key=runs.get, default=None)
    table.at_most(
        "memory: proportional set a worker beyond slots, with 1 GB of data",
        runs.get(worst),
        5,
        " MB",
        f"with {worst.split('/')[1]} workers" if worst else "",
    )


def size_name(size):
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def auto_ratios(results):
    """(workload, step, kAuto's row, best fixed row, inline row), in processes."""
    rows = results.select(loader="torchfeed", mode="process", workers="auto", step_ms=None)
    order = results.workloads()
    for auto in sorted(rows, key=lambda row: (order.index(row["workload"]), row["step_ms"], not row["in_order"])):
        same = {"step_ms": auto["step_ms"], "in_order": auto["in_order"]}
        best = results.best(auto["workload"], "torchfeed", "process", "fixed", **same)
        inline = first_of(results.select(auto["workload"], "torchfeed", workers=0, step_ms=auto["step_ms"]))
        if best and inline:
            yield auto, best, inline


def whole_runs(results, index):
    """The same with kAuto's whole runs, trials and start included."""
    shares = [
        found[0]["whole_samples_per_second"] / found[index]["samples_per_second"]
        for found in auto_ratios(results)
        if found[0].get("whole_samples_per_second")
    ]
    return f"; with them, its trials and its start, in runs of a few seconds: {number(min(shares))}x" if shares else ""


def automatic(results, table):
    for index, goal, what in ((1, 0.95, "the best fixed setting"), (2, 0.98, "inline")):
        ratios = [(ratio(found[0], found[index]), found[0]) for found in auto_ratios(results)]
        worst, row = min(ratios, key=lambda pair: pair[0], default=(None, None))
        below = sum(value < goal for value, _ in ratios)
        why = (
            f"the worst of {len(ratios)}: {row['workload']}, steps of {row['step_ms']:g} ms; {below} below; "
            "without the first 50 batches or 5 %" + whole_runs(results, index)
            if row
            else ""
        )
        table.at_least(f"kAuto over all of these, of {what}", worst, goal, "", why)


def optimizer(results, table):
    gains = {name: line["gain"] for name, line in results.optimizer.items()}
    worst = min(gains, key=gains.get, default=None)
    table.at_least(
        "training steps with the optimizer against LibTorch's default: never slower (0.98 is noise)",
        gains.get(worst),
        0.98,
        why=f"the worst of {len(gains)} models: {worst}",
    )
    version = str(results.versions.get("libtorch", ""))
    what = "fine-tuning with the optimizer, on 2 cores with LibTorch 1.13.1"
    if version.startswith("1.13") and results.machine.get("physical_cores") == 2:
        table.at_least(what, gains.get("finetune"), 1.5, why="the step of ./scripts/finetune.sh")
    else:
        table.unknown(
            what,
            "≥ 1.5x",
            f"this is LibTorch {version or '?'} on " f"{results.machine.get('physical_cores', '?')} cores",
        )


def conversion(results, table):
    def speed(name, key="mb_per_second"):
        return results.csv.get(name, {}).get(key)

    one, pandas = speed("convert --workers 1"), speed("pandas.read_csv")
    converting = speed("convert --workers 1", "converting")
    why = results.csv_head + (f"; {number(converting)} MB/s without the program's start" if converting else "")
    table.at_least("CSV to .npy, 1 worker", one, 200, " MB/s", why)
    table.at_least(
        "CSV to .npy, 1 worker: against pandas.read_csv",
        one / pandas if one and pandas else None,
        5,
        missing="pandas is not here" if one else "",
    )
    table.at_least("CSV to .npy, 2 workers: against 1", speed("convert --workers 2", "speed_up"), 1.9)


def evaluate(results):
    table = Table()
    for part in (windows, images, scaling, first_batches, costs, automatic, optimizer, conversion):
        part(results, table)
    return table.lines
