#!/usr/bin/env python3
"""The workloads of loader_bench through Python's torch.utils.data.DataLoader, in the same JSON.

    python3 benchmarks/python_loader.py --workers 0,1,2,4 --step-ms 0,5 --json python.json

Its best settings: workers are forked and persistent, PyTorch's threads are as they are. Each workload whose dataset can
make a whole batch at once is measured that way too (`"fetch": "batch"`: a BatchSampler, with batch_size=None).
Without PyTorch it says so and ends well, with nothing written.
"""

import argparse
import gc
import hashlib
import inspect
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
import warnings

try:
    import torch
    from torch.utils.data import BatchSampler, DataLoader, Dataset
except ImportError as error:
    if "-h" not in sys.argv and "--help" not in sys.argv:
        print(
            f"python_loader: skipped: {sys.executable} has no PyTorch ({error}); " "Debian's package is python3-torch"
        )
        sys.exit(0)
    torch, Dataset = None, object

# As in loader_bench/workloads.cpp.
LENGTH, FEATURES, ROWS, IMAGES = 50, 5, 100_000, 64
WORKLOADS = ("windows", "windows_batch", "images", "burn", "wait", "tail", "noop")
TAIL_PERIOD = 160  # in tail, one sample in so many takes 40 ms
LEAST_BATCHES, SHORT_EPOCHS = 4, 4


class Computing:
    """Milliseconds of a core of its own, as work and not as time: on a core that is shared it takes longer.

    Rounds of PBKDF2 go on in OpenSSL: no memory to wait for, and no lock of Python held, as a training step holds
    none: the DataLoader's own threads are not in its way.
    """

    rounds_a_millisecond = None

    @staticmethod
    def compute(rounds):
        hashlib.pbkdf2_hmac("sha256", b"torchfeed", b"bench", max(1, int(rounds)))

    @classmethod
    def calibrate(cls):
        rounds, best = 2000, float("inf")
        for _ in range(50):
            begin = time.perf_counter()
            cls.compute(rounds)
            best = min(best, time.perf_counter() - begin)
        cls.rounds_a_millisecond = rounds / (best * 1e3)

    @classmethod
    def compute_for(cls, milliseconds):
        cls.compute(cls.rounds_a_millisecond * milliseconds)


class Samples(Dataset):
    """A sample by its index, and a batch by a list of indices."""

    def __init__(self, workload, batch_bytes=None):
        self.workload, self.batch_bytes = workload, batch_bytes
        if workload.startswith("windows"):
            table = torch.rand(ROWS, FEATURES)
            self.table = table
            self.windows = table.as_strided((ROWS - LENGTH, LENGTH, FEATURES), (FEATURES, FEATURES, 1))
        elif workload == "images":
            self.images = torch.randint(0, 256, (IMAGES, 3, 224, 224), dtype=torch.uint8)

    def __getitem__(self, index):
        return self.batch(index) if isinstance(index, list) else self.sample(index)

    def sample(self, index):
        if self.workload == "windows":
            first = index % (ROWS - LENGTH)
            return self.table[first : first + LENGTH]
        if self.workload == "images":
            return self.images[index % IMAGES].to(torch.float32).div_(255)
        if self.workload == "burn":
            Computing.compute_for(1)
        elif self.workload == "wait":
            time.sleep(0.002)
        elif self.workload == "tail":
            time.sleep(0.040 if index % TAIL_PERIOD == TAIL_PERIOD - 1 else 0.0005)
        return torch.full((1,), float(index))

    def batch(self, indices):
        if self.workload == "untouched":
            return torch.empty(self.batch_bytes, dtype=torch.uint8)
        if self.workload == "noop":
            return torch.empty(len(indices))
        if self.workload == "images":
            return self.images[torch.tensor(indices) % IMAGES].to(torch.float32).div_(255)
        return self.windows[torch.tensor(indices) % (ROWS - LENGTH)]


def fetches_of(workload):
    if workload in ("windows_batch", "noop", "untouched"):
        return ("batch",)
    return ("sample", "batch") if workload == "images" else ("sample",)


class Sampler:
    """0, 1, 2 ... until it is told to end, or for so many batches. DataLoader draws from it in this process."""

    def __init__(self, batch_size):
        self.batch_size, self.batches, self.ended = batch_size, None, False

    def __iter__(self):
        index = 0
        while not self.ended and (self.batches is None or index < self.batches * self.batch_size):
            yield index
            index += 1


def make_loader(setting, task, sampler):
    options = {"num_workers": setting["workers"]}
    if setting["workers"] > 0:
        options.update(multiprocessing_context="fork", persistent_workers=True, prefetch_factor=task["prefetch_factor"])
        if not setting["in_order"]:
            options["in_order"] = False
    if setting["fetch"] == "batch":
        batches = BatchSampler(sampler, task["batch_size"], drop_last=True)
        return DataLoader(setting["dataset"], sampler=batches, batch_size=None, **options)
    return DataLoader(setting["dataset"], batch_size=task["batch_size"], sampler=sampler, drop_last=True, **options)


