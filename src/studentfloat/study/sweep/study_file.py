"""Read a study file: every key known, every value sound, before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError, StudentFloatError
from studentfloat.models import Trust
from studentfloat.models.hub_text import HUB_PREFIX
from studentfloat.models.standard_texts import STANDARD_TEXTS
from studentfloat.study.options import (
    EXCLUDABLE,
    CalibrationSettings,
    FormatFile,
    HardwareOptions,
    ModelEntry,
    QualitySettings,
    SchemeSettings,
    StudyOptions,
    TaskSettings,
)
from studentfloat.untrusted import parse_toml, read_text, shown

__all__ = ["parse_study", "read_study_file"]

Reader = Callable[[Any, str], Any]
_NO_TRUST = Trust()
_LONGEST_NAME = 100


def read_study_file(
    path: Path, *, data: Path | None = None, trust: Trust = _NO_TRUST
) -> StudyOptions:
    """Read a study file.

    Parameters
    ----------
    path
        The file; paths in it are relative to its directory.
    data
        Where tasks find their sets, in place of what the file says.
    trust
        What the models' loading may do.

    Raises
    ------
    ConfigError
        On an unknown key (the nearest right one is named), or a value that cannot be.
    FailureError
        If the file cannot be read.
    """
    text = read_text(path, what="study file", error=ConfigError, unreadable=FailureError)
    return parse_study(
        text, where=str(path), base=path.parent.absolute(), data=data, trust=trust, stem=path.stem
    )


def parse_study(
    text: str,
    *,
    where: str = "study.toml",
    base: Path | None = None,
    data: Path | None = None,
    trust: Trust = _NO_TRUST,
    stem: str = "study",
) -> StudyOptions:
    """Read a study from TOML text; see :func:`read_study_file`.

    Parameters
    ----------
    where
        What to call the text in an error.
    base
        Directory that paths are relative to.
    stem
        The study's name where it gives none.
    """
    raw = parse_toml(text, where, error=ConfigError)
    here = Path() if base is None else base
    fields = _table(raw, _TOP, where)
    fields["exclude"] = tuple(fields.get("exclude", ()))
    options = StudyOptions(
        **{
            "name": stem,
            "title": str(fields.get("name", stem)),
            "trust": trust,
            **fields,
            "models": tuple(_model(entry, here, where) for entry in fields.get("models", ())),
            "formats": tuple(_located_format(spec, here) for spec in fields.get("formats", ())),
        }
    )
    options = _located(options, here, data)
    options = replace(options, format_files=_format_files(options.formats))
    from studentfloat.study.sweep.checks import check_study

    try:
        check_study(options)
    except StudentFloatError as error:
        raise type(error)(f"{where}: {error}") from error
    return options


def _table(given: Any, known: dict[str, Reader], where: str) -> dict[str, Any]:
    """The values of a table, each through its reader; unknown keys are errors."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where} must be a table, not {shown(given)}")
    found = {}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            right = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where} has the unknown key {key!r}: {right}")
        found[key] = known[key](value, f"{where}: {key!r}")
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} must be a text, not {shown(value)}")
    return value


def _name(value: Any, where: str) -> str:
    """A text that can be part of a directory's name."""
    found = _text(value, where)
    if not found.isprintable() or len(found) > _LONGEST_NAME or found[0] in ". " or "/" in found:
        raise ConfigError(
            f"{where} must be a name for a directory (up to {_LONGEST_NAME} characters, no slash, "
            f"no dot at its beginning), not {shown(found)}"
        )
    return found


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where} must be true or false, not {shown(value)}")
    return value


def _whole(least: int) -> Reader:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{where} must be a whole number from {least} up, not {shown(value)}")
        return value

    return read


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} must be a list, not {shown(value)}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    found = tuple(_text(item, where) for item in _list(value, where))
    for i, item in enumerate(found):
        if item in found[:i]:
            raise ConfigError(f"{where} holds {item!r} twice")
    return found


def _texts_or_none(value: Any, where: str) -> tuple[str | None, ...]:
    """A list in which "none" stands for leaving things as they are."""
    return tuple(None if item == "none" else item for item in _texts(value, where))


def _text_or_none(value: Any, where: str) -> str | None:
    found = _text(value, where)
    return None if found in ("none", "same") else found


def _block_size(value: Any, where: str) -> int | str:
    return value if value in ("row", "tensor") else int(_whole(1)(value, where))


def _record(kind: Callable[..., Any], known: dict[str, Reader], required: Sequence[str] = ()):  # type: ignore[no-untyped-def]
    def read(value: Any, where: str) -> Any:
        table = _table(value, known, where)
        for key in required:
            if key not in table:
                raise ConfigError(f"{where} has no key {key!r}")
        return kind(**table)

    return read


def _quality(value: Any, where: str) -> QualitySettings:
    known: dict[str, Reader] = {
        "text": _text,
        "texts": _texts,
        "windows": _whole(1),
        "window_length": _whole(2),
    }
    table = _table(value, known, where)
    if "text" in table:
        if "texts" in table:
            raise ConfigError(f"{where} has both 'text' and 'texts': put all into 'texts'")
        table["texts"] = (table.pop("text"),)
    return QualitySettings(**table)


