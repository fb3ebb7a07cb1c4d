"""Nothing in, the tables of all CPU benchmarks out, one after another; each runs in a process of its own.

``python -m benchmarks.NAME --help`` says what one of them can be told.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CPU_BENCHMARKS = ("decode", "augment", "loader")


def main() -> int:
    """Run every benchmark that is there, and return 1 where one failed."""
    here = Path(__file__).parent
    failed = 0
    for name in CPU_BENCHMARKS:
        if not (here / f"{name}.py").is_file():
            continue
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        failed |= subprocess.run(command, cwd=here.parent, check=False).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