def cpu_seconds(pid):
    """Of a process, from /proc: its workers are alive when they are asked about."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def proportional_set_mb(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024 / 1e6


def worker_pids():
    return [process.pid for process in multiprocessing.active_children()]


def run_timed(batches, sampler, task, workers, run):
    """An epoch that ends when the time is over. The steady part is without the first batches (the first 50 or 5 % of
    them, at most a third) and those that were asked for before the end."""
    begin = time.perf_counter()
    cpu_before = own_cpu_seconds()
    times, waited, timed = [begin], 0.0, None
    while True:
        if task["step_ms"] > 0:
            Computing.compute_for(task["step_ms"])
        asked = time.perf_counter()
        if timed is None and len(times) >= LEAST_BATCHES and asked - begin > task["seconds"]:
            timed, sampler.ended = len(times) - 1, True
        more = next(batches, None) is not None
        now = time.perf_counter()
        waited += now - asked
        if not more:
            break
        times.append(now)
    first = min(max(50, timed // 20), timed // 3)
    # Batches come as many at a time as there are workers: only whole rounds of them tell a pace.
    rounds = max(1, workers)
    if timed - first >= rounds:
        first += (timed - first) % rounds
    elif timed >= rounds:
        first = timed - rounds
    intervals = sorted(times[i + 1] - times[i] for i in range(first, timed))
    run["batches"] = len(times)
    run["trainer_cpu_a_batch"] = (own_cpu_seconds() - cpu_before) / len(times)
    run["waiting_share"] = waited / (now - begin)
    run["pace"] = (timed - first) / (times[timed] - times[first])
    run["p50"] = intervals[len(intervals) // 2]
    run["p99"] = intervals[len(intervals) * 99 // 100]


def run_loader(setting, task):
    """A new loader: an epoch for the time asked for, then short ones for how long it takes to get from one to the next.
    Seconds, but where a name says otherwise."""
    run = {}
    own_before, descriptors_before = own_cpu_seconds(), len(os.listdir("/proc/self/fd"))
    begin = time.perf_counter()
    sampler = Sampler(task["batch_size"])
    loader = make_loader(setting, task, sampler)
    batches = iter(loader)
    next(batches)
    run["first_batch"] = time.perf_counter() - begin
    run_timed(batches, sampler, task, setting["workers"], run)
    run["trainer_cpu"] = own_cpu_seconds() - own_before
    run["worker_cpu"] = sum(map(cpu_seconds, worker_pids()))
    sampler.ended, sampler.batches = False, max(1, setting["workers"])
    first_batches, turnarounds = [], []
    for _ in range(SHORT_EPOCHS):
        last = time.perf_counter()
        ended = next(batches, None)
        assert ended is None, "the epoch before has not ended"
        begin = time.perf_counter()
        batches = iter(loader)
        next(batches)
        now = time.perf_counter()
        first_batches.append(now - begin)
        turnarounds.append(now - last)
        run["pss_mb"] = sum(map(proportional_set_mb, [os.getpid(), *worker_pids()]))
        for _ in batches:
            pass
    run["descriptors"] = len(os.listdir("/proc/self/fd")) - descriptors_before
    run["later_first_batch"], run["turnaround"] = median(first_batches), median(turnarounds)
    del batches, loader
    gc.collect()
    return run


def settings_of(task, workers):
    workload = task["workload"]
    dataset = Samples(workload, task.get("batch_bytes"))
    takes_order = "in_order" in inspect.signature(DataLoader.__init__).parameters
    for fetch in fetches_of(workload):
        for count in workers:
            orders = (True, False) if workload == "tail" and takes_order and count > 1 else (True,)
            for in_order in orders:
                yield {"dataset": dataset, "fetch": fetch, "workers": count, "in_order": in_order}


def median(values):
    return sorted(values)[len(values) // 2]


def row_of(setting, task, runs):
    def middle(name):
        return median([run[name] for run in runs])

    paces = [run["pace"] * task["batch_size"] for run in runs]
    size = {"batch_bytes": task["batch_bytes"]} if "batch_bytes" in task else {}
    return {
        "workload": task["workload"],
        **size,
        "loader": "python",
        "mode": "process" if setting["workers"] > 0 else "inline",
        "fetch": setting["fetch"],
        "in_order": setting["in_order"],
        "workers": setting["workers"],
        "step_ms": task["step_ms"],
        "batch_size": task["batch_size"],
        "batches": middle("batches"),
        "samples_per_second": median(paces),
        "samples_per_second_low": min(paces),
        "samples_per_second_high": max(paces),
        "us_per_batch_p50": 1e6 * middle("p50"),
        "us_per_batch_p99": 1e6 * middle("p99"),
        "first_batch_ms": 1e3 * middle("first_batch"),
        "later_first_batch_ms": 1e3 * middle("later_first_batch"),
        "turnaround_ms": 1e3 * middle("turnaround"),
        "waiting_share": middle("waiting_share"),
        "trainer_cpu_seconds": middle("trainer_cpu"),
        "trainer_us_per_batch": 1e6 * middle("trainer_cpu_a_batch"),
        "worker_cpu_seconds": middle("worker_cpu"),
        "peak_pss_mb": max(run["pss_mb"] for run in runs),
        "descriptors": max(run["descriptors"] for run in runs),
    }


def measure(task, options):
    settings = list(settings_of(task, options.workers))
    size = f" batches of {task['batch_bytes']} bytes," if "batch_bytes" in task else ""
    print(f"\n{task['workload']},{size} steps of {task['step_ms']:g} ms")
    print(
        f"  {'':20} {'samples/s':>12} {'us/batch':>9} {'p50 us':>9} {'p99 us':>9} {'first ms':>8} {'waiting':>7}",
        flush=True,
    )
    runs = [[] for _ in settings]
    for _ in range(options.repeats):
        for setting, of_setting in zip(settings, runs):
            of_setting.append(run_loader(setting, task))
    rows = [row_of(setting, task, of_setting) for setting, of_setting in zip(settings, runs)]
    for row in rows:
        name = f"python {row['workers']}" + (", batch fetch" if row["fetch"] == "batch" else "")
        name += "" if row["in_order"] else ", any order"
        print(
            f"  {name:20} {row['samples_per_second']:12.0f} {1e6 * row['batch_size'] / row['samples_per_second']:9.2f}"
            f" {row['us_per_batch_p50']:9.2f} {row['us_per_batch_p99']:9.2f} {row['first_batch_ms']:8.2f}"
            f" {100 * row['waiting_share']:6.0f}%",
            flush=True,
        )
    return rows


def machine():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        lines = [line.split(":", 1) for line in file if ":" in line]
    fields = [(key.strip(), value.strip()) for key, value in lines]
    sockets = [value for key, value in fields if key == "physical id"]
    cores = [value for key, value in fields if key == "core id"]
    logical = len(os.sched_getaffinity(0))
    return {
        "cpu": next((value for key, value in fields if key == "model name"), platform.machine()),
        "logical_cpus": logical,
        "physical_cores": len(set(zip(sockets, cores))) or logical,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
    }


def list_of(convert, allowed=None):
    expected = ", ".join(allowed) if allowed else "numbers from 0 up, by commas"

    def parse(text):
        try:
            values = [convert(part) for part in text.split(",")]
        except ValueError:
            values = []
        if not values or any(value not in allowed if allowed else value < 0 for value in values):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
        return values

    return parse


def positive(convert):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = 0
        if value <= 0:
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        return value

    return parse


def options_of(arguments):
    parser = argparse.ArgumentParser(
        description="The workloads of loader_bench through Python's DataLoader, in the same JSON."
    )
    parser.add_argument(
        "--workloads", type=list_of(str, WORKLOADS), default=list(WORKLOADS), metavar="A,B", help=", ".join(WORKLOADS)
    )
    parser.add_argument(
        "--workers", type=list_of(int), default=[0, 1, 2, 4], metavar="N,M", help="numbers of workers (default 0,1,2,4)"
    )
    parser.add_argument(
        "--step-ms",
        type=list_of(float),
        default=[0.0],
        metavar="A,B",
        help="milliseconds of computing a batch, in the training loop (default 0)",
    )
    parser.add_argument(
        "--batch-bytes",
        type=list_of(int),
        default=[],
        metavar="N,M",
        help="in place of all workloads: batches of so many bytes that nobody writes",
    )
    parser.add_argument("--batch-size", type=positive(int), default=32)
    parser.add_argument("--prefetch-factor", type=positive(int), default=2, help="batches ahead, a worker (default 2)")
    parser.add_argument("--repeats", type=positive(int), default=3, help="runs of each setting, all settings in turn")
    parser.add_argument("--seconds", type=positive(float), default=1.0, help="a run is timed for so long")
    parser.add_argument("--json", metavar="FILE", help="a file for all figures")
    return parser.parse_args(arguments)


def tasks_of(options):
    common = {"batch_size": options.batch_size, "prefetch_factor": options.prefetch_factor, "seconds": options.seconds}
    if options.batch_bytes:
        return [
            {"workload": "untouched", "step_ms": 0.0, "batch_bytes": size, **common, "batch_size": 1}
            for size in options.batch_bytes
        ]
    return [
        {"workload": workload, "step_ms": step_ms, **common}
        for workload in options.workloads
        for step_ms in options.step_ms
    ]


def main(arguments):
    options = options_of(arguments)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores: asked for
    Computing.calibrate()
    print(
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, {os.cpu_count()} CPUs, "
        f"{torch.get_num_threads()} intra-op threads; batches of {options.batch_size}, "
        f"prefetch_factor {options.prefetch_factor}, {options.repeats} repeats, medians"
    )
    rows = []
    for task in tasks_of(options):
        rows += measure(task, options)
    report = {
        "schema": 1,
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "settings": {
            "batch_size": options.batch_size,
            "prefetch_factor": options.prefetch_factor,
            "repeats": options.repeats,
            "seconds": options.seconds,
            "intra_op": torch.get_num_threads(),
            "multiprocessing_context": "fork",
            "persistent_workers": True,
        },
        "rows": rows,
    }
    if options.json:
        try:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(report, file, indent=1)
        except OSError as error:
            print(f"python_loader: {options.json}: {error.strerror}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
