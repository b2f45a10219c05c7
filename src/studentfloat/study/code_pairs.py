"""Pairs of codes that meet in a real model: what the energy of a unit depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from studentfloat.errors import ConfigError, DataError, StudentFloatError
from studentfloat.formats import Format, resolve_format
from studentfloat.formats.rounded import rounded_format
from studentfloat.hardware.cache import ContentCache, content_key
from studentfloat.hardware.operands import needs_lookup
from studentfloat.models import ModelSource, find_model
from studentfloat.progress import Progress, silent
from studentfloat.quantize import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from studentfloat.evaluate import EvaluationText
    from studentfloat.models import LoadedModel, WeightSite

__all__ = ["CodePairs", "code_pairs_of_model", "hardware_code_pairs", "held_format"]

_VERSION = 1  # of what is counted: part of the cache's key
_LAYERS = 24
_WINDOWS, _WINDOW_LENGTH = 2, 128
_UNTABULATED = ("int16", "fp16")
"""Activations of so many codes that no histogram is kept of them."""


@dataclass(frozen=True)
class CodePairs:
    """How often each pair of codes meets, and where.

    Attributes
    ----------
    counts
        By the name that was asked for: of shape ``(2**weight bits, 2**activation bits)``.
    codes
        In words: of which layers of which model on what text.
    problem
        Why there are none.
    """

    counts: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    codes: str | None = None
    problem: str | None = None


def held_format(number_format: Format, lookup_bits: int) -> Format:
    """The format as a unit in silicon holds it.

    The format itself where it has an exact integer grid, else its levels rounded to fixed
    point; its name stays.
    """
    if not needs_lookup(number_format):
        return number_format
    return rounded_format(number_format, lookup_bits, name=number_format.name)


def hardware_code_pairs(
    model: str,
    formats: list[Format],
    *,
    lookup_bits: tuple[int, ...],
    activations: str | None = None,
    progress: Progress = silent,
) -> CodePairs:
    """Code pairs for each row of a hardware table: W4A4 in blocks of 128, absmax scales.

    Parameters
    ----------
    lookup_bits, activations
        As of :func:`studentfloat.hardware.cost`.

    Raises
    ------
    StudentFloatError
        If the model cannot be run on a text.
    """
    if activations in _UNTABULATED:
        raise ConfigError(f"no histogram is kept of {activations} codes: there are too many")
    spelled = "e4m3" if activations == "fp8" else activations
    other = None if spelled is None else held_format(resolve_format(spelled), lookup_bits[0])
    schemes: dict[str, tuple[Scheme, Scheme]] = {}
    for one in formats:
        for i, bits in enumerate(lookup_bits if needs_lookup(one) else (0,)):
            name = one.name if i == 0 else f"{one.name}-fixed{bits}"
            held = held_format(one, bits)
            schemes[name] = (Scheme(held), Scheme(other or held))
    found = code_pairs_of_model(find_model(model), schemes, progress=progress)
    if found.problem:
        raise DataError(f"no codes of {model}: {found.problem}")
    return found


def code_pairs_of_model(
    source: ModelSource,
    schemes: Mapping[str, tuple[Scheme, Scheme]],
    *,
    text: EvaluationText | None = None,
    cache: ContentCache | None = None,
    model: LoadedModel | None = None,
    progress: Progress = silent,
) -> CodePairs:
    """Quantize linear layers and what enters them, and count which codes meet.

    24 layers evenly spread over the model, on two windows of 128 tokens of the text.

    Parameters
    ----------
    schemes
        By name: of the weights and of the activations.
    text
        By default the one that every CPython carries.
    cache
        Where counts are kept; by default that of the hardware part.
    model
        The model, where it is loaded already, with its weights as they were.

    Returns
    -------
    CodePairs
        With a problem instead of counts if the model cannot be run on a text.
    """
    from studentfloat.evaluate import load_text

    store = cache or ContentCache()
    chosen = text or load_text()
    keys = {
        name: content_key(
            code_pairs=_VERSION,
            model=[source.sha256, source.settings_sha256],
            text=chosen.sha256,
            sizes=[_LAYERS, _WINDOWS, _WINDOW_LENGTH],
            schemes=[_address(scheme) for scheme in pair],
        )
        for name, pair in schemes.items()
    }
    known = {name: store.get(key) for name, key in keys.items()}
    if any(found is None for found in known.values()):
        progress(0.0, f"codes that meet in {source.name}")
        try:
            layers = _entered_layers(model or _loaded(source), chosen)
        except StudentFloatError as error:
            return CodePairs(problem=str(error))
        for name, pair in schemes.items():
            if known[name] is None:
                progress(0.0, f"codes that meet in {source.name}: {name}")
                counts = _counts(layers, *pair)
                known[name] = {"counts": counts.tolist(), "layers": len(layers)}
                store.put(keys[name], known[name])
    layers_seen = max((int(found["layers"]) for found in known.values() if found), default=0)
    return CodePairs(
        {name: np.array(found["counts"]) for name, found in known.items() if found},
        f"{layers_seen} linear layers of {source.name} on {chosen.source}",
    )


def _address(scheme: Scheme) -> list[Any]:
    number_format = scheme.format
    return [
        number_format.bits,
        number_format.values,
        number_format.codes,
        scheme.block_size,
        scheme.scale_rule.name,
        scheme.scale_dtype_name,
    ]


def _loaded(source: ModelSource) -> LoadedModel:
    from studentfloat.models import load_model

    return load_model(source)


def _entered_layers(model: LoadedModel, text: EvaluationText) -> list[tuple[WeightSite, Tensor]]:
    """Some linear layers' weights, and what enters them, of shape ``(tokens, in_features)``."""
    import torch

    from studentfloat.evaluate import cut_windows
    from studentfloat.models import WeightKind, walk_weights

    linear = [
        site
        for site in walk_weights(model.module)[0]
        if site.kind in (WeightKind.LINEAR, WeightKind.TRANSPOSED_LINEAR)
    ]
    if not linear:
        raise DataError("it has no linear layers")
    # A stride that is no multiple of the layers in a block meets every kind of layer.
    chosen = linear[:: max(1, len(linear) // _LAYERS)][:_LAYERS]
    length = min(_WINDOW_LENGTH, model.longest_window or _WINDOW_LENGTH)
    windows = cut_windows(text, model, count=_WINDOWS, length=length)
    entered: dict[str, list[Tensor]] = {site.name: [] for site in chosen}
    modules = dict(model.module.named_modules())
    handles = [
        modules[site.name.removesuffix(".weight")].register_forward_pre_hook(
            lambda _, args, seen=entered[site.name]: seen.append(args[0].flatten(0, -2))
        )
        for site in chosen
    ]
    try:
        with torch.no_grad():
            for window in windows:
                _run(model, window[None])
    finally:
        for handle in handles:
            handle.remove()
    return [(site, torch.cat(entered[site.name])) for site in chosen if entered[site.name]]


def _run(model: LoadedModel, window: Tensor) -> None:
    two_sided = getattr(model.module.config, "is_encoder_decoder", False)
    model.module(input_ids=window, **({"decoder_input_ids": window} if two_sided else {}))


def _counts(
    layers: list[tuple[WeightSite, Tensor]], weights: Scheme, activations: Scheme
) -> npt.NDArray[np.float64]:
    from studentfloat.quantize import quantize
    from studentfloat.quantize.code_pairs import count_code_pairs

    total = np.zeros((1 << weights.format.bits, 1 << activations.format.bits))
    for site, entered in layers:
        matrix = site.matrix(site.parameter.detach())
        total += count_code_pairs(
            quantize(matrix, weights, name=site.name).codes,
            quantize(entered, activations, name=f"what enters {site.name}").codes,
            weight_bits=weights.format.bits,
            activation_bits=activations.format.bits,
        ).numpy()
    return total
