"""End a command at each of its changes to the disk, then run it again: it must go on or begin anew.

Run as ``python -m tests.killed COMMAND KIND SOURCE PLACE``. KIND is "kill" (the process is gone,
nothing is cleaned up) or "full" (from there on the disk is full). Each trial is a fork of one
process that has everything imported and no threads. Prints how many ends were tried; what goes
wrong is an error.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from studentfloat.errors import StudentFloatError

_ENDED = 9
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1}


def quantize(source: Path, out: Path) -> None:
    from studentfloat.models import find_model, quantize_checkpoint
    from studentfloat.quantize import Scheme

    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    quantize_checkpoint(find_model(str(source)), scheme, out, shard_bytes=50_000)


def calibrate(source: Path, out: Path) -> None:
    from studentfloat.models import Calibration, calibrate_checkpoint, find_model
    from studentfloat.quantize import Scheme, parse_method

    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    few = Calibration(text=source / "text.txt", windows=1, window_length=16)
    calibrate_checkpoint(find_model(str(source)), scheme, parse_method("awq"), out, calibration=few)


def merge(source: Path, out: Path) -> None:
    from studentfloat.models import find_model, merge_parts, quantize_checkpoint
    from studentfloat.quantize import Scheme

    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    parts = [out / "one", out / "two"]
    for i, part in enumerate(parts, 1):
        # A part whose shards were moved already has nothing left to do.
        quantize_checkpoint(find_model(str(source)), scheme, part, shard_bytes=50_000, share=(i, 2))
    merge_parts(out / "whole", parts)


def dequantize(source: Path, out: Path) -> None:
    from studentfloat.models import dequantize_checkpoint

    dequantize_checkpoint(source, out)


def compare(source: Path, out: Path) -> None:
    from studentfloat.cli.main import main

    options = ["--formats", "sf4", "--windows", "1", "--window-length", "32", "--no-hardware"]
    text = ["--text", str(source / "text.txt")]
    sys.argv = ["studentfloat", "compare", str(source), *options, *text, "-o", str(out)]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise StudentFloatError(f"compare ended with {end.code}") from end


COMMANDS = {f.__name__: f for f in (quantize, calibrate, merge, dequantize, compare)}


def contents(out: Path) -> dict[str, bytes]:
    """All files that are the same each time; temporary ones among them."""
    files = (file for file in out.rglob("*") if file.is_file() and ".cells" not in str(file))
    return {
        str(file.relative_to(out)): b"" if _has_times(file) else file.read_bytes() for file in files
    }


def _has_times(file: Path) -> bool:
    records = ("quantization-report.json", "results.json", "report.html")
    return file.name in records or file.name.startswith("shard-")


def in_a_fork(run: Callable[[], None]) -> int:
    """0 if it went through, 1 on an error of ours, others as the process ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 0
    try:
        run()
    except StudentFloatError as error:
        print("said:", error, file=sys.stderr)
        code = 1
    except BaseException as error:
        print(f"raised: {error!r}", file=sys.stderr)
        code = 2
    os._exit(code)


def end_at(number: int, kind: str, out: Path) -> None:
    """Let the process end, or the disk be full, at its `number`-th change below a directory."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & _WRITES
            paths = arguments[:1]
        else:
            changes = event in _CHANGES
            paths = arguments[: _CHANGES.get(event, 0)]
        if not changes or not any(_below(path, out) for path in paths):
            return
        seen += 1
        if seen < number:
            return
        if kind == "kill":
            os._exit(_ENDED)
        if event in ("open", "os.mkdir", "os.rename"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(hook)


def _below(path: object, out: Path) -> bool:
    # Relative ones are of a tree that is being removed, which are named from its directory.
    return isinstance(path, (str, os.PathLike)) and (
        not Path(path).is_absolute() or Path(path).is_relative_to(out)
    )


def main(command: str, kind: str, source: Path, place: Path) -> int:
    """Try every end; the number of them."""
    torch.set_num_threads(1)
    run = COMMANDS[command]
    run(source, place / "whole")
    expected = contents(place / "whole")
    for number in itertools.count(1):
        out = place / "out"

        def ended(number: int = number, out: Path = out) -> None:
            end_at(number, kind, out)
            run(source, out)

        code = in_a_fork(ended)
        if code == 0 and contents(out) == expected:
            return number - 1
        if code not in ((_ENDED,) if kind == "kill" else (0, 1)):
            raise SystemExit(f"end {number}: the command ended with {code}")
        left = sorted(contents(out))
        if (code := in_a_fork(lambda out=out: run(source, out))) != 0:
            raise SystemExit(f"end {number} left {left}; run again it ended with {code}")
        if contents(out) != expected:
            now = {k for k, v in contents(out).items() if expected.get(k) != v}
            raise SystemExit(f"end {number} left {left}; run again {sorted(now)} are others")
        shutil.rmtree(out, ignore_errors=True)
    raise AssertionError("not reached")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
