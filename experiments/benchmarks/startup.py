"""Measure what a cold `iglens run` spends beyond importing torch, transformers, transformer_lens.

Both are new processes, run in turns, so that the machine's drift hits them alike. Processor seconds
tell more than the clock on a machine that does other work at the same time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

_RUN = ("run", "What is the capital of Vietnam?", "--chat", "--generate", "12")
_COMMANDS = {
    "imports": ("import torch, transformers, transformer_lens", ()),
    "iglens run": ("from iglens_tl.cli import main; main()", _RUN),
}


def main() -> None:
    """Print the fastest seconds of both, and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    clock: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    processor: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for repeat in range(repeats + 1):
        for name, (code, arguments) in _COMMANDS.items():
            seconds = cold(code, *arguments)
            if repeat:  # the first run fills the file system's cache
                clock[name].append(seconds[0])
                processor[name].append(seconds[1])
    for label, measured in (("clock", clock), ("processor", processor)):
        fastest = {name: min(seconds) for name, seconds in measured.items()}
        beyond = fastest["iglens run"] - fastest["imports"]
        listed = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in fastest.items())
        print(f"{label}: {listed}, beyond the imports {beyond:.2f} s")


def cold(code: str, *arguments: str) -> tuple[float, float]:
    """Run code in a new interpreter and return its seconds by the clock and of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    after = os.times()
    spent = after.children_user + after.children_system
    return time.perf_counter() - start, spent - before.children_user - before.children_system


if __name__ == "__main__":
    main()
