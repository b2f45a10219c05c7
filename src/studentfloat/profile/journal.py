"""What a run has done so far, so that one that was killed can go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studentfloat.errors import FailureError
from studentfloat.models.sources import ModelSource
from studentfloat.profile.files import tensor_from_json, tensor_to_json
from studentfloat.profile.settings import ProfileSettings
from studentfloat.records import TensorProfile
from studentfloat.untrusted import parse_json, read_text

__all__ = ["Journal"]


class Journal:
    """Tensors done so far, a line each, so that a run that was killed can go on."""

    def __init__(self, path: Path | None, source: ModelSource, settings: ProfileSettings) -> None:
        self.path = path
        self.done: dict[str, TensorProfile] = {}
        if path is None:
            return
        files = [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns]
            for file in source.weight_files
        ]
        wanted = {"files": files, "settings": json.loads(json.dumps(asdict(settings)))}
        lines = read_text(path).splitlines() if path.is_file() else []
        if lines and _parsed(lines[0]) == wanted:
            for line in lines[1:]:
                tensor = _tensor(line)
                if tensor is not None:  # the last line of a run that was killed may be cut
                    self.done[tensor.name] = tensor
            sound = [lines[0], *(line for line in lines[1:] if _tensor(line) is not None)]
            path.write_text("".join(f"{line}\n" for line in sound), encoding="utf-8")
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
            except OSError as error:
                raise FailureError(f"cannot write {path}: {error.strerror}") from error

    def add(self, profile: TensorProfile) -> None:
        """Note a tensor that is done."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(tensor_to_json(profile)) + "\n")


def _tensor(line: str) -> TensorProfile | None:
    data = _parsed(line)
    try:
        return None if data is None else tensor_from_json(data)
    except FailureError:
        return None


def _parsed(line: str) -> Any:
    try:
        return parse_json(line, "journal")
    except FailureError:
        return None
