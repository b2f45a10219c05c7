"""Quantized checkpoints of other tools in, and packed ones out to other tools.

Codes and scales are carried over as they are, never dequantized and rounded again; what a
route cannot carry exactly it refuses, with the reason and the nearest route that can.
"""

from __future__ import annotations

from studentfloat.models.exchange.incoming import import_model
from studentfloat.models.exchange.outgoing import EXPORTS, Export, export_model

__all__ = ["EXPORTS", "Export", "export_model", "import_model"]
