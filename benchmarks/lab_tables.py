"""Reading a long laboratory table with MIMIC-IV's columns: rows/s and memory.

    python -m benchmarks.lab_tables [--rows 2000000]

The table has 16 columns as labevents, half of its rows are items outside the panel, and its times spread over a year.
Read twice: for 20,000 subjects with a window of 60 days to each side of a date (the file is read once), and for every
subject that is found (read twice). The peak is of the whole process, which writes the table in small parts first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.labs.panel import PANEL
from pacx.data.labs.tables import LabRows, read_lab_table
from pacx.runs import peak_memory_mib

SUBJECTS, PART = 20_000, 100_000


def write_table(path: Path, *, rows: int) -> None:
    rng = np.random.default_rng(0)
    items = [lab.item_id for lab in PANEL] + list(range(60000, 60000 + len(PANEL)))
    units = [lab.unit for lab in PANEL] + ["mg/dL"] * len(PANEL)
    usual = [lab.low + (lab.high - lab.low) / 4 for lab in PANEL] + [1.0] * len(PANEL)
    for start in range(0, rows, PART):
        num = min(PART, rows - start)
        kind = rng.integers(0, len(items), num)
        subject = rng.integers(0, SUBJECTS, num)
        minutes = pd.to_timedelta(rng.integers(0, 365 * 24 * 60, num), unit="min")
        times = (pd.Timestamp("2180-01-01") + minutes).strftime("%Y-%m-%d %H:%M:%S")
        value = np.round(np.array(usual)[kind] * rng.uniform(0.9, 1.1, num), 2)
        part = pd.DataFrame(
            {
                "labevent_id": np.arange(start, start + num), "subject_id": subject, "hadm_id": subject,
                "specimen_id": rng.integers(10**6, 10**7, num), "itemid": np.array(items)[kind],
                "order_provider_id": "P123", "charttime": times, "storetime": times, "value": value.astype(str),
                "valuenum": value, "valueuom": np.array(units)[kind], "ref_range_lower": 1.0, "ref_range_upper": 2.0,
                "flag": "", "priority": "ROUTINE", "comments": "___",
            }
        )  # fmt: skip
        part.to_csv(path, mode="a", header=start == 0, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    num = parser.parse_args().rows
    subjects = pd.Series(range(SUBJECTS))
    rows = LabRows(subjects.map(str).tolist(), subjects, pd.Series(["2180-07-01"] * SUBJECTS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labevents.csv"
        write_table(path, rows=num)
        for name, given, window in (("with a table of subjects", rows, (-1440.0, 1440.0)), ("alone", None, None)):
            before = time.perf_counter()
            table = read_lab_table(path, rows=given, window=window)
            seconds = time.perf_counter() - before
            print(
                f"{name}: {num} rows ({path.stat().st_size / 1e6:.0f} MB) in {seconds:.1f} s, "
                f"{num / seconds:.0f} rows/s, {table.report['used']} values used, peak {peak_memory_mib():.0f} MiB"
            )


if __name__ == "__main__":
    main()
