"""Options of methods, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studentfloat.errors import SchemeError

__all__ = ["GPTQ_ORDERS", "GPTQOptions"]

Order = Literal["blocks", "columns", "none"]
GPTQ_ORDERS: tuple[Order, ...] = ("blocks", "columns", "none")


@dataclass(frozen=True)
class GPTQOptions:
    """How GPTQ goes about it.

    Attributes
    ----------
    damping
        Added to the Hessian's diagonal, as a share of that diagonal's mean. Where the
        factorization fails all the same it is raised tenfold, and the result says so.
    order
        "blocks": scheme blocks in descending order of their activation energy, and
        columns within them too; scales still come from updated weights. "columns": all
        columns in descending order; scales then come from the original weights, since a
        block's columns are no longer rounded together. "none": as they stand.
    static_scales
        Take scales from the original weights in any order. What the scheme forces, where
        blocks are rows or scales are quantized together, happens without it.
    """

    damping: float = 0.01
    order: Order = "blocks"
    static_scales: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise SchemeError(f"damping {self.damping}: a share above 0, at most 1")
        if self.order not in GPTQ_ORDERS:
            raise SchemeError(f"GPTQ order {self.order!r}: one of {', '.join(GPTQ_ORDERS)}")
