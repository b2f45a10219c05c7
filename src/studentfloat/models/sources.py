"""Find a model: embedded, a directory, a GGUF file, or a Hugging Face id."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from studentfloat.errors import (
    ConfigError,
    MissingDependencyError,
    ModelError,
    PickledWeightsError,
)
from studentfloat.models.cache import build_once, cache_directory, sha256_of, sha256_of_files
from studentfloat.models.safetensors_header import read_header
from studentfloat.models.side_files import decides_outputs, side_files
from studentfloat.models.stream import list_tensors, model_files
from studentfloat.untrusted import read_json, table

__all__ = ["ModelSource", "Trust", "find_model"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FLOAT8_CONVERSION = 1
_FLOAT8_CAUTION = (
    "This model's weights were dequantized from 8-bit floats: they lie on that format's grid."
)
_LAYERS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers"),
    *("encoder_layers", "decoder_layers", "depth", "num_encoder_layers"),
)
_FEW_LAYERS = 256
_STEMS = ("model.safetensors", "pytorch_model.bin")
# Weights in formats of other frameworks, which a snapshot from the hub does without.
_NOT_FETCHED = (
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "*.ot", "*.mlmodel"),
    *("*consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*", ".*"),
)


@dataclass(frozen=True)
class Trust:
    """What a checkpoint may do beyond giving numbers; nothing, by default.

    Attributes
    ----------
    pickle
        Load pickled weights, which can run any code.
    remote_code
        Run Python code that the model's repository brings.
    """

    pickle: bool = False
    remote_code: bool = False


@dataclass(frozen=True)
class ModelSource:
    """A model on disk, ready to load.

    Attributes
    ----------
    name
        As the user gave it.
    directory
        Holds ``config.json`` and the weights.
    description
        Where the weights come from, in words.
    cautions
        What to bear in mind with every result on this model.
    trust
        What loading it may do.
    """

    name: str
    directory: Path
    description: str
    cautions: tuple[str, ...] = ()
    trust: Trust = Trust()

    @property
    def weight_files(self) -> list[Path]:
        """The files that transformers would read: one, or the shards that the index names.

        ``model.safetensors``, else the shards of ``model.safetensors.index.json``; where
        pickles are trusted and there is neither, ``pytorch_model.bin`` or its shards. Other
        files are not part of the model, whatever they hold. Shards that are not there are
        left out.
        """
        for stem in _STEMS if self.trust.pickle else _STEMS[:1]:
            found = model_files(self.directory, stem)
            if found:
                return [file for file in found if file.is_file()]
        return []

    @cached_property
    def sha256(self) -> str:
        """Hash of the weight files."""
        return sha256_of_files(self.weight_files)

    @cached_property
    def settings_sha256(self) -> str:
        """Hash of configuration, tokenizer and the like: what else an output depends on."""
        total = hashlib.sha256()
        for file in side_files(self.directory, code=True):
            if decides_outputs(file):
                total.update(f"{file.as_posix()} {sha256_of(self.directory / file)}\n".encode())
        return total.hexdigest()

    @property
    def is_packed(self) -> bool:
        """Whether it is a packed model of ours."""
        from studentfloat.models.packed_files import METHOD

        return _quantization_method(self.config) == METHOD

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's ``config.json``."""
        return _read_config(self.directory)


def find_model(name: str, trust: Trust = Trust(), *, packed: bool = False) -> ModelSource:
    """Find a model and check that it is sound to load.

    Parameters
    ----------
    name
        "smollm2-135m" (embedded), a directory with safetensors, a ``.gguf`` file, or a
        Hugging Face id.
    trust
        What its loading may do.
    packed
        Whether a directory with a packed model of ours will do; it is opened and checked.

    Returns
    -------
    ModelSource
        GGUF files and checkpoints in 8-bit floats are dequantized into the cache, once.

    Raises
    ------
    ModelError
        If it is not there, is damaged (the message names the file), is quantized already,
        or wants a trust that was not given.
    """
    from studentfloat.models.embedded import (
        EMBEDDED_CAUTION,
        EMBEDDED_NAME,
        EMBEDDED_SOURCE,
        embedded_model,
    )

    if not name.strip():
        raise ConfigError("the model's name is empty: give a directory, a .gguf file or a hub id")
    path = Path(name).expanduser()
    if name == EMBEDDED_NAME and not path.exists():
        source = ModelSource(name, embedded_model(), EMBEDDED_SOURCE, (EMBEDDED_CAUTION,), trust)
    elif path.suffix.lower() == ".gguf":
        source = _from_gguf(name, path, trust)
    elif path.is_dir():
        source = ModelSource(name, path, f"directory {path.name}", (), trust)
    elif path.exists():
        raise ModelError(f"{name} is a file, but neither a model directory nor a .gguf file")
    else:
        source = _from_hub(name, trust)
    if packed and source.is_packed:
        return _checked_packed(source)
    source = _dense(source)
    _check(source)
    return source


