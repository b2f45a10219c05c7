"""Find out what a foreign checkpoint is, and bring it in."""

from __future__ import annotations

from pathlib import Path

from studentfloat.errors import ConfigError, ModelError
from studentfloat.models.exchange.bitsandbytes_in import import_bitsandbytes, is_bitsandbytes
from studentfloat.models.exchange.gguf_in import import_gguf
from studentfloat.models.sources import ModelSource
from studentfloat.progress import Progress, silent
from studentfloat.records import PackedModel

__all__ = ["import_model"]


def import_model(name: str, directory: Path, progress: Progress = silent) -> PackedModel:
    """Make a packed checkpoint of one that another tool quantized.

    Parameters
    ----------
    name
        A directory with a bitsandbytes 4-bit checkpoint, or a ``.gguf`` file.
    directory
        Where to: new, empty, or that of the same run interrupted, which goes on.
    progress
        Told about every weight.

    Returns
    -------
    PackedModel
        Every weight dequantizes to the very numbers that the other tool makes of it.

    Raises
    ------
    ConfigError
        If it is not quantized by a tool that is read here.
    SchemeError
        If it holds what no scheme describes: the message names the reason and another way.
    ModelError
        If it is not there or damaged.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        source = ModelSource(name, path, f"directory {path.name}")
        if is_bitsandbytes(source.config):
            return import_bitsandbytes(source, directory, progress)
        quantization = source.config.get("quantization_config")
        if isinstance(quantization, dict):
            raise ConfigError(
                f"{name} is quantized by {quantization.get('quant_method', 'an unknown method')}, "
                "which is not read here: bitsandbytes NF4 and FP4 are"
            )
        raise ConfigError(f"{name} is not quantized: `studentfloat quantize` packs dense models")
    if not path.exists():
        raise ModelError(f"there is no directory or file {name}")
    if path.suffix.lower() == ".gguf":
        return import_gguf(path, directory, progress)
    raise ConfigError(f"{name} is neither a directory nor a .gguf file")
