"""What a calibrated method knows of a layer's inputs: sums over tokens, never the tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from studentfloat.errors import DataError

__all__ = ["InputStatistics"]


@dataclass(eq=False)
class InputStatistics:
    """Second moments, magnitudes and count of what a layer was fed with.

    Attributes
    ----------
    hessian
        Sum of ``x x^T``: float32 (float64 for float64 inputs), of shape ``(in_features,
        in_features)``; with one more axis in front for experts.
    magnitude, greatest
        Sum and maximum of ``|x|`` per channel: of shape ``(in_features,)`` (experts in front).
    tokens
        Count of inputs: int64, of shape ``()``, or ``(experts,)``.
    """

    hessian: Tensor
    magnitude: Tensor
    greatest: Tensor
    tokens: Tensor

    @classmethod
    def empty_for(cls, inputs: Tensor, *, experts: int | None = None) -> InputStatistics:
        """Of no inputs yet, for inputs like these."""
        lead, width = (() if experts is None else (experts,)), inputs.shape[-1]
        dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        return cls(
            inputs.new_zeros((*lead, width, width), dtype=dtype),
            inputs.new_zeros((*lead, width), dtype=dtype),
            inputs.new_zeros((*lead, width), dtype=dtype),
            inputs.new_zeros(lead, dtype=torch.int64),
        )

    def add(self, inputs: Tensor, expert: int | None = None) -> None:
        """Count inputs of shape ``(..., in_features)``: the last axis is channels."""
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).to(self.hessian.dtype)
        if not len(flat):
            return
        part = () if expert is None else expert
        self.hessian[part].addmm_(flat.T, flat)
        magnitudes = flat.abs()
        self.magnitude[part].add_(magnitudes.sum(dim=0))
        torch.maximum(self.greatest[part], magnitudes.amax(dim=0), out=self.greatest[part])
        self.tokens[part] += len(flat)

    def check(self, name: str) -> None:
        """Refuse sums that say nothing.

        Raises
        ------
        DataError
            If any is NaN or infinite; the message calls the layer `name`.
        """
        sums = (self.hessian, self.magnitude, self.greatest)
        if not all(bool(torch.isfinite(part).all()) for part in sums):
            raise DataError(
                f"the inputs of {name} hold NaN or infinity, or are so large that sums of their "
                "squares overflow: no calibrated method can be used on this model"
            )

    @property
    def count(self) -> int:
        """All inputs together."""
        return int(self.tokens.sum())

    @property
    def energy(self) -> Tensor:
        """Sum of squares per channel: of shape ``(in_features,)`` (experts in front)."""
        return self.hessian.diagonal(dim1=-2, dim2=-1)

    def scaled(self, scale: Tensor) -> InputStatistics:
        """Of the inputs divided by `scale`, of shape ``(in_features,)``."""
        return InputStatistics(
            self.hessian / scale / scale[:, None],
            self.magnitude / scale,
            self.greatest / scale,
            self.tokens,
        )

    def output_energy(self, weight: Tensor) -> float:
        """Squared norm of ``weight @ x`` summed over inputs, for (experts,) out, in."""
        products = weight.to(self.hessian.dtype) @ self.hessian
        return max(0.0, float((products * weight).sum(dtype=torch.float64)))
