"""What every part of a weight says about itself: in a file, in memory, in a product."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from studentfloat.errors import ModelError
from studentfloat.kernels.corrections import MatrixCorrection
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.scheme import ROW, TENSOR, Scheme

if TYPE_CHECKING:
    from studentfloat.quantize.scheme_json import LayoutTables
    from studentfloat.quantize.tensor import QuantizedTensor

__all__ = [
    "CodesPartSpec",
    "Correction",
    "InputTransform",
    "InputTransformSpec",
    "MatrixSpec",
    "Part",
    "PartOfWeightSpec",
    "PartSpec",
    "RowReader",
    "TensorSpec",
]

RowReader = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TensorSpec:
    """One plain tensor in a file: its type and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bits(self) -> int:
        """All its bits."""
        return 8 * math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class MatrixSpec:
    """The matrix that a weight's parts make together.

    Attributes
    ----------
    shape
        With the summed-up axis last.
    scheme
        Of its codes.
    dtype
        That it had before quantization.
    """

    shape: tuple[int, ...]
    scheme: Scheme
    dtype: torch.dtype = torch.float32

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def row_length(self) -> int:
        """Numbers in a row of codes: all for one scale, else those along the blocks' axis."""
        scheme = self.scheme
        if scheme.block_size == TENSOR:
            return self.count
        if not -len(self.shape) <= scheme.axis < len(self.shape):
            raise ModelError(f"axis {scheme.axis} is out of range for shape {list(self.shape)}")
        return self.shape[scheme.axis]

    @property
    def rows(self) -> int:
        """Rows of codes."""
        return self.count // self.row_length

    @property
    def blocks(self) -> int:
        """Blocks in a row."""
        size = self.scheme.block_size
        return 1 if size in (ROW, TENSOR) else -(-self.row_length // int(size))

    @property
    def blocks_run_along_rows(self) -> bool:
        """Whether rows of codes are rows of the matrix, so that rows can be taken out."""
        last = len(self.shape) - 1
        return self.scheme.block_size != TENSOR and self.scheme.axis % len(self.shape) == last

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes before the packed one: those of the matrix, or one of rows where blocks run else."""
        if len(self.shape) > 1 and self.blocks_run_along_rows:
            return self.shape[:-1]
        return (self.rows,)


class PartSpec(ABC):
    """What a file says of a part besides its tensors: a value, hashable.

    The part's numbers are a :class:`Part`, or lie in the codes' own
    :class:`~studentfloat.quantize.QuantizedTensor` (:class:`CodesPartSpec`).
    """

    kind: ClassVar[str]
    """Its name in files."""

    @abstractmethod
    def tensors(self, matrix: MatrixSpec) -> dict[str, TensorSpec]:
        """Type and shape of each stored tensor, by the suffix that its name has."""

    @abstractmethod
    def to_json(self, tables: LayoutTables) -> dict[str, Any]:
        """As JSON data, its kind aside; schemes are entered into `tables`."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: dict[str, Any], tables: LayoutTables, where: str) -> Self:
        """Read what :meth:`to_json` made.

        Raises
        ------
        ModelError
            On anything else; the message begins with `where`.
        """

    def beyond_blocks(self, matrix: MatrixSpec) -> str | None:
        """What it makes of a weight besides values times block scales, as a verb phrase.

        Formats of other tools carry such weights only. None where it is nothing more.
        """
        return None

    def without_kernel(self, matrix: MatrixSpec) -> str | None:
        """What no kernel multiplies by, as a noun phrase; None where one does."""
        return None


class CodesPartSpec(PartSpec):
    """A part whose numbers lie in the :class:`QuantizedTensor` of the weight's codes."""

    @classmethod
    @abstractmethod
    def of(cls, tensor: QuantizedTensor) -> Self | None:
        """Describe the part of a tensor; None where it has none."""

    @abstractmethod
    def take(self, tensor: QuantizedTensor) -> dict[str, Tensor]:
        """The stored tensors, as :meth:`tensors` describes them."""

    @abstractmethod
    def fields(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """What of a :class:`QuantizedTensor` the stored tensors are, by attribute."""

    @abstractmethod
    def check(self, tensor: QuantizedTensor, name: str) -> None:
        """Check numbers; types, shapes and finiteness are known to be right.

        Raises
        ------
        ModelError
            The message begins with `name`.
        """


class PartOfWeightSpec(PartSpec):
    """A part with numbers of its own."""

    @abstractmethod
    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> Part:
        """Put the stored tensors together; numbers are not looked at."""


class InputTransformSpec(PartOfWeightSpec):
    """A part that changes the inputs of the matrix."""

    @abstractmethod
    def assemble(self, matrix: MatrixSpec, tensors: Mapping[str, Tensor]) -> InputTransform:
        """As for :class:`PartOfWeightSpec`."""


class Part(ABC):
    """The numbers of a part: what it adds to the codes, or does to the inputs.

    `shape` is everywhere that of the weight's matrix, ``(..., out_features, in_features)``.
    """

    kind: ClassVar[str]
    """That of its :attr:`spec`."""

    @property
    @abstractmethod
    def spec(self) -> PartOfWeightSpec:
        """What describes it in a file.

        Raises
        ------
        ModelError
            If no file can hold it.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors as they are stored, by suffix."""

    @property
    def bits(self) -> int:
        """All bits stored."""
        return sum(8 * t.numel() * t.element_size() for t in self.tensors().values())

    @abstractmethod
    def fit(self, shape: tuple[int, ...]) -> None:
        """Refuse a matrix of a shape that it does not belong to.

        Raises
        ------
        SchemeError
            With both shapes.
        """

    @abstractmethod
    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Check numbers; as for :meth:`CodesPartSpec.check`."""

    @abstractmethod
    def rows(self, indices: Tensor, shape: tuple[int, ...]) -> Self:
        """The same part of some rows of a matrix: `indices` is int64 of shape ``(n,)``."""

    @abstractmethod
    def member(self, number: int, shape: tuple[int, ...]) -> Self:
        """The same part of one matrix of a weight of shape ``(count, out, in)``."""

    @abstractmethod
    def apply(self, weight: Tensor) -> Tensor:
        """The dense matrix with this part, given that of the parts before it."""


class Correction(Part):
    """A part that changes the numbers of the matrix."""

    @abstractmethod
    def kernel(self, before: RowReader, shape: tuple[int, int]) -> MatrixCorrection:
        """What is added to the product with the parts before it.

        Parameters
        ----------
        before
            Gives rows of the matrix that those make, in float32.
        shape
            Of the matrix.
        """


class InputTransform(Part):
    """A part that changes what the matrix is multiplied by; :meth:`apply` folds it in."""

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Inputs, of shape ``(..., in_features)``, as the matrix takes them."""

    @abstractmethod
    def undo(self, x: Tensor) -> Tensor:
        """The way back."""

    @abstractmethod
    def absorb(self, weight: Tensor) -> Tensor:
        """The matrix that transformed inputs are multiplied by: :meth:`apply` backwards."""

    @abstractmethod
    def statistics(self, inputs: InputStatistics) -> InputStatistics:
        """What is known of transformed inputs."""
