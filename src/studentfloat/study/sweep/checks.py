"""What can be known to be wrong with a study before anything runs."""

from __future__ import annotations

import difflib
from pathlib import Path

from studentfloat.errors import ConfigError
from studentfloat.models.calibration import Calibration
from studentfloat.models.hub_text import HUB_PREFIX, parse_data_set
from studentfloat.models.kv_cache import KVCacheScheme
from studentfloat.models.standard_texts import STANDARD_TEXTS
from studentfloat.study.options import ORIGINAL, HardwareOptions, StudyOptions
from studentfloat.study.plan import HARDWARE, LAWS, QUALITY
from studentfloat.study.tasks import check_tasks
from studentfloat.study.variants import per_token_scheme, variants

__all__ = ["check_study"]

_OTHER_ACTIVATIONS = ("fp8", "int16", "fp16")
"""What a unit's other operand may be that is no format by name."""


def check_study(options: StudyOptions) -> None:
    """Raise for a study that could not run, or whose exclusions exclude nothing.

    Raises
    ------
    StudentFloatError
        Naming the offending value and what would be right.
    """
    if not options.formats:
        raise ConfigError('no \'formats\': give a list such as ["nf4", "sf4"]')
    if not options.methods:
        raise ConfigError("no 'methods': give a list such as [\"rtn\"], or leave it out")
    if not (options.quality or options.tasks or options.hardware or options.laws):
        raise ConfigError("nothing to evaluate: add [quality], [tasks], [hardware] or laws = true")
    if not options.models and (options.quality or options.tasks or options.laws):
        raise ConfigError("no 'models': give a list such as [\"smollm2-135m\"]")
    names = [model.name for model in options.models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models are called {name!r}: give one another 'name'")
    for kv in options.kv:
        if kv is not None:
            KVCacheScheme(per_token_scheme(kv))
    _check_files(options)
    check_tasks(options)
    if options.hardware is not None:
        _check_hardware(options.hardware)
    _check_exclusions(options)


def _check_hardware(hardware: HardwareOptions) -> None:
    from studentfloat.formats import resolve_format
    from studentfloat.hardware import check_unit

    for unit in hardware.units:
        check_unit(unit)
    if hardware.real_codes and hardware.activations is not None:
        raise ConfigError(
            "hardware: real codes are counted of activations in the weights' own format, not in "
            f"{hardware.activations}: leave one of the two out"
        )
    if hardware.activations not in (None, *_OTHER_ACTIVATIONS):
        resolve_format(hardware.activations)


def _check_files(options: StudyOptions) -> None:
    calibration = options.calibration
    Calibration(calibration.text, calibration.windows, calibration.window_length)
    texts = [calibration.text, *(() if options.quality is None else options.quality.texts)]
    liberty = () if options.hardware is None else options.hardware.liberty
    for file in (*texts, *liberty):
        if file is not None and file.startswith(HUB_PREFIX):
            parse_data_set(file)
        elif not (file is None or file in STANDARD_TEXTS or Path(file).is_file()):
            raise ConfigError(f"there is no file {file}")
    data = None if options.tasks is None else options.tasks.data
    if data is not None and not Path(data).is_dir():
        raise ConfigError(f"tasks: there is no directory {data}")


def _check_exclusions(options: StudyOptions) -> None:
    """An exclusion of something that the study does not hold is a slip of the pen."""
    found = variants(options)
    values: dict[str, set[str | int]] = {"model": {model.name for model in options.models}}
    for key in ("format", "method", "block_size", "scale_rule", "scale_dtype"):
        values[key] = {getattr(variant.configuration, key) for variant in found}
    for key in ("activations", "kv"):
        values[key] = {getattr(variant.configuration, key) or "none" for variant in found}
    values["format"].add(ORIGINAL)
    values["evaluation"] = {QUALITY, LAWS, HARDWARE}
    if options.tasks is not None:
        values["evaluation"] |= set(options.tasks.names)
    for table in options.exclude:
        for key, wanted in table.items():
            for item in wanted if isinstance(wanted, list) else [wanted]:
                if item not in values[key]:
                    known = sorted(map(str, values[key]))
                    near = difflib.get_close_matches(str(item), known, n=1, cutoff=0.5)
                    right = (
                        f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                    )
                    raise ConfigError(f"'exclude': no {key} here is {item!r}: {right}")