def _schemes(value: Any, where: str) -> tuple[SchemeSettings, ...]:
    known: dict[str, Reader] = {
        "block_size": _block_size,
        "scale_rule": _text,
        "scale_dtype": _text,
    }
    found = tuple(_record(SchemeSettings, known)(item, where) for item in _list(value, where))
    if not found:
        raise ConfigError(f"{where} is empty: leave it out for blocks of 128, absmax, bfloat16")
    return found


def _models(value: Any, where: str) -> list[dict[str, str]]:
    found = []
    for item in _list(value, where):
        entry = {"id": item} if isinstance(item, str) else item
        table = _table(entry, {"id": _text, "name": _text}, where)
        if "id" not in table:
            raise ConfigError(f"{where}: a model has no 'id'")
        found.append(table)
    return found


def _exclusions(value: Any, where: str) -> list[dict[str, Any]]:
    found = []
    for item in _list(value, where):
        table = _table(item, dict.fromkeys(EXCLUDABLE, _excluded), where)
        if not table:
            raise ConfigError(f"{where} holds an empty table, which would exclude everything")
        found.append(table)
    return found


def _excluded(value: Any, where: str) -> Any:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise ConfigError(
                f"{where} must be a text, a number or a list of those, not {shown(item)}"
            )
    return value


_TOP: dict[str, Reader] = {
    "name": _name,
    "title": _text,
    "models": _models,
    "formats": _texts,
    "schemes": _schemes,
    "methods": _texts,
    "activations": _texts_or_none,
    "kv": _texts_or_none,
    "quality": _quality,
    "tasks": _record(
        TaskSettings,
        {
            "names": _texts,
            "data": _text,
            "limit": _whole(1),
            "shots": _whole(0),
            "only_with_data": _flag,
        },
        ["names"],
    ),
    "laws": _flag,
    "hardware": _record(
        HardwareOptions,
        {
            "units": _texts,
            "liberty": _texts,
            "lookup_bits": _whole(2),
            "activations": _text_or_none,
            "real_codes": _flag,
        },
    ),
    "calibration": _record(
        CalibrationSettings, {"text": _text, "windows": _whole(1), "window_length": _whole(2)}
    ),
    "embeddings": _flag,
    "head": _flag,
    "seed": _whole(0),
    "exclude": _exclusions,
}


def _model(entry: dict[str, str], base: Path, where: str) -> ModelEntry:
    """A model whose id is a path beside the file is that one; others are ids."""
    given = entry["id"]
    path = Path(given).expanduser()
    local = path if path.is_absolute() else base / path
    name = entry.get("name", given)
    return ModelEntry(id=str(local) if local.exists() else given, name=name)


def _located_format(spec: str, base: Path) -> str:
    from studentfloat.study.variants import split_rule

    name, rule = split_rule(spec)
    parts = [_beside(part, base) if _is_file(part) else part for part in name.split("|")]
    return "|".join(parts) + (f"@{rule}" if rule else "")


def _is_file(part: str) -> bool:
    return part.lower().endswith(".toml")


def _beside(path: str, base: Path) -> str:
    return str(base / Path(path).expanduser())


def _text_place(text: str, base: Path) -> str:
    """A file beside the study, or a data set on the hub or a standard text as it is."""
    place = _beside(text, base)
    standard = text in STANDARD_TEXTS and not Path(place).exists()
    return text if standard or text.startswith(HUB_PREFIX) else place


def _located(options: StudyOptions, base: Path, data: Path | None) -> StudyOptions:
    """Paths made absolute; and what is left out for want of data, said."""
    notes = list(options.notes)
    quality, tasks, hardware = options.quality, options.tasks, options.hardware
    calibration = options.calibration
    if quality is not None:
        places = tuple(_text_place(text, base) for text in quality.texts)
        quality = replace(quality, texts=places)
    if calibration.text is not None:
        calibration = replace(calibration, text=_text_place(calibration.text, base))
    if tasks is not None:
        if data is not None:
            tasks = replace(tasks, data=str(data.absolute()))
        elif tasks.data is not None:
            tasks = replace(tasks, data=_beside(tasks.data, base))
        if tasks.data is None and tasks.only_with_data:
            notes.append(
                f"tasks ({', '.join(tasks.names)}) are left out: no data is given (--data DIR)"
            )
            tasks = None
    if hardware is not None:
        hardware = replace(hardware, liberty=tuple(_beside(f, base) for f in hardware.liberty))
    return replace(
        options,
        quality=quality,
        tasks=tasks,
        hardware=hardware,
        calibration=calibration,
        notes=tuple(notes),
    )


def _format_files(formats: tuple[str, ...]) -> tuple[FormatFile, ...]:
    from studentfloat.formats import format_to_toml, load_format
    from studentfloat.study.variants import split_rule

    paths = {part for spec in formats for part in split_rule(spec)[0].split("|") if _is_file(part)}
    return tuple(FormatFile(path, format_to_toml(load_format(path))) for path in sorted(paths))
