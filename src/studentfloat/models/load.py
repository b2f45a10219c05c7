"""Load a model and its tokenizer, in float32 on the CPU by default."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from studentfloat.errors import MissingDependencyError, ModelError
from studentfloat.models.quiet import quiet_transformers
from studentfloat.models.sources import ModelSource

__all__ = ["LoadedModel", "ModelKind", "kind_of", "load_model", "load_tokenizer"]


class ModelKind(Enum):
    """What a model gives for a text, which decides how its quality is measured."""

    CAUSAL = "causal language model"
    MASKED = "masked language model"
    ENCODER = "encoder"
    OTHER = "model that takes no plain text"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer (None where it has none), and what it is."""

    source: ModelSource
    module: torch.nn.Module
    tokenizer: Any | None
    kind: ModelKind

    @property
    def longest_window(self) -> int | None:
        """Most tokens that the model takes at once, None where it sets no bound."""
        config: Any = self.module.config
        limit = getattr(config, "max_position_embeddings", None)
        limit = limit or getattr(config, "n_positions", None)
        if not limit:
            return None
        # RoBERTa and its kin count positions from the padding token's index on.
        table = _position_table(self.module)
        reserved = 0 if table is None or table.padding_idx is None else table.padding_idx + 1
        return int(limit) - reserved


def _position_table(module: torch.nn.Module) -> torch.nn.Embedding | None:
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return part
    return None


def load_model(
    source: ModelSource,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    tokenizer: bool = True,
    classifier: bool = False,
) -> LoadedModel:
    """Load a model that was found.

    Parameters
    ----------
    source
        From :func:`~studentfloat.models.find_model`.
    dtype, device
        Of the weights.
    tokenizer
        Whether to load that too.
    classifier
        Load an image classifier with its classification head, which is left out otherwise.

    Raises
    ------
    ModelError
        If transformers cannot load it, or weights are missing from the checkpoint.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("transformers", "models") from error
    kind = kind_of(source.config)
    automatic = {
        ModelKind.CAUSAL: transformers.AutoModelForCausalLM,
        ModelKind.MASKED: transformers.AutoModelForMaskedLM,
    }.get(kind, transformers.AutoModel)
    if classifier and _classifies_images(source.config):
        automatic = transformers.AutoModelForImageClassification
    if source.is_packed:
        from studentfloat.models.integration import register

        register()
    try:
        with quiet_transformers():
            module, report = automatic.from_pretrained(
                source.directory,
                dtype=dtype,
                trust_remote_code=source.trust.remote_code,
                use_safetensors=None if source.trust.pickle else True,
                output_loading_info=True,
                local_files_only=True,
            )
            its_tokenizer = load_tokenizer(source) if tokenizer else None
    except ModelError:
        raise
    except Exception as error:
        # transformers raises whatever it meets; the user needs the model and the reason.
        raise ModelError(
            f"cannot load model {source.name}: {' '.join(str(error).split())[:240]}"
        ) from error
    _check_complete(source, report, kind)
    return LoadedModel(source, module.eval().to(device), its_tokenizer, kind)


def kind_of(config: dict[str, Any]) -> ModelKind:
    """What a model is, by its configuration."""
    architectures = config.get("architectures")
    named = isinstance(architectures, list) and bool(architectures)
    architecture = str(architectures[0] or "") if named else ""  # type: ignore[index]
    if config.get("is_encoder_decoder") or "vision_config" in config or "patch_size" in config:
        return ModelKind.OTHER
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return ModelKind.CAUSAL
    if architecture.endswith("ForMaskedLM"):
        return ModelKind.MASKED
    return ModelKind.ENCODER if "vocab_size" in config else ModelKind.OTHER


def _classifies_images(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures") or [""]
    return str(architectures[0]).endswith("ForImageClassification")


def load_tokenizer(source: ModelSource) -> Any | None:
    """A model's tokenizer, None where it has none."""
    from transformers import AutoTokenizer

    if not any(source.directory.glob("tokenizer*")) and not any(source.directory.glob("vocab*")):
        return None
    return AutoTokenizer.from_pretrained(
        source.directory, trust_remote_code=source.trust.remote_code, local_files_only=True
    )


def _check_complete(source: ModelSource, report: dict[str, Any], kind: ModelKind) -> None:
    missing = sorted(report.get("missing_keys", ()))
    if kind in (ModelKind.ENCODER, ModelKind.OTHER):
        # A pooling head that the checkpoint does not bring is not part of what is measured.
        missing = [name for name in missing if not name.startswith("pooler.")]
    mismatched = sorted(str(name) for name in report.get("mismatched_keys", ()))
    if missing or mismatched:
        name = (missing or mismatched)[0]
        raise ModelError(
            f"the checkpoint of {source.name} does not fit its configuration: "
            f"{len(missing)} weights are missing and {len(mismatched)} have another shape, "
            f"the first is {name}"
        )
