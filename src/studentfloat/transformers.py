"""Teaches transformers to load and make packed models: import it once.

::

    import studentfloat.transformers
    model = AutoModelForCausalLM.from_pretrained("packed-directory")

or, to quantize while loading a dense checkpoint::

    config = StudentFloatConfig(format="sf4", block_size=64)
    model = AutoModelForCausalLM.from_pretrained("model", quantization_config=config)
"""

from __future__ import annotations

from studentfloat.errors import MissingDependencyError

try:
    from studentfloat.models.integration import (
        StudentFloatConfig,
        StudentFloatQuantizer,
        packed_kv_cache,
        register,
    )
except ModuleNotFoundError as error:
    if error.name in ("torch", "transformers"):
        raise MissingDependencyError.for_extra(str(error.name), "models") from None
    raise

__all__ = ["StudentFloatConfig", "StudentFloatQuantizer", "packed_kv_cache"]

register()
