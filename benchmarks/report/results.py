"""What the parts of scripts/compare.sh have measured, read and checked.

Files of loader_bench and python_loader.py have "schema" and "rows", those of Google Benchmark "benchmarks"; the tables
of optimizer_gain and csv_bench are text.
"""

import json
import re
from pathlib import Path

LOADERS = ("torchfeed", "torch_data", "python", "limit")
WORKLOADS = (
    "windows",
    "windows_batch",
    "images",
    "images_converter",
    "burn",
    "wait",
    "tail",
    "noop",
)  # as they are shown
NEEDED = {
    "workload": str,
    "loader": str,
    "workers": (int, str),
    "step_ms": (int, float),
    "samples_per_second": (int, float),
}
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


class BadInput(Exception):
    """Says which file is wrong, and how."""


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


class Row(dict):
    """A setting's medians. Fields that a program does not measure are None."""

    def __getattr__(self, name):
        return self.get(name)

    @property
    def us_per_batch(self):
        return 1e6 * self["batch_size"] / self["samples_per_second"]

    @property
    def last_workers(self):
        """kAuto's, when it was over."""
        changes = self.worker_changes
        return self["workers"] if self["workers"] != "auto" else changes[-1]["to"] if changes else 0

    def counted(self, workers):
        if workers == 0:
            return "inline"
        kind = {"thread": "thread", "process": "process"}.get(self.mode, "worker")
        return f"{workers} {kind}{'' if workers == 1 else 'es' if kind == 'process' else 's'}"

    @property
    def name(self):
        """E.g. "2 processes"."""
        if self["workers"] == "auto":
            return f"kAuto ({self.counted(self.last_workers)} at the end)"
        text = self.counted(self["workers"])
        return text + (", batched fetch" if self.fetch == "batch" else "") + ("" if self["in_order"] else ", any order")


def checked_row(row, where):
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected an object")
    for key, kind in NEEDED.items():
        if not isinstance(row.get(key), kind) or isinstance(row.get(key), bool):
            raise BadInput(f'{where}: expected "{key}", got {json.dumps(row.get(key))}')
    if row["loader"] not in LOADERS:
        raise BadInput(f"{where}: expected a loader of {', '.join(LOADERS)}, got {row['loader']}")
    if isinstance(row["workers"], str) and row["workers"] != "auto":
        raise BadInput(f"{where}: expected \"workers\" to be a number or \"auto\", got {row['workers']}")
    if row["samples_per_second"] <= 0:
        raise BadInput(f"{where}: expected \"samples_per_second\" above 0, got {row['samples_per_second']}")
    return Row({"batch_size": 32, "in_order": True, "mode": "", **row})


class Results:
    def __init__(self):
        self.rows, self.sizes, self.micro, self.threads, self.parts, self.errors = [], [], {}, {}, [], []
        self.optimizer, self.csv = {}, {}
        self.optimizer_head = self.csv_head = ""
        self.machine, self.versions, self.settings = {}, {}, {}

    def select(self, workload=None, loader=None, mode=None, workers=None, step_ms=0, in_order=None):
        """Rows in which all that is given holds. `workers`: a number, "auto", or "fixed" for any number."""

        def fits(row):
            return (
                (workload is None or row["workload"] == workload)
                and (loader is None or row["loader"] == loader)
                and (mode is None or row["mode"] == mode or row["workers"] == 0)
                and (step_ms is None or row["step_ms"] == step_ms)
                and (in_order is None or row["in_order"] == in_order)
                and (workers is None or row["workers"] == workers or (workers == "fixed" and row["workers"] != "auto"))
            )

        return [row for row in self.rows if fits(row)]

    def best(self, *args, **conditions):
        rows = self.select(*args, **conditions)
        return max(rows, key=lambda row: row["samples_per_second"], default=None)

    def workloads(self):
        found = dict.fromkeys(row["workload"] for row in self.rows)
        return sorted(found, key=lambda name: WORKLOADS.index(name) if name in WORKLOADS else len(WORKLOADS))

    def seconds(self, name, clock="real_time"):
        """The median time of a micro-benchmark, e.g. "first_batch/2"."""
        run = self.micro.get(name)
        return run[clock] if run else None


def read_benchmarks(results, document, where):
    runs = {}
    for run in document["benchmarks"]:
        if run.get("error_occurred") or run.get("run_type") == "aggregate":
            continue
        if "run_name" not in run or "real_time" not in run:
            raise BadInput(f'{where}: a benchmark without "run_name" and "real_time"')
        name = re.sub(r"/(real_time|manual_time|process_time|iterations:\d+|repeats:\d+)", "", run["run_name"])
        runs.setdefault(name, []).append(run)
    for name, repeats in runs.items():
        scale = UNITS[repeats[0].get("time_unit", "ns")]
        values = {
            key: median([run[key] for run in repeats if key in run])
            for key, value in repeats[0].items()
            if isinstance(value, (int, float))
        }
        values["real_time"] *= scale
        values["cpu_time"] = values.get("cpu_time", 0) * scale
        results.micro[name] = values


