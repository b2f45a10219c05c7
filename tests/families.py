"""A small random model of every family that transformers knows, from its own list.

``names()`` lists the families (types of model), ``build(name)`` makes one, ``saved(name)`` is a
directory that holds it. Sizes are cut down by the names of a configuration's fields; a family for
which that does not do has a line in `CHANGES`, and one that cannot be made has its reason in
`LEFT_OUT`. Everything is made once for all tests of a run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto as lists
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from tests.families_left_out import CHANGES, LEFT_OUT

__all__ = ["CHANGES", "LEFT_OUT", "Family", "build", "names", "saved"]

VOCABULARY = 120

# The first list that has a family says which of its classes is made.
_LISTS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "MASKED_LM",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "IMAGE_TO_IMAGE",
    "TIME_SERIES_PREDICTION",
)

# By a pattern of the whole field's name, what it becomes. The first that fits counts.
_SIZES: tuple[tuple[str, Any], ...] = (
    (r"chunk_size_feed_forward|pretraining_tp|first_k_dense_replace|max_depth", None),
    (r".*_(rate|ratio|factor)", None),
    (r"vocab_size|.*_vocab_size|vocab_size_.*", VOCABULARY),
    (r"type_vocab_size", 2),
    (r"codebook_size|audio_vocab_size", 64),
    (r"head_dim|attention_head_dim|d_kv|dim_head|kv_channels|global_head_dim|swa_head_dim", 8),
    (r"qk_rope_head_dim|qk_nope_head_dim|v_head_dim|rotary_dim|query_pre_attn_scalar", 8),
    (r"linear_(key|value)_head_dim|linear_head_dim|index_head_dim|mamba_(d_head|head_dim)", 8),
    (r"qk_head_dim|q_lora_rank|kv_lora_rank|o_lora_rank|d_state|mamba_d_state|state_size", 16),
    (r"linear_num_(key|value)_heads|linear_num_heads|index_n_heads", 4),
    (r"mamba_(n|num)_heads|n_mamba_heads", 8),
    (r"ssm_state_size|time_step_rank|mamba_dt_rank", 8),
    (r"n_groups|mamba_n_groups|n_group|topk_group|num_expert_groups|n_limited_groups", 1),
    (r"(num_|swa_num_)?(key_value_heads|kv_heads|num_kv_heads)", "kv"),
    (r".*(num_attention_heads|num_heads|attention_heads)|n_heads?|num_head", 4),
    (r"num_.*experts_per_(tok|token)|moe_topk|top_k_experts|moe_k|num_selects|top_k", 2),
    (r"(num|n)_shared_experts|moe_num_shared_experts", 1),
    (r"(.*_)?(num|n)_(local_|routed_)?experts|moe_num_experts|num_local_experts", 4),
    (r"moe_intermediate_size|expert_ffn_hidden_size|ffn_hidden_size_moe", 24),
    (r"shared_expert_intermediate_size|moe_shared_expert_intermediate_size", 24),
    (r"hidden_size_per_layer_input|index_topk", 8),
    (r"(.*_)?(intermediate_size|ffn_dim|ffn_hidden_size|mlp_dim|d_ff|n_inner|dff)", 48),
    (r"(.*_)?(hidden_size|d_model|n_embd|embed_dim|dim_model|hidden_dim|d_embed|lru_width)", 32),
    (r"embedding_size|projection_dim|proj_dim|word_embed_proj_dim|emb_dim|dim", 32),
    (r"projection_hidden_size|text_hidden_size|encoder_hidden_size|out_hidden_size", 32),
    (r"(num_)?(hidden_|encoder_|decoder_)?layers?|n_layers?|depth|num_blocks", "layers"),
    (r".*num_hidden_layers|num_(encoder|decoder)_layers|.*_depth", 2),
    (r"max_position_embeddings|n_positions|max_seq_len|block_size|n_ctx", 64),
    (r"max_(source|target)_positions|max_length|max_text_len|context_length", 64),
    (r"sliding_window|sliding_window_size|local_attention|attention_window", 16),
    (r"image_size|img_size|pretrain_image_size|input_image_size|resolution", 32),
    (r"patch_size|encoder_stride", 8),
    (r"num_mel_bins|input_feat_per_channel|conv_channels|context_size", 16),
    (r"window_size|num_groups", 4),
    (r"upsample_groups", 32),
    (r"num_kv_shared_layers", 0),
    (r"num_queries", 6),
    (r"conv_dim|tdnn_dim|backbone_out_channels|decoder_in_channels", "same"),
    (r"num_conv_pos_embeddings|conv_depthwise_kernel_size", 5),
    (r"num_conv_pos_embedding_groups", 2),
    (r"codevector_dim|proj_codevector_dim|classifier_proj_size|output_hidden_size", 32),
    (r"xvector_output_dim|num_negatives|output_dim|num_codevectors_per_group", 16),
    (r"depths|blocks_per_stage|num_layers_per_stage|layers_per_stage|decoder_depths", "ones"),
    (r"hidden_sizes|embed_dims|embed_dim|encoder_hidden_sizes|embed_dim_per_stage", "growing"),
    (r"decoder_hidden_sizes|neck_hidden_sizes|fusion_hidden_size|auxiliary_channels", 16),
)
_WHERE_NONE = {
    **{"head_dim": 8, "num_key_value_heads": 4, "num_experts_per_tok": 2},
    "vocab_size": VOCABULARY,
}
_PATTERNS = tuple((re.compile(pattern), value) for pattern, value in _SIZES)
_TOKEN = re.compile(r".*token_(id|index|ids)$|.*_token$|token_index")


@dataclass(frozen=True, eq=False)
class Family:
    """A small model, and what its forward takes.

    Attributes
    ----------
    model
        In float32 and evaluation mode; not to be changed.
    inputs
        Keyword arguments of its forward.
    """

    model: nn.Module
    inputs: Mapping[str, Any]


def names() -> list[str]:
    """Every family that has a class of its own in one of transformers' lists of models."""
    found: dict[str, str] = {}
    for name in CONFIG_MAPPING_NAMES:
        if (kind := _class_name(name)) is not None:
            found.setdefault(kind, name)
    return sorted(name for name in found.values() if name not in LEFT_OUT)


