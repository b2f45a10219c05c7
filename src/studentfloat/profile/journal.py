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
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines and _parsed(lines[0]) == wanted:
            for line in lines[1:]:
                data = _parsed(line)
                if data is not None:  # the last line of a run that was killed may be cut
                    self.done[data["name"]] = tensor_from_json(data)
            path.write_text("".join(f"{line}\n" for line in lines if _parsed(line) is not None))
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


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
