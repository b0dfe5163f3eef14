"""Run all benchmarks, each in a process of its own, then write the table.

python -m benchmarks [--quick]
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import table


def main() -> None:
    """Stop at the first benchmark that fails."""
    for name in table.NAMES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
    if "--quick" not in sys.argv:
        table.main()


if __name__ == "__main__":
    main()
