"""What guides to training from the field advise, and what it brings here."""

from targets import first_of, number, ratio


def gain(results, workload, workers):
    """E.g. "3.9x with 4 processes (torch::data 3.9x, Python 3.8x)": against inline, each loader to its own."""
    texts = {}
    for loader in ("torchfeed", "torch_data", "python"):
        inline = first_of(results.select(workload, loader, workers=0))
        row = results.best(workload, loader, workers=workers)
        if row and inline:
            texts[loader] = (f"{number(ratio(row, inline))}x", row.name)
    if "torchfeed" not in texts:
        return ""
    peers = [
        f"{name} {texts[key][0]}" for key, name in (("torch_data", "torch::data"), ("python", "Python")) if key in texts
    ]
    return f"{texts['torchfeed'][0]} with {texts['torchfeed'][1]}" + (f" ({', '.join(peers)})" if peers else "")


def waiting(results):
    counts = sorted({row["workers"] for row in results.select("wait", "torchfeed", workers="fixed")} - {0, 1})
    return "; ".join(filter(None, (gain(results, "wait", count) for count in counts)))


def computing(results):
    micro = results.micro.get("speed_up/compute_2_processes", {})
    by_map = f"parallel_map in 2 processes {number(micro['speed_up'])}x" if "speed_up" in micro else ""
    return "; ".join(filter(None, (gain(results, "burn", 2), by_map)))


def conversion(results):
    texts = []
    micro = results.micro.get("images_to_planes/1")
    if micro and "as_written" in micro:
        texts.append(
            f"{number(micro['as_written'])}x ATen as it is written, {number(micro['best'])}x its fastest form, "
            "one thread"
        )
    plain = results.best("images", "torchfeed", workers="fixed")
    converted = results.best("images_converter", "torchfeed", workers="fixed")
    if plain and converted:
        texts.append(f"{number(ratio(converted, plain))}x in the loader")
    return "; ".join(texts)


def small_data(results):
    texts = []
    for workload in ("windows", "windows_batch"):
        rows = results.select(workload, "torchfeed", "process", "fixed")
        best = max(rows, key=lambda row: row["samples_per_second"], default=None)
        most = max(rows, key=lambda row: row["workers"], default=None)
        if best and most and len(rows) > 1:
            texts.append(
                f"{workload}: fastest {'inline' if best['workers'] == 0 else 'with ' + best.name}"
                + ("" if most is best else f", {number(100 * ratio(most, best))} % of it with {most.name}")
            )
    return "; ".join(texts)


def persistent(results):
    kept = results.seconds("epoch_turnaround/2")
    ended = results.seconds("epoch_turnaround_without_persistent_workers/2")
    texts = []
    if kept and ended:
        texts.append(
            f"an epoch of one batch takes {number(1e3 * kept)} ms with, {number(1e3 * ended)} ms without "
            f"(2 processes): {number(ended / kept)}x"
        )
    python = first_of(results.select("windows", "python", workers=2))
    if python and python.later_first_batch_ms:
        texts.append(
            f"Python's DataLoader: {number(python.later_first_batch_ms)} ms to a later epoch's first batch, "
            f"{number(python.first_batch_ms)} ms with new workers"
        )
    return "; ".join(texts)


def threads(results):
    """Steps a second by threads, against as many threads as there are physical cores."""
    cores, logical = results.machine.get("physical_cores"), results.machine.get("logical_cpus")
    by_model = {}
    for (model, count), seconds in results.threads.items():
        by_model.setdefault(model, {})[count] = seconds
    texts = []
    for model, times in by_model.items():
        if cores in times and len(times) > 1:
            others = ", ".join(
                f"{number(times[cores] / seconds)}x with {count}"
                for count, seconds in sorted(times.items())
                if count != cores
            )
            texts.append(f"{model}: {others}")
    if not texts:
        return ""
    note = "" if cores != logical else "; no SMT here, so logical CPUs are cores, and more threads share them"
    return f"speed against {cores} threads: " + "; ".join(texts) + note


def rows_of(results):
    """(advice, what it promises, what it brings here), all texts."""
    cores = results.machine.get("physical_cores", "?")
    rows = [
        ("Loading that waits for disk or network: more workers than cores", "2–4x", waiting(results)),
        (
            "Preprocessing that computes: a worker a core",
            f"3–7x with cores for it; 1.9x on 2 (here: {cores})",
            computing(results),
        ),
        ("Format conversion in one pass", "2–3x", conversion(results)),
        ("Small data: few workers or none", "0–2 workers", small_data(results)),
        ("Persistent workers", "no start-up an epoch", persistent(results)),
        ("Threads: as many as physical cores", "not as logical CPUs", threads(results)),
    ]
    return [(advice, promise, brings or "not measured: its part is missing") for advice, promise, brings in rows]


def fastest(results, workload):
    """Which loader and setting is fastest, against peers and the limit, and why: a dictionary of texts."""
    ours = results.best(workload, "torchfeed")
    if ours is None:
        return None
    texts = {"workload": workload, "torchfeed": f"{number(ours['samples_per_second'])}/s, {ours.name}"}
    for loader in ("torch_data", "python"):
        peer = results.best(workload, loader)
        texts[loader] = f"{number(ratio(ours, peer))}x ({peer.name})" if peer else "–"
    limit = first_of(results.select(workload, "limit", workers=ours.last_workers)) or max(
        results.select(workload, "limit"), key=lambda row: row["workers"], default=None
    )
    texts["limit"] = f"{number(100 * ratio(ours, limit))} %" if limit else "–"
    if limit and limit.how:
        texts["limit"] += f" ({limit.how})"
    texts["why"] = why(results, workload, ours)
    return texts


def why(results, workload, ours):
    inline = first_of(results.select(workload, "torchfeed", workers=0))
    if inline is None:
        return ""
    cost = f"a batch takes {number(inline.us_per_batch)} us to make"
    if ours["workers"] == 0:
        other = results.best(workload, "torchfeed", workers=1)
        return cost + (f", and {number(other.us_per_batch)} us by way of a worker" if other else "")
    gain_of_workers = ratio(ours, inline)
    if gain_of_workers < 1.05:
        return cost + "; workers change little"
    return cost + f"; workers overlap it: {number(gain_of_workers)}x inline"
