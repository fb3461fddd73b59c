"""The command line: `assay ...` and `python -m assay ...` are the same as the binary."""

from __future__ import annotations

import signal
import sys

from ._assay import run_command


def main() -> int:
    """Runs the command line of this process and returns its exit status."""
    # Python would wait for the command to return before it acts on Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run_command(["assay", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
