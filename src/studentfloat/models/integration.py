"""The quantization method "studentfloat" for transformers: its configuration and quantizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from studentfloat.errors import ConfigError
from studentfloat.formats import Format
from studentfloat.kernels.packed_matrix import COMPUTE
from studentfloat.models.activations import ActivationScheme
from studentfloat.models.kv_cache import KVCacheReport, KVCacheScheme, quantized_kv_cache
from studentfloat.models.naming import converted_parts, match_packed, without_spared
from studentfloat.models.packed import modules as packed_in
from studentfloat.models.packed_files import (
    LAYOUT_KEYS,
    METHOD,
    Companions,
    parse_layout,
    write_layout,
)
from studentfloat.models.skeleton import share_as_stored
from studentfloat.models.stream import StoredTensor, list_tensors
from studentfloat.models.walk import WeightSite, walk_weights
from studentfloat.quantize.rounding.nearest import quantize
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight

__all__ = ["StudentFloatConfig", "StudentFloatQuantizer", "packed_kv_cache", "register"]

_log = logging.getLogger("studentfloat")


class StudentFloatConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """How transformers is to quantize a model while loading it, or how one is packed.

    Parameters
    ----------
    format
        A :class:`~studentfloat.formats.Format`, its name, or a ``.toml`` file.
    block_size
        Numbers that share a scale, "row" or "tensor".
    scale_rule, scale_dtype
        As for :class:`~studentfloat.quantize.Scheme`.
    embeddings, head
        Whether to quantize these too; where they are tied, either means both.
    modules_to_not_convert
        Modules to leave alone, with all inside of them: names, ends of names, or regular
        expressions, as transformers understands them; see
        :func:`~studentfloat.models.naming.without_spared`.
    dequantize
        On a packed checkpoint: give a dense model instead.
    compute
        Arithmetic of the native kernel: "float32", "bfloat16", or "int8", which rounds
        activations to 8 bits (W4A8, an error of about 1 %); by default the model's own type.
    activations, kv_cache
        Format, or its name, that inputs of packed linear layers are rounded to, one scale per
        token; and that the key-value cache is kept in, see
        :func:`~studentfloat.transformers.packed_kv_cache`.
    layout
        The keys that a packed checkpoint's ``config.json`` has instead; not given by hand.

    Raises
    ------
    ConfigError
        On an unknown key.
    SchemeError, FormatError
        On a scheme that cannot be.
    """

    def __init__(
        self,
        format: Format | str = "sf4",
        block_size: int | str = 128,
        scale_rule: str = "absmax",
        scale_dtype: Any = "bfloat16",
        *,
        embeddings: bool = False,
        head: bool = False,
        modules_to_not_convert: list[str] | None = None,
        dequantize: bool = False,
        compute: str | None = None,
        activations: Any = None,
        kv_cache: Any = None,
        quant_method: str = METHOD,
        **layout: Any,
    ) -> None:
        for key in layout:
            if key not in LAYOUT_KEYS:
                raise ConfigError(
                    f"quantization_config has {key!r}, which studentfloat does not know"
                )
        if quant_method != METHOD:
            raise ConfigError(f"quant_method {quant_method!r} is not {METHOD!r}")
        self.quant_method = METHOD
        self.dequantize = dequantize
        if compute is not None and compute not in COMPUTE:
            raise ConfigError(f"compute {compute!r}: one of {', '.join(COMPUTE)}")
        self.compute: Any = compute
        self.embeddings, self.head = embeddings, head
        self.modules_to_not_convert = list(modules_to_not_convert or [])
        self.layout: dict[str, Any] | None = None
        self.scheme: Scheme | None = None
        if layout:
            beside = {"activations": activations, "kv_cache": kv_cache}
            layout |= {key: value for key, value in beside.items() if value}
            self.layout = {"quant_method": METHOD, **layout}
            self.companions = Companions.from_json(self.layout)
            self.weights: dict[str, StoredWeight] = parse_layout(self.layout)
        else:
            self.weights = {}
            self.companions = Companions(_per_token(activations), _per_token(kv_cache))
            self.scheme = Scheme(
                format, block_size=block_size, scale_rule=scale_rule, scale_dtype=scale_dtype
            )
            if self.scheme.scale_rule.weighted:
                raise ConfigError(f"scale_rule {scale_rule!r} needs calibration")
        if dequantize and not hasattr(auto, "LOADING_ATTRIBUTES_CONFIG_TYPES"):
            raise ConfigError(
                "this version of transformers ignores dequantize=True for a packed checkpoint: "
                "load it without, then call model.dequantize()"
            )

    def get_loading_attributes(self) -> dict[str, Any]:
        """What may be changed when a packed checkpoint is loaded."""
        return {"dequantize": self.dequantize, "compute": self.compute}

    def to_dict(self) -> dict[str, Any]:
        """The ``quantization_config`` of a checkpoint; before one is loaded, the settings."""
        if self.layout is not None:
            return dict(self.layout)
        assert self.scheme is not None
        return {
            "quant_method": METHOD,
            "format": self.scheme.format_name,
            "block_size": self.scheme.block_size,
            "scale_rule": self.scheme.scale_rule.name,
            "scale_dtype": self.scheme.scale_dtype_name,
            "embeddings": self.embeddings,
            "head": self.head,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """As :meth:`to_dict`."""
        return self.to_dict()


class StudentFloatQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed weights into a model, from packed or from dense checkpoints."""

    requires_calibration = False
    quantization_config: StudentFloatConfig

    def __init__(self, quantization_config: StudentFloatConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._sites: dict[str, StoredWeight] = {}
        self._places: dict[str, tuple[WeightSite, torch.dtype]] = {}
        self._tied: dict[str, str] = {}
        self._conversions: list[Any] = []
        self._types: dict[str, torch.dtype] = {}

    def update_device_map(self, device_map: Any) -> Any:
        """Leave it: packed weights multiply wherever they are put."""
        return device_map

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter of the model is, or becomes, a packed weight."""
        return self._tied.get(param_name, param_name) in self._sites

    def get_quantize_ops(self) -> ConversionOps:
        """What quantizes a tensor as it is loaded."""
        return _QuantizeOnLoad(self)

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self.pre_quantized:
            self._sites, sites = match_packed(model, self.quantization_config.weights)
        else:
            scheme = self.quantization_config.scheme
            assert scheme is not None
            files = kwargs.get("checkpoint_files") or ()
            self._sites, sites = self._choose(model, scheme, files)
        held = {name: packed_in.at_its_holder(model, site) for name, site in sites.items()}
        self._sites = {held[name].name: stored for name, stored in self._sites.items()}
        sites = {site.name: site for site in held.values()}
        if not self.pre_quantized:
            self._tied = {tied: site.name for site in sites.values() for tied in site.tied}
        self._types = {n: p.dtype for n, p in model.named_parameters() if n not in self._sites}
        self._conversions = get_checkpoint_conversion_mapping(model.config.model_type) or []
        for name, stored in self._sites.items():
            site = sites[name]
            self._places[name] = (site, site.parameter.dtype)
            packed_in.declare(model, site, stored)
            if not self.pre_quantized:
                _expect_dense(model, (name, *site.tied), stored, site.parameter.dtype)
        if self.pre_quantized:
            packed_in.keep_types(model, self._places, self._sites)
        packed_in.shield(model, self._places, self._sites)
        return model

    def _choose(
        self, model: Any, scheme: Scheme, files: Sequence[str]
    ) -> tuple[dict[str, StoredWeight], dict[str, WeightSite]]:
        config = self.quantization_config
        share_as_stored(model, _tensors_of(files))
        found, skipped = walk_weights(model, embeddings=config.embeddings, head=config.head)
        chosen, sites = {}, {}
        for site in without_spared(model, found, config.modules_to_not_convert):
            stored = StoredWeight(
                scheme,
                tuple(site.parameter.shape),
                str(site.parameter.dtype).removeprefix("torch."),
                site.kind.orientation,
                method="rtn",
            )
            chosen[site.name], sites[site.name] = stored, site
        for skip in skipped:
            _log.info("%s is left as it is: %s", skip.name, skip.reason)
        return chosen, sites

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for name, parameter in model.named_parameters():
            # transformers 5.0 keeps the file's type for tensors that it renames.
            wanted = self._types.get(name, parameter.dtype)
            if parameter.is_floating_point() and parameter.dtype != wanted:
                parameter.data = parameter.data.to(wanted)
        packed_in.unshield(model)
        for name, (site, dtype) in self._places.items():
            packed_in.assemble(model, site, self._sites[name], dtype)
        self._set_arithmetic(model)
        if self.pre_quantized and self.quantization_config.dequantize:
            return self._dequantize(model, dtype=None)
        _say_what_is_slow(model)
        # Saved under the model's own names: undoing what joined single experts would split
        # codes, but not their scales.
        model._weight_conversions = []
        packed = packed_in.packed_weights(model)
        companions = self.quantization_config.companions.to_json()
        self.quantization_config.layout = {**write_layout(packed), **companions}
        return model

    def _set_arithmetic(self, model: Any) -> None:
        config = self.quantization_config
        activations = config.companions.activations
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        for tensor in packed_in.packed_tensors(model).values():
            tensor.packing.compute = config.compute
            if activations is not None and tensor is not getattr(head, "weight", None):
                tensor.packing.activations = ActivationScheme(activations)

    def get_state_dict_and_metadata(self, model: Any, *args: Any) -> Any:
        """What a saved model's files hold: the stored tensors of every packed weight."""
        return packed_in.flat_state(model), {}

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        packed_in.dense_weights(model, None if dtype is None else _dtype(dtype))
        tied = getattr(model, "all_tied_weights_keys", {})
        for name in [
            n for n in tied if n not in dict(model.named_parameters(remove_duplicate=False))
        ]:
            del tied[name]
        model.tie_weights()
        return model

    def update_weight_conversions(self, weight_conversions: Any, model: Any) -> Any:
        """Join packed tensors of single experts wherever the model joins the weights."""
        return [*weight_conversions, *self._conversions_of_parts(weight_conversions)]

    def get_weight_conversions(self) -> Any:
        """The same for versions of transformers that know no other hook."""
        if hasattr(HfQuantizer, "update_weight_conversions"):
            return []
        return self._conversions_of_parts(self._conversions)

    def _conversions_of_parts(self, conversions: Any) -> list[Any]:
        if not self.pre_quantized:
            return []
        names = self.quantization_config.weights
        return converted_parts(conversions, self._sites, names)

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Packed models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters on top can be trained; the packed weights stay as they are."""
        return True


def _say_what_is_slow(model: Any) -> None:
    """One line for each reason that linear layers have no kernel for."""
    slow: dict[str, list[str]] = {}
    tensors = packed_in.packed_tensors(model)
    for name, module in model.named_modules():
        tensor = tensors.get(f"{name}.weight")
        if tensor is None or isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd)):
            continue
        if tensor.packing.why_slow is not None:
            slow.setdefault(tensor.packing.why_slow, []).append(name)
    for reason, names in slow.items():
        _log.warning(
            "%d linear layers (%s first) dequantize their weight for every product, which is "
            "slow: no kernel takes %s",
            len(names),
            names[0],
            reason,
        )


class _QuantizeOnLoad(ConversionOps):  # type: ignore[misc]
    """Turns a dense tensor into the stored tensors of its quantized weight."""

    def __init__(self, quantizer: StudentFloatQuantizer) -> None:
        self._quantizer = quantizer

    @torch.no_grad()
    def convert(self, input_dict: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for given, value in input_dict.items():
            values = value[0] if isinstance(value, list) else value
            name = self._quantizer._tied.get(given, given)
            stored = self._quantizer._sites[name]
            matrix = stored.orientation.to_matrix(values)
            weight = QuantizedWeight(quantize(matrix, stored.scheme, name=name))
            result |= {name + suffix: tensor for suffix, tensor in weight.tensors().items()}
        return result


def _per_token(given: Format | Scheme | str | None) -> Scheme | None:
    if given is None or isinstance(given, Scheme):
        return given
    return Scheme.per_token(given)


@contextmanager
def packed_kv_cache(model: Any) -> Iterator[KVCacheReport]:
    """Keep the key-value cache in the format that a packed model names, within the block.

    One model at a time. Keys are rounded per channel, before rotary embedding where the
    architecture allows, values per token; recent tokens and the first ones stay whole.

    Raises
    ------
    ConfigError
        If the model names no such format.
    """
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    scheme = config.companions.kv_cache if isinstance(config, StudentFloatConfig) else None
    if scheme is None:
        raise ConfigError("the model names no format for its key-value cache (--kv)")
    with quantized_kv_cache(model, KVCacheScheme(scheme)) as report:
        yield report


def register() -> None:
    """Make "studentfloat" known to transformers; again does nothing."""
    if METHOD not in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        auto.register_quantization_config(METHOD)(StudentFloatConfig)
    if METHOD not in auto.AUTO_QUANTIZER_MAPPING:
        auto.register_quantizer(METHOD)(StudentFloatQuantizer)
    # Without this `dequantize=True` on a packed checkpoint would be ignored.
    known = getattr(auto, "LOADING_ATTRIBUTES_CONFIG_TYPES", None)
    if known is not None and StudentFloatConfig not in known:
        auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*known, StudentFloatConfig)


def _dtype(given: Any) -> torch.dtype:
    """A torch type; configurations hold its name where a model was saved before."""
    found = getattr(torch, given) if isinstance(given, str) else given
    return found if isinstance(found, torch.dtype) else torch.get_default_dtype()


def _expect_dense(
    model: Any, names: tuple[str, ...], stored: StoredWeight, dtype: torch.dtype
) -> None:
    """Let the loader see a dense parameter, or it would cast weights to bytes on the way."""
    for name in names:
        module_name, _, parameter = name.rpartition(".")
        empty = torch.empty(stored.shape, dtype=dtype, device="meta")
        model.get_submodule(module_name)._parameters[parameter] = nn.Parameter(
            empty, requires_grad=False
        )


def _tensors_of(files: Sequence[str]) -> list[StoredTensor]:
    """What a dense checkpoint's shards hold; nothing is known of other kinds of files."""
    shards = [Path(file) for file in files if str(file).endswith(".safetensors")]
    return list_tensors(shards)[0]
