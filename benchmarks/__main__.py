"""Every benchmark of this machine, one after the other: ``make bench``. Figures only, no assertions about time.

    python -m benchmarks [--quick]

``--quick`` leaves out what needs Kafka or 10,000,000 events.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = [
    ("From a file to the committed store", ["benchmarks.ingest"], True),
    ("From the file log to the committed store", ["benchmarks.ledger", "--stored", "1000000,10000000"], False),
    ("From Kafka to the committed store", ["benchmarks.ledger", "--log", "kafka"], False),
    ("Gate.check and Client.record with 1,000,000 keys", ["benchmarks.gate"], True),
    ("Cap reached, gate refuses", ["benchmarks.refusal"], True),
    ("The logs by themselves", ["benchmarks.log"], True),
]


def main() -> int:
    """Runs them; ends with 1 if one could not be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    failed = 0
    for title, command, is_quick in BENCHMARKS:
        if quick and not is_quick:
            continue
        print(f"\n== {title}   (python -m {' '.join(command)})", flush=True)
        failed += subprocess.run([sys.executable, "-m", *command], check=False).returncode != 0
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
