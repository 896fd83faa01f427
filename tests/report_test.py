"""Makes reports from small measurements, whole and broken ones. Run by tests/report_test.sh."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAKE_REPORT = ROOT / "benchmarks" / "report" / "make_report.py"
PYTHON_LOADER = ROOT / "benchmarks" / "python_loader.py"
HAS_PYTORCH = importlib.util.find_spec("torch") is not None
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def row(workload, loader, mode, workers, pace, **more):
    """As loader_bench writes it."""
    return {
        "workload": workload,
        "loader": loader,
        "mode": "inline" if workers == 0 else mode,
        "in_order": True,
        "workers": workers,
        "step_ms": 0,
        "batch_size": 32,
        "batches": 100,
        "samples_per_second": pace,
        "samples_per_second_low": 0.9 * pace,
        "samples_per_second_high": 1.1 * pace,
        "us_per_batch_p50": 32e6 / pace,
        "us_per_batch_p99": 64e6 / pace,
        "first_batch_ms": 3.0,
        "later_first_batch_ms": 0.2,
        "turnaround_ms": 0.3,
        "waiting_share": 0.5,
        "trainer_cpu_seconds": 0.1,
        "worker_cpu_seconds": 0.2,
        "peak_pss_mb": 80,
        "descriptors": 3,
        "copied_batches": 0,
        "worker_changes": [],
        **more,
    }


def limit(workload, workers, pace):
    return {
        "workload": workload,
        "loader": "limit",
        "mode": "inline",
        "in_order": True,
        "workers": workers,
        "step_ms": 0,
        "batch_size": 32,
        "batches": 0,
        "samples_per_second": pace,
        "how": "measured: memcpy alone",
    }


def loaders():
    rows = []
    for workload, inline in (
        ("windows", 4e5),
        ("windows_batch", 8e6),
        ("images", 5e3),
        ("images_converter", 1.2e4),
        ("burn", 990.0),
        ("wait", 470.0),
        ("tail", 1200.0),
    ):
        for mode in ("process", "thread"):
            rows += [
                row(workload, "torchfeed", mode, 1, inline),
                row(workload, "torchfeed", mode, 2, 1.96 * inline),
                row(workload, "torchfeed", mode, 4, 2 * inline),
            ]
        rows += [
            row(workload, "torchfeed", "process", 0, inline),
            row(workload, "torchfeed", "process", "auto", 1.99 * inline),
            limit(workload, 2, 2 * inline),
            limit(workload, 4, 2.1 * inline),
        ]
        if workload != "images_converter":
            rows += [row(workload, "torch_data", "thread", workers, inline) for workers in (0, 1, 2)]
    rows += [
        row("wait", "torchfeed", "process", 8, 7.9 * 470),
        row("images", "torchfeed", "process", 2, 5e3, step_ms=5),
        row("images", "torchfeed", "process", 2, 5e3, step_ms=10, waiting_share=0.1),
        row("tail", "torchfeed", "process", 4, 1900.0, in_order=False),
    ]
    return {
        "schema": 1,
        "machine": {"cpu": "A <CPU>", "logical_cpus": 2, "physical_cores": 2, "memory_gb": 8, "kernel": "6"},
        "versions": {"torchfeed": "0.1.0", "libtorch": "1.13.1"},
        "settings": {"batch_size": 32},
        "rows": rows,
    }


def python_loader():
    rows = [row("windows", "python", "process", workers, 3e4, fetch="sample") for workers in (1, 2)]
    rows += [
        row("untouched", "python", "process", 1, 1e3, batch_bytes=size, trainer_us_per_batch=200.0)
        for size in (4096, 33554432)
    ]
    return {
        "schema": 1,
        "machine": {},
        "versions": {"python": "3.11.2", "torch": "1.13.0"},
        "settings": {},
        "rows": rows,
    }


def micro():
    def run(name, seconds, cpu, **counters):
        return {
            "run_name": name,
            "run_type": "iteration",
            "real_time": 1e9 * seconds,
            "cpu_time": 1e9 * cpu,
            "time_unit": "ns",
            **counters,
        }

    runs = [
        run("memcpy_gather", 2.4e-6, 2.4e-6),
        run("first_batch/2/real_time", 6e-3, 5e-3),
        run("first_batch_with_heap/2/real_time", 9e-2, 2e-2),
        run("memory_of_workers/2/iterations:1", 1, 1, MB_a_worker=4.0),
        run("first_batch_with_auto/19267584/manual_time", 1e-3, 1e-3, beyond_ms=0.5),
    ]
    runs += [run(f"consumer_cost/{size}/real_time", 4e-6, 2e-6) for size in (4096, 33554432)]
    runs += [run(f"memcpy_batch/{size}/real_time", size * 1e-10, size * 1e-10) for size in (4096, 33554432)]
    return {"context": {}, "benchmarks": runs}


class ReportTest(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name)

    def tearDown(self):
        self.scratch.cleanup()

    def write(self, name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text, encoding="utf-8")

    def write_all(self):
        self.write("loaders.json", loaders())
        self.write("python_loader.json", python_loader())
        self.write("loader_micro.json", micro())
        self.write(
            "optimizer_gain.txt",
            "LibTorch 1.13.1, by itself 1 threads\n"
            "mlp              12.300      8.100    1.52x  1.40 to 1.60   MLP\n"
            "finetune         10.000      5.000    2.00x  1.90 to 2.10   the step\n",
        )
        self.write(
            "csv_bench.txt",
            "200 MB of minute bars, median of 3 runs\n"
            "                         s     MB/s speed-up   converting speed-up    CPU s  peak MB\n"
            "convert, a few bars     0.30                                          0.30       150\n"
            "convert --workers 1     0.80      250     1.00          400     1.00     0.80       60\n"
            "convert --workers 2     0.42      480     1.92          800     2.00     0.85       80\n"
            "pandas.read_csv         5.00       40     0.16           40     0.10     5.00      900\n",
        )
        self.write("threads.txt", "mlp 1 0.010\nmlp 2 0.005\nmlp 2 0.005\nmlp 2 0.9\nmlp 4 0.010\n")

    def make(self, *flags):
        """Exit code, what was printed, and the page if there is one."""
        done = subprocess.run(
            [sys.executable, *flags, str(MAKE_REPORT), str(self.folder)], capture_output=True, text=True, check=False
        )
        self.assertNotIn("Traceback", done.stderr)
        page = self.folder / "report.html"
        return done.returncode, done.stdout + done.stderr, page.read_text(encoding="utf-8") if page.is_file() else ""

    def verdict(self, page, figure):
        """The cells of a line of "Figures to reach", as text."""
        found = re.search(rf"<tr><td[^>]*>([^<]*)</td><td[^>]*>{re.escape(figure)}</td>(.*?)</tr>", page)
        self.assertTrue(found, f"no line '{figure}'")
        return [found[1], *re.findall(r"<td[^>]*>(.*?)</td>", found[2])]

    def test_a_whole_run_gives_a_page_that_is_whole_in_itself(self):
        self.write_all()
        code, output, page = self.make()
        self.assertEqual(code, 0, output)
        self.assertIn("A &lt;CPU&gt;", page)
        self.assertNotIn("untouched", page)
        for word in ("<script", "http-equiv", "src=", "@import", "url(http"):
            self.assertNotIn(word, page)
        self.assertIn("speed against 2 threads: mlp: 0.50x with 1, 0.50x with 4", page)
        self.assertFalse(re.search(r'href="(?!#)', page), "a link to elsewhere")

    def test_each_target_is_held_against_what_was_measured(self):
        self.write_all()
        _, _, page = self.make()
        sign, target, measured, _ = self.verdict(page, "windows, batch-native, 1 process: a batch")
        self.assertEqual((sign, target, measured), ("✓ reached", "≤ 5 us", "4.00 us"))
        sign, _, measured, _ = self.verdict(page, "wait, 8 workers: against inline")
        self.assertEqual((sign, measured), ("✓ reached", "7.90x"))
        sign, target, measured, _ = self.verdict(page, "make_data_loader to first batch, 2 workers beside 1 GB of heap")
        self.assertEqual((sign, target, measured), ("✗ missed", "≤ 80 ms", "90.0 ms, 12.5 % more than the target"))
        sign, _, measured, _ = self.verdict(page, "CSV to .npy, 1 worker: against pandas.read_csv")
        self.assertEqual((sign, measured), ("✓ reached", "6.25x"))
        sign, _, measured, why = self.verdict(page, "CSV to .npy, 1 worker")
        self.assertEqual((sign, measured), ("✓ reached", "250 MB/s"))
        self.assertIn("400 MB/s without the program&#x27;s start", why)
        sign, _, measured, why = self.verdict(page, "tail, 4 workers, out of order: of the ideal, total work / workers")
        self.assertEqual((sign, measured), ("✗ missed", "0.75, 20.6 % less than the target"), why)

    def test_what_is_missing_is_told_and_the_rest_is_there(self):
        self.write("loaders.json", loaders())
        code, output, page = self.make()
        self.assertEqual(code, 0, output)
        sign, _, measured, why = self.verdict(
            page, "windows, batch-native, 1 process: against Python&#x27;s DataLoader with 1 worker"
        )
        self.assertEqual((sign, measured), ("– not measured", "–"))
        self.assertIn("no figures of Python&#x27;s DataLoader", why)
        self.assertEqual(self.verdict(page, "CSV to .npy, 1 worker")[0], "– not measured")
        self.assertEqual(self.verdict(page, "burn, 2 workers: against inline")[0], "✓ reached")

    def test_broken_files_are_named_and_the_rest_is_there(self):
        self.write("loaders.json", loaders())
        self.write("bad.json", '{"schema": 1,\n "rows": [')
        self.write("old.json", {"schema": 7, "rows": []})
        self.write("other.json", [1, 2])
        self.write("row.json", {"schema": 1, "rows": [row("burn", "torchfeed", "process", "many", 1.0)]})
        self.write("csv_bench.txt", "nothing\n")
        code, output, page = self.make()
        self.assertEqual(code, 1, output)
        for text in (
            "bad.json:2: no JSON",
            'old.json: expected "schema" 1, got 7',
            'other.json: expected an object with "rows" or "benchmarks"',
            'row.json: row 0: expected "workers" to be a number or "auto", got many',
            "csv_bench.txt: no line with a speed in it",
        ):
            self.assertIn(text, output)
        self.assertIn("Left out: bad.json:2", page)
        self.assertEqual(self.verdict(page, "burn, 2 workers: against inline")[0], "✓ reached")

    def test_a_part_that_failed_and_a_setting_that_failed_are_told(self):
        document = loaders()
        document["rows"].append(
            {
                "workload": "burn",
                "loader": "torchfeed",
                "mode": "process",
                "workers": 3,
                "step_ms": 0,
                "error": "a worker died",
            }
        )
        self.write("loaders.json", document)
        self.write(
            "parts.tsv",
            "loaders\t0\t12\t40\tbench\nloader_micro\t0\t9\t50\tmicro\nloader_micro\t3\t1\t2\tmicro\n",
        )
        (self.folder / "logs").mkdir()
        self.write("logs/loader_micro.log", "one <line>\nout of memory\n")
        code, output, page = self.make()
        self.assertEqual(code, 1, output)
        self.assertIn("The part loader_micro failed with exit code 3", page)
        self.assertIn("one &lt;line&gt;\nout of memory", page)
        self.assertIn("burn, torchfeed process 3: a worker died", output)
        self.assertIn("Other programs took CPU time of this machine meanwhile", page)
        self.assertIn("not to be trusted: loaders (40 %)</p>", page)

    def test_nothing_at_all_is_an_error(self):
        code, output, page = self.make()
        self.assertEqual((code, page), (2, ""))
        self.assertIn("nothing to report", output)
        self.folder = self.folder / "gone"
        code, output, _ = self.make()
        self.assertEqual(code, 2)
        self.assertIn("gone: no such folder", output)

    def test_without_matplotlib_there_are_tables_and_a_sentence(self):
        self.write_all()
        code, output, page = self.make("-S", "-E") if HAS_MATPLOTLIB else self.make()
        self.assertEqual(code, 0, output)
        self.assertIn("has no matplotlib", page)
        self.assertIn("python3-matplotlib", output)
        self.assertNotIn("<svg", page)
        self.assertEqual(self.verdict(page, "wait, 8 workers: against inline")[0], "✓ reached")

    @unittest.skipUnless(HAS_MATPLOTLIB, f"{sys.executable} has no matplotlib")
    def test_plots_are_in_the_page_and_in_files(self):
        self.write_all()
        code, output, page = self.make()
        self.assertEqual(code, 0, output)
        for name in (
            "throughput_windows",
            "throughput_tail",
            "first_batch_windows",
            "overhead",
            "waiting_images",
            "auto",
        ):
            self.assertTrue((self.folder / "plots" / f"{name}.svg").is_file(), name)
        self.assertIn("currentColor", page)
        self.assertIn("var(--torch_data)", page)
        self.assertEqual(page.count("<svg"), len(list((self.folder / "plots").iterdir())))

    @unittest.skipUnless(HAS_PYTORCH, f"{sys.executable} has no PyTorch")
    def test_python_loader_measures_what_the_report_reads(self):
        out = self.folder / "python_loader.json"
        command = [sys.executable, str(PYTHON_LOADER), "--workloads", "windows,images", "--workers", "0,1"]
        command += ["--step-ms", "0,1", "--seconds", "0.02", "--repeats", "1", "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
        settings = [(row["workload"], row["fetch"], row["workers"], row["step_ms"]) for row in rows]
        fetches = [("windows", "sample"), ("images", "sample"), ("images", "batch")]
        expected = [(*fetch, workers, step) for fetch in fetches for workers in (0, 1) for step in (0, 1)]
        self.assertEqual(sorted(settings), sorted(expected))
        for row in rows:
            self.assertGreater(row["first_batch_ms"], 0)
            self.assertGreater(row["later_first_batch_ms"], 0)
            self.assertGreater(row["us_per_batch_p50"], 1000 * row["step_ms"] * 0.5)
            self.assertEqual(row["mode"], "process" if row["workers"] else "inline")
        code, output, page = self.make()
        self.assertEqual(code, 0, output)
        self.assertIn("python 3.", page)

    def test_python_loader_without_pytorch_says_so_and_writes_nothing(self):
        out = self.folder / "python_loader.json"
        done = subprocess.run(
            [sys.executable, "-S", "-I", str(PYTHON_LOADER), "--json", str(out)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("has no PyTorch", done.stdout)
        self.assertEqual(len(done.stdout.splitlines()), 1)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