def read_json(results, path):
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name}: cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path.name}:{error.lineno}: no JSON: {error.msg}") from None
    if isinstance(document, dict) and isinstance(document.get("benchmarks"), list):
        read_benchmarks(results, document, path.name)
    elif isinstance(document, dict) and isinstance(document.get("rows"), list):
        if document.get("schema") != 1:
            raise BadInput(f"{path.name}: expected \"schema\" 1, got {json.dumps(document.get('schema'))}")
        for i, row in enumerate(document["rows"]):
            if isinstance(row, dict) and row.get("error"):
                results.errors.append(
                    f"{path.name}: {row.get('workload')}, {row.get('loader')} {row.get('mode')} "
                    f"{row.get('workers')}: {row['error']}"
                )
                continue
            row = checked_row(row, f"{path.name}: row {i}")
            (results.rows if row.batch_bytes is None else results.sizes).append(row)
        results.machine = {**document.get("machine", {}), **results.machine}
        results.versions.update(document.get("versions", {}))
        results.settings[path.stem] = document.get("settings", {})
    else:
        raise BadInput(f'{path.name}: expected an object with "rows" or "benchmarks"')


def read_optimizer(results, path):
    """Lines as: mlp  12.3  8.1  1.52x  1.4 to 1.6   MLP ..."""
    text = path.read_text(encoding="utf-8")
    results.optimizer_head = text.partition("\n")[0]
    for line in text.splitlines():
        found = re.match(r"(\w+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)x\s+([\d.]+) to ([\d.]+)\s+(.*)", line)
        if found:
            name, before, after, gain, low, high, what = found.groups()
            results.optimizer[name] = {
                "default_ms": float(before),
                "plan_ms": float(after),
                "gain": float(gain),
                "low": float(low),
                "high": float(high),
                "what": what,
            }
    if not results.optimizer:
        raise BadInput(f"{path.name}: no line with a gain in it")


def read_csv_bench(results, path):
    """Lines of a name and numbers: seconds, MB/s, speed-up, those two without the program's start, CPU seconds and MB;
    or MB/s, speed-up, MB/s of a processor and MB."""
    text = path.read_text(encoding="utf-8")
    results.csv_head = text.partition("\n")[0]
    for line in text.splitlines():
        found = re.match(r"(convert --workers \d+|pandas\.read_csv)((?:\s+[\d.]+)+)$", line)
        numbers = [float(number) for number in found[2].split()] if found else []
        if len(numbers) == 7:
            results.csv[found[1]] = {"mb_per_second": numbers[1], "speed_up": numbers[2], "converting": numbers[3]}
        elif len(numbers) == 4:
            results.csv[found[1]] = {"mb_per_second": numbers[0], "speed_up": numbers[1]}
    if not results.csv:
        raise BadInput(f"{path.name}: no line with a speed in it")


def read_threads(results, path):
    """Lines as: mlp 2 0.0123 -- a model, OMP_NUM_THREADS, seconds a step; several of one are repeats."""
    repeats = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        try:
            repeats.setdefault((fields[0], int(fields[1])), []).append(float(fields[2]))
        except (IndexError, ValueError):
            raise BadInput(f"{path.name}: expected a model, threads and seconds, got: {line}") from None
    results.threads = {key: median(times) for key, times in repeats.items()}


def read_parts(results, path):
    """Lines of name, exit code, seconds, the share of the machine that others took meanwhile in percent, and command,
    by tabs; the last one of a part counts."""
    parts = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            name, code, seconds, others, command = line.split("\t")
            parts[name] = {
                "name": name,
                "exit": int(code),
                "seconds": float(seconds),
                "others": int(others),
                "command": command,
            }
        except ValueError:
            raise BadInput(f"{path.name}: expected name, exit code, seconds, percent and command: {line}") from None
    results.parts = list(parts.values())


TEXTS = {
    "optimizer_gain.txt": read_optimizer,
    "csv_bench.txt": read_csv_bench,
    "threads.txt": read_threads,
    "parts.tsv": read_parts,
}


def read_folder(folder):
    """All that is in the folder, and what of it could not be read. Raises BadInput where nothing is."""
    results, faults = Results(), []
    if not Path(folder).is_dir():
        raise BadInput(f"{folder}: no such folder")
    for path in sorted(Path(folder).iterdir()):
        read = TEXTS.get(path.name, read_json if path.suffix == ".json" else None)
        if read is None:
            continue
        try:
            read(results, path)
        except BadInput as fault:
            faults.append(str(fault))
    faults += results.errors
    if not (results.rows or results.micro or results.optimizer or results.csv):
        raise BadInput("\n".join([f"{folder}: nothing to report", *faults]))
    return results, faults