@functools.cache
def build(name: str) -> Family:
    """The family's small model, its weights drawn from a fixed seed."""
    kind = getattr(transformers, str(_class_name(name)))
    torch.manual_seed(3)
    with _quietly():
        model = kind(_own(small_config(name), kind)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not bool(torch.isfinite(parameter).all()):
                    parameter.copy_(torch.randn_like(parameter))
                elif parameter.dim() > 1 and float(parameter.std()) < 0.1:
                    # Wide enough for a wrong weight to be seen in what comes out.
                    parameter.mul_(4)
        return Family(model, _inputs(model))


@functools.cache
def saved(name: str) -> Path:
    """A directory that holds the family's small model."""
    where = Path(_place().name) / name
    with _quietly():
        build(name).model.save_pretrained(where)
    return where


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="families-")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)


def _class_name(name: str) -> str | None:
    for which in (*(f"MODEL_FOR_{kind}_MAPPING_NAMES" for kind in _LISTS), "MODEL_MAPPING_NAMES"):
        found = getattr(lists, which, {}).get(name)
        if found is not None:
            return str(found if isinstance(found, str) else found[0])
    return None


def _own(config: PreTrainedConfig, kind: Any) -> PreTrainedConfig:
    """The configuration, or the part of it, that a class of models takes."""
    wanted = getattr(kind, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return config
    parts = (v for v in vars(config).values() if isinstance(v, wanted))
    return next(parts, config)


def small_config(name: str) -> PreTrainedConfig:
    """The family's configuration with everything small."""
    return _small(CONFIG_MAPPING[name], CHANGES.get(name, {}))


def _small(
    kind: type[PreTrainedConfig],
    changes: Mapping[str, Any],
    default: PreTrainedConfig | None = None,
) -> PreTrainedConfig:
    """A small configuration of a class; `changes` may name fields of parts as ``part.field``."""
    default = kind() if default is None else default
    fields = dict(vars(default))
    picked = _layers_to_keep(fields)
    given: dict[str, Any] = {}
    for field, value in fields.items():
        if field.startswith("_"):
            continue
        if isinstance(value, PreTrainedConfig):
            begin = f"{field}."
            own = {k.removeprefix(begin): v for k, v in changes.items() if k.startswith(begin)}
            given[field] = _small(type(value), own, value)
        elif picked and isinstance(value, (list, tuple)) and len(value) == _depth(fields):
            given[field] = [value[i] for i in picked]
        else:
            new = _smaller(field, value, fields, len(picked) or 2)
            if new is not None:
                given[field] = new
    given |= {k: v for k, v in changes.items() if "." not in k}
    try:
        return kind(**given)
    except (TypeError, AttributeError):
        # Some take their parts as plain data alone.
        plain = {k: v.to_dict() for k, v in given.items() if isinstance(v, PreTrainedConfig)}
        return kind(**given | plain)


def _smaller(field: str, value: Any, fields: Mapping[str, Any], layers: int) -> Any:
    """What a field becomes, None where it stays."""
    if value is None:
        return _WHERE_NONE.get(field)
    if isinstance(value, bool):
        return None
    if isinstance(value, dict):
        return _rotary(value, fields)
    if _TOKEN.match(field):
        return _token(value)
    size = next((new for pattern, new in _PATTERNS if pattern.fullmatch(field)), None)
    if size is None:
        return None
    many = isinstance(value, (list, tuple))
    if size == "layers":
        return ([1] * len(value)) if many else (layers if isinstance(value, int) else None)
    if size == "kv":
        heads = fields.get("num_attention_heads", fields.get("n_head"))
        return value if value == 1 else 4 if value == heads else 2
    if size == "same":
        return type(value)([16] * len(value)) if many else 16
    if size == "ones":
        return type(value)([1] * len(value)) if many else 1
    if size == "growing":
        return type(value)(8 * (i + 1) for i in range(len(value))) if many else 32
    if many:
        plain = all(isinstance(one, int) for one in value)
        heads = "heads" in field
        return type(value)([size if heads else min(size, one) for one in value]) if plain else None
    return min(type(value)(size), value) if isinstance(value, (int, float)) and value > 0 else None


def _rotary(value: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Parameters of rotary embeddings whose sections fit a head of 8 numbers."""
    if any(isinstance(inner, dict) for inner in value.values()):
        return {
            k: (_rotary(v, fields) or v) if isinstance(v, dict) else v for k, v in value.items()
        }
    if not isinstance(value.get("mrope_section"), (list, tuple)):
        return None
    half = int(4 * value.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0)))
    return {**value, "mrope_section": {4: [2, 1, 1], 2: [1, 1, 0]}.get(half, [1, 0, 0])}


def _token(value: Any) -> Any:
    """An identifier of a token that the small vocabulary has."""
    if isinstance(value, int):
        return value if value < VOCABULARY // 2 else 60 + value % 50
    if isinstance(value, (list, tuple)) and all(isinstance(one, int) for one in value):
        return type(value)(_token(one) for one in value)
    return None


def _depth(fields: Mapping[str, Any]) -> int | None:
    found = [fields.get(n) for n in ("num_hidden_layers", "num_layers", "n_layer", "n_layers")]
    return next((n for n in found if isinstance(n, int)), None)


def _layers_to_keep(fields: Mapping[str, Any]) -> list[int]:
    """One layer of each kind, where a configuration lists what each layer is."""
    depth = _depth(fields)
    told = [
        value
        for value in fields.values()
        if isinstance(value, (list, tuple))
        and depth
        and len(value) == depth > 3
        and all(isinstance(one, str) for one in value)
    ]
    if not told:
        return []
    kinds: dict[Any, int] = {}
    for index, kind in enumerate(zip(*told, strict=True)):
        kinds.setdefault(kind, index)
    kept = sorted(kinds.values())[:4]
    return kept if len(kept) > 1 else [0, 1]


def _inputs(model: nn.Module) -> dict[str, Any]:
    """Arguments that the model's forward runs on."""
    config: Any = model.config
    draw = torch.Generator().manual_seed(5)
    names = list(inspect.signature(model.forward).parameters)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    most = min(size if isinstance(size, int) else VOCABULARY, 60)
    tokens = torch.randint(5, max(6, most), (2, 12), generator=draw)
    vision = getattr(config, "vision_config", config)
    image = getattr(vision, "image_size", 32)
    sides = tuple(image) if isinstance(image, (list, tuple)) else (image, image)
    channels = getattr(vision, "num_channels", getattr(vision, "in_channels", 3))
    channels = channels if isinstance(channels, int) else 3
    bins = getattr(config, "num_mel_bins", getattr(config, "feature_size", 16))
    frames = getattr(config, "num_frames", 2)
    offers: dict[str, tuple[Tensor, ...]] = {
        "input_ids": (tokens,),
        "decoder_input_ids": (tokens[:, :5],),
        "attention_mask": (torch.ones_like(tokens),),
        "pixel_values": (
            torch.randn(2, channels, *sides, generator=draw),
            torch.randn(2, frames, channels, *sides, generator=draw),
            _patches(vision, draw),
        ),
        "pixel_values_videos": (torch.randn(2, frames, channels, *sides, generator=draw),),
        "input_features": (
            torch.randn(2, bins, 2 * getattr(config, "max_source_positions", 32), generator=draw),
            torch.randn(2, 64, bins, generator=draw),
        ),
        "input_values": (
            torch.randn(2, 2000, generator=draw),
            torch.randn(2, getattr(config, "max_length", 64), bins, generator=draw),
            torch.randn(2, 1, 2000, generator=draw),
        ),
        "hidden_states": (_patches(vision, draw),),
        "grid_thw": (torch.tensor([[1, 4, 4]]),),
        "image_grid_thw": (torch.tensor([[1, 4, 4]]),),
        "past_values": (
            torch.randn(
                2,
                getattr(config, "context_length", 32),
                getattr(config, "num_input_channels", 1),
                generator=draw,
            ),
        ),
        "bbox": (torch.randint(0, 30, (2, 12, 4), generator=draw),),
    }
    tries = (
        ("input_ids",),
        ("input_ids", "decoder_input_ids"),
        ("pixel_values",),
        ("input_values",),
        ("input_features",),
        ("input_features", "decoder_input_ids"),
        ("input_values", "decoder_input_ids"),
        ("input_ids", "pixel_values"),
        ("input_ids", "input_features"),
        ("input_ids", "input_values"),
        ("input_ids", "bbox"),
        ("input_ids", "pixel_values", "decoder_input_ids"),
        ("pixel_values", "decoder_input_ids"),
        ("pixel_values_videos",),
        ("hidden_states", "grid_thw"),
        ("pixel_values", "grid_thw"),
        ("pixel_values", "image_grid_thw"),
        ("past_values",),
    )
    mains = [n for n in names if n in offers]
    errors = []
    for wanted in tries:
        if not set(wanted) <= set(names):
            continue
        if wanted == ("input_ids",) and "decoder_input_ids" in mains:
            continue
        for number in range(max(len(offers[n]) for n in wanted)):
            given: dict[str, Any] = {n: offers[n][number % len(offers[n])] for n in wanted}
            if "input_ids" in given and "attention_mask" in names:
                given["attention_mask"] = offers["attention_mask"][0]
            try:
                with torch.no_grad():
                    model(**given)
            except Exception as error:
                errors.append(f"{', '.join(wanted)}: {type(error).__name__}: {error}"[:200])
            else:
                return given
    raise RuntimeError("; ".join(errors) or f"nothing is known to give to {names}")


def _patches(vision: Any, draw: torch.Generator) -> Tensor:
    """Sixteen patches of an image, flat, as the newer vision towers take them."""
    side = getattr(vision, "patch_size", 8)
    deep = getattr(vision, "temporal_patch_size", 1)
    channels = getattr(vision, "in_channels", getattr(vision, "num_channels", 3))
    if not all(isinstance(n, int) for n in (side, deep, channels)):
        return torch.zeros(1)
    return torch.randn(16, channels * deep * side * side, generator=draw)