def _dense(source: ModelSource) -> ModelSource:
    """A checkpoint in 8-bit floats dequantized; any other as it is, unless it is of codes."""
    from studentfloat.models.float8 import convert_float8, is_float8, refuse_codes

    shards = model_files(source.directory)
    if source.is_packed or not all(shard.is_file() for shard in shards):
        return source
    tensors, _ = list_tensors(shards)
    if _quantization_method(source.config) is None:
        refuse_codes(tensors, source.name)
    if not is_float8(tensors):
        return source
    _check_weights(source)
    what = f"{source.sha256[:12]}-{source.settings_sha256[:8]}-{_FLOAT8_CONVERSION}"
    target = cache_directory() / "models" / f"float8-{source.directory.name}-{what}"
    code = source.trust.remote_code
    directory = build_once(
        target, lambda out: convert_float8(shards, source.directory, out, source.config, code=code)
    )
    return ModelSource(
        source.name,
        directory,
        f"{source.description}, dequantized from 8-bit floats",
        (*source.cautions, _FLOAT8_CAUTION),
        source.trust,
    )


def _checked_packed(source: ModelSource) -> ModelSource:
    from studentfloat.models.packed_files import PackedCheckpoint

    _check_weights(source)
    PackedCheckpoint.open(source.directory)
    return replace(source, description=f"packed model {source.directory.name}")


def _from_gguf(name: str, path: Path, trust: Trust) -> ModelSource:
    from studentfloat.models.gguf import CONVERSION, convert_gguf, quantization_of_gguf

    if not path.is_file():
        raise ModelError(f"there is no file {name}")
    kinds = quantization_of_gguf(path)
    digest = sha256_of_files([path])
    target = cache_directory() / "models" / f"gguf-{path.stem}-{digest[:12]}-{CONVERSION}"
    directory = build_once(target, lambda out: convert_gguf(path, out))
    main = kinds.split(", ")[0]
    cautions: tuple[str, ...] = ()
    if main not in ("F32", "F16", "BF16"):
        cautions = (
            f"This model's weights were dequantized from {kinds}: they lie on that format's "
            "grid, and blocks that fall on it flatter formats like it.",
        )
    return ModelSource(
        name, directory, f"GGUF file {path.name} ({kinds}), dequantized", cautions, trust
    )


def _from_hub(name: str, trust: Trust) -> ModelSource:
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"there is no model {name!r}: neither a directory or .gguf file here nor a "
            "Hugging Face id (owner/name)"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra("huggingface_hub", "models") from error
    ignored = list(_NOT_FETCHED)
    if not trust.pickle:
        ignored += _PICKLES
    if not trust.remote_code:
        ignored.append("*.py")
    try:
        directory = snapshot_download(name, ignore_patterns=ignored)
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"model {name!r} is neither here as a directory nor in the Hugging Face cache, and "
            "the hub cannot be reached: go online once, or give a directory or a .gguf file"
        ) from error
    except (HfHubHTTPError, ValueError) as error:
        raise ModelError(
            f"the Hugging Face hub has no model {name!r} that can be read: "
            f"{' '.join(str(error).split())[:160]}"
        ) from error
    return ModelSource(name, Path(directory), f"Hugging Face hub, {name}", (), trust)


def _check(source: ModelSource) -> None:
    config = source.config
    method = _quantization_method(config)
    if method is not None:
        raise ModelError(
            f"model {source.name} is quantized already (by {method}): dequantize it first"
        )
    if "auto_map" in config and not source.trust.remote_code and not _is_builtin(config):
        raise ModelError(
            f"model {source.name} needs Python code from its own repository, which could do "
            "anything: pass --allow-remote-code-execution if you trust it"
        )
    _check_weights(source)


def _quantization_method(config: dict[str, Any]) -> str | None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    unknown = "an unknown method"
    if not isinstance(quantization, dict):
        return unknown
    return str(quantization.get("quant_method", unknown))


def _is_builtin(config: dict[str, Any]) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def _check_weights(source: ModelSource) -> None:
    stem = _STEMS[0]
    shards = model_files(source.directory, stem)
    if not shards:
        _explain_missing_weights(source)
        return
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(
            f"model {source.name} lacks {len(missing)} of {len(shards)} shards: {missing[0]}"
        )
    tensors = sum(len(read_header(shard)) for shard in shards)
    _check_layers(source, tensors)


def _check_layers(source: ModelSource, tensors: int) -> None:
    """Refuse more layers than tensors: building them would take memory and hours."""
    tables = [source.config, *(t for t in source.config.values() if isinstance(t, dict))]
    for key, value in ((key, given.get(key)) for given in tables for key in _LAYERS):
        # A few may share their weights, as ALBERT's do.
        if isinstance(value, int) and not 0 <= value <= max(tensors, _FEW_LAYERS):
            raise ModelError(
                f"model {source.name} has {value} as {key} and {tensors} tensors in its files: "
                "they do not belong together"
            )


def _explain_missing_weights(source: ModelSource) -> None:
    """Raise, unless the model has pickles and those are trusted."""
    pickles = [file for p in _PICKLES for file in _files(source.directory, p)]
    if pickles and not source.trust.pickle:
        raise PickledWeightsError(
            f"model {source.name} has pickled weights only ({pickles[0].name}), and "
            "unpickling can run any code: pass --allow-pickle-code-execution if you trust it"
        )
    if source.weight_files:
        return
    stem = _STEMS[0]
    wanted = f"neither {stem} nor {stem}.index.json"
    others = _files(source.directory, "*.safetensors")
    found = f"; {others[0].name} is not what transformers reads" if others else ""
    raise ModelError(f"model {source.name} has no weights: {wanted}{found}")


def _files(directory: Path, pattern: str) -> list[Path]:
    return sorted(file for file in directory.glob(pattern) if file.is_file())


def _read_config(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} is no model: it has no config.json")
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    # As transformers reads them: some of its configurations have Infinity.
    return table(read_json(file, error=ModelError, lenient=True), str(file), error=ModelError)
