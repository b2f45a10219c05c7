"""Run Yosys commands, one a line from standard input, in a process of their own.

Run as a file, never imported: Yosys ends its process when a command fails.
"""

import sys


def main() -> None:
    """Run the commands in one design."""
    from pyosys import libyosys  # type: ignore[import-untyped]

    design = libyosys.Design()
    for line in sys.stdin:
        command = line.strip()
        if command:
            libyosys.run_pass(command, design)


if __name__ == "__main__":
    main()
