"""Layers that multiply by packed weights: linear, embedding, fused experts.

Their parameters (codes) and buffers (scales, tables) are the stored tensors themselves, named
as in the checkpoint, so a model made of them loads, saves, moves and offloads like any other.
Weights are frozen; gradients flow to the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from studentfloat.errors import ModelError
from studentfloat.kernels import PackedMatrix
from studentfloat.kernels.packed_matrix import Compute
from studentfloat.models import operators
from studentfloat.models.activations import ActivationScheme
from studentfloat.models.walk import WeightKind, WeightSite
from studentfloat.quantize.orientation import Orientation
from studentfloat.quantize.packed_weight import PackedWeight, pack_weight
from studentfloat.quantize.stored import StoredWeight
from studentfloat.quantize.weight import QuantizedWeight

__all__ = [
    "PackedEmbedding",
    "PackedLinear",
    "PackedModule",
    "finish_experts",
    "pack_site",
    "packed_weights",
    "replace_module",
    "unpack_module",
]

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class PackedModule(nn.Module):
    """What all packed layers share: stored tensors.

    Bytes are frozen parameters. Floating-point parts are buffers: as parameters they would be
    trained, and tell others the wrong type of the model.

    Casting a model (``.to(torch.bfloat16)``, ``.half()``) leaves codes, scales and tables
    as they are: they are part of the format, not of the arithmetic.
    """

    # Whether codes that were repacked for a kernel need not be kept beside it.
    gives_up_codes = True

    def declare(self, name: str, stored: StoredWeight, device: Any = None) -> None:
        """Register empty parameters for a weight called `name` in this module."""
        specs = self.__dict__.setdefault("_stored", {})
        # transformers would else draw bytes at random.
        self.__dict__["_is_hf_initialized"] = True
        self.__dict__["_number"] = operators.enroll(self)
        specs[name] = stored
        for suffix, part in stored.tensors.items():
            self.put_part(name + suffix, torch.empty(part.shape, dtype=part.dtype, device=device))

    def put_part(self, name: str, part: Tensor) -> None:
        """Register one stored tensor under its name in this module."""
        self.__dict__.pop("_given_up", None)
        self.__dict__.pop("_matrix", None)
        if part.dtype == torch.uint8:
            self._parameters[name] = nn.Parameter(part, requires_grad=False)
        else:
            self._buffers[name] = part

    def part(self, name: str) -> Tensor:
        """One stored tensor by its name in this module."""
        if name == "weight" and self.__dict__.get("_given_up"):
            return torch.from_numpy(self.__dict__["_matrix"].packed())
        found = self._parameters.get(name)
        return cast(Tensor, self._buffers[name] if found is None else found.data)

    @property
    def stored(self) -> Mapping[str, StoredWeight]:
        """What describes each packed weight, by its name in this module."""
        return cast(Mapping[str, StoredWeight], self.__dict__.get("_stored", {}))

    def parts(self, name: str) -> dict[str, Tensor]:
        """The stored tensors of a weight, by suffix."""
        suffixes = self.stored[name].tensors
        owner = self.__dict__.get("_tied_to", self)
        return {s: owner.part(name + s) for s in suffixes}

    def packed_weight(self, name: str = "weight") -> QuantizedWeight:
        """The weight put together; shares memory with the parameters."""
        return self.stored[name].assemble(self.parts(name))

    def tie(self, owner: PackedModule) -> None:
        """Use another module's stored tensors; codes stay here too, tied as parameters."""
        self.__dict__["_tied_to"] = owner
        for name in [name for name in self.packed_names() if name != "weight"]:
            (self._parameters if name in self._parameters else self._buffers).pop(name)

    def check(self, where: str) -> None:
        """Check every stored number; see :meth:`StoredWeight.check`."""
        for name, stored in self.stored.items():
            stored.check(self.parts(name), f"{where}.{name}" if where else name)

    def hold(self, matrix: PackedMatrix | PackedWeight) -> None:
        """Let a kernel's repacked codes stand for the stored ones, which are given up."""
        codes = cast(nn.Parameter, self._parameters["weight"])
        self.__dict__["_matrix"] = matrix
        if self.gives_up_codes:
            # Shape and device as they were, and no memory.
            codes.data = codes.data.new_zeros(1).expand(codes.shape)
            self.__dict__["_given_up"] = True

    def restore(self) -> None:
        """Take the stored codes back from a kernel, bit for bit."""
        if self.__dict__.get("_given_up"):
            codes = self.part("weight")
            cast(nn.Parameter, self._parameters["weight"]).data = codes
        self.__dict__.pop("_given_up", None)
        self.__dict__.pop("_matrix", None)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.restore()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.restore()
        super()._load_from_state_dict(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy is another layer.
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_number"] = operators.enroll(self)

    def packed_names(self) -> set[str]:
        """Names of the parameters and buffers that are stored tensors."""
        names = {n + s for n, stored in self.stored.items() for s in stored.tensors}
        return {name for name in names if name in self._parameters or name in self._buffers}

    def is_loaded(self) -> bool:
        """Whether all of it is in memory, and neither on the meta device nor offloaded."""
        return all(self.part(name).device.type != "meta" for name in self.packed_names())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.restore()
        before = {name: self.part(name) for name in self.packed_names()}
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, data in before.items():
            after = self.part(name)
            if after.dtype != data.dtype:
                self._buffers[name] = data.to(after.device)
        return result


class PackedLinear(PackedModule, nn.Linear):
    """``y = x Wᵀ + b`` with a packed W.

    Parameters
    ----------
    stored
        Describes W, a matrix of shape ``(out_features, in_features)``; GPT-2's ``Conv1D``
        becomes one of these too.
    bias
        Whether there is one.
    dtype
        Of the bias.
    """

    def __init__(
        self,
        stored: StoredWeight,
        *,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> None:
        nn.Module.__init__(self)
        self.compute_dtype = dtype or torch.get_default_dtype()
        self.compute: Compute | None = None
        self.activations: ActivationScheme | None = None
        if len(stored.matrix_shape) != 2:
            raise ModelError(f"a linear layer's weight is no tensor of shape {stored.shape}")
        self.out_features, self.in_features = stored.matrix_shape
        self.declare("weight", stored, device)
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        """Of shape ``(..., in_features)`` to ``(..., out_features)``, in the input's type."""
        stored = self.stored["weight"]
        for spec in stored.transforms:
            input = spec.assemble(stored.matrix, self.parts("weight")).transform(input)
        if self.activations is not None:
            # Straight through: rounding has no gradient of its own.
            rounded = self.activations.apply(input.detach())
            input = input + (rounded - input).detach() if input.requires_grad else rounded
        if torch.compiler.is_compiling():
            output = operators.linear(input, self.__dict__["_number"], self.out_features)
        elif input.requires_grad and torch.is_grad_enabled():
            output = cast(Tensor, _PackedProduct.apply(input, self))  # type: ignore[no-untyped-call]
        else:
            output = self.product(input)
        bias = self._parameters["bias"]  # the module's own look-up of it costs a microsecond
        return output if bias is None else output + bias.to(output.dtype)

    def product(self, input: Tensor) -> Tensor:
        """``x Wᵀ`` alone: by the native kernel where there is one for the format and device."""
        kernel = self._kernel_for(input)
        if kernel is None:
            return nn.functional.linear(input, self.matrix(input.dtype))
        x = input.detach() if input.requires_grad else input
        if x.dtype == torch.float16:
            # Half precision has no kernel of its own; float32 holds all of it.
            return cast(Tensor, kernel.matmul(x.float(), compute=self.compute)).half()
        return cast(Tensor, kernel.matmul(x, compute=self.compute))

    def product_transposed(self, gradient: Tensor) -> Tensor:
        """``g W``: what the product's gradient needs."""
        kernel = self._kernel_for(gradient)
        if kernel is None:
            return gradient @ self.matrix(gradient.dtype)
        g = gradient.float() if gradient.dtype == torch.float16 else gradient
        return cast(Tensor, kernel.matmul_transposed(g.detach())).to(gradient.dtype)

    def _kernel_for(self, input: Tensor) -> PackedMatrix | PackedWeight | None:
        """The codes repacked for the kernel, on first use; they then live there alone."""
        if not (input.is_cpu and input.dtype in _KERNEL_DTYPES and input.numel() > 0):
            return None
        owner: PackedModule = self.__dict__.get("_tied_to", self)
        found: PackedMatrix | PackedWeight | None = owner.__dict__.get("_matrix")
        if found is None and self.stored["weight"].without_kernel() is None:
            found = pack_weight(owner.packed_weight())
            owner.hold(found)
        return found

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """W as the product sees it, which takes transformed inputs."""
        return self.packed_weight().product_matrix().to(dtype)

    def reset_parameters(self) -> None:
        """Do nothing: what is packed is not drawn at random."""

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        scheme = self.stored["weight"].scheme
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={scheme.format.name}, "
            f"block_size={scheme.block_size}"
        )


class _PackedProduct(torch.autograd.Function):
    """The product, with a gradient for its input and none for the packed weight."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return ctx.layer.product_transposed(gradient), None


class PackedEmbedding(PackedModule, nn.Embedding):
    """A table of embeddings of which only the rows asked for are dequantized.

    Parameters
    ----------
    stored
        Describes the table, of shape ``(num_embeddings, embedding_dim)``.
    dtype
        Of what it gives.
    factor
        That every embedding is multiplied by (Gemma 3).
    """

    def __init__(
        self,
        stored: StoredWeight,
        *,
        dtype: torch.dtype,
        padding_idx: int | None = None,
        factor: float | None = None,
        device: Any = None,
    ) -> None:
        nn.Module.__init__(self)
        # Looking up rows needs them, even where a tied head has them repacked.
        self.gives_up_codes = False
        self.num_embeddings, self.embedding_dim = stored.matrix_shape
        self.padding_idx = padding_idx
        self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False
        self.output_dtype, self.factor = dtype, factor
        self.compute = None
        self.declare("weight", stored, device)

    def forward(self, input: Tensor) -> Tensor:
        """Indices of any shape to embeddings of shape ``(*input.shape, embedding_dim)``."""
        if torch.compiler.is_compiling():
            number = self.__dict__["_number"]
            rows = operators.rows(input, number, self.embedding_dim, self.output_dtype)
        else:
            rows = self.embeddings(input)
        return rows if self.factor is None else rows * self.factor

    def embeddings(self, input: Tensor) -> Tensor:
        """What :meth:`forward` gives, before its factor."""
        weight = self.packed_weight()
        if not weight.has_rows:
            return weight.dequantize(self.output_dtype)[input]
        rows = weight.rows(input.reshape(-1)).dequantize(self.output_dtype)
        return rows.reshape(*input.shape, self.embedding_dim)

    def reset_parameters(self) -> None:
        """Do nothing: what is packed is not drawn at random."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.output_dtype = fn(torch.empty(0, dtype=self.output_dtype)).dtype
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        scheme = self.stored["weight"].scheme
        return f"{self.num_embeddings}, {self.embedding_dim}, format={scheme.format.name}"


class _PackedExperts(PackedModule):
    """Mixed into a class of fused experts: its 3-D parameters are packed.

    The class's own code indexes them by expert, and gets that expert's matrix dequantized.
    """

    experts_dtype: torch.dtype

    def expert(self, name: str, index: Any) -> Tensor:
        """One expert's matrix, as the model's own code would find it."""
        stored = self.stored[name]
        matrix = self.packed_weight(name).member(int(index)).dequantize(self.experts_dtype)
        return matrix.T if stored.orientation is Orientation.TRANSPOSED else matrix

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.experts_dtype = fn(torch.empty(0, dtype=self.experts_dtype)).dtype
        return super()._apply(fn, recurse)


class _ExpertMatrices:
    """Stands where the 3-D parameter was: indexing by expert dequantizes that one."""

    def __init__(self, module: _PackedExperts, name: str) -> None:
        self._module, self._name = module, name

    def __getitem__(self, index: Any) -> Tensor:
        return self._module.expert(self._name, index)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._module.stored[self._name].shape)

    @property
    def dtype(self) -> torch.dtype:
        return self._module.experts_dtype

    @property
    def device(self) -> torch.device:
        return cast(Tensor, self._module._parameters[self._name]).device


def pack_site(model: nn.Module, site: WeightSite, stored: StoredWeight, dtype: torch.dtype) -> None:
    """Put a packed layer, empty still, where a weight's module is; its ties included.

    Parameters
    ----------
    model
        On the meta device, or anywhere: the new parameters are where the old one was.
    site
        Of :func:`~studentfloat.models.walk_weights`.
    stored
        What the packed weight will be.
    dtype
        That the model computes in.

    Raises
    ------
    ModelError
        If shapes differ, or the module is of no kind that can be packed.
    """
    if tuple(site.parameter.shape) != stored.shape:
        raise ModelError(
            f"{site.name} has the shape {list(site.parameter.shape)} in the model, "
            f"{list(stored.shape)} in the packed checkpoint"
        )
    first: PackedModule | None = None
    for name in (site.name, *site.tied):
        module_name, _, parameter = name.rpartition(".")
        module = model.get_submodule(module_name)
        if site.kind in (WeightKind.EXPERTS, WeightKind.TRANSPOSED_EXPERTS):
            _pack_expert(module, parameter, stored, dtype)
            # Grouped products want one dense tensor of all experts; the plain loop does not.
            _use_plain_experts(model)
            continue
        packed = _packed_module(module, stored, dtype, site.parameter.device)
        packed.__dict__["_original"] = module
        if first is not None:
            packed.tie(first)
        first = first or packed
        replace_module(model, module_name, packed)


def unpack_module(
    model: nn.Module, name: str, module: PackedModule, dtype: torch.dtype | None
) -> None:
    """Put a dense layer back where a packed one is, as the model's own class has it."""
    if isinstance(module, _PackedExperts):
        _unpack_experts(module, dtype)
        return
    original: nn.Module = module.__dict__["_original"]
    stored = module.stored["weight"]
    matrix = module.packed_weight().dequantize(dtype or _compute_dtype(module))
    dense = stored.orientation.from_matrix(matrix, stored.shape)
    original._parameters["weight"] = nn.Parameter(dense, requires_grad=True)
    if module._parameters.get("bias") is not None:
        bias = cast(Tensor, module._parameters["bias"])
        original._parameters["bias"] = nn.Parameter(bias.data.to(dense.dtype))
    if isinstance(module, PackedEmbedding) and module.factor is not None:
        original._buffers["embed_scale"] = torch.tensor(module.factor)
    replace_module(model, name, original)


def _packed_module(
    module: nn.Module, stored: StoredWeight, dtype: torch.dtype, device: Any
) -> PackedModule:
    if isinstance(module, nn.Embedding):
        factor = getattr(module, "scalar_embed_scale", None)
        if factor is None and type(module) is not nn.Embedding:
            raise ModelError(f"an embedding of class {type(module).__name__} cannot be packed")
        return PackedEmbedding(
            stored, dtype=dtype, padding_idx=module.padding_idx, factor=factor, device=device
        )
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return _packed_convolution(module, stored, device)
    if not hasattr(module, "weight"):
        raise ModelError(f"a module of class {type(module).__name__} cannot be packed")
    bias = getattr(module, "bias", None) is not None
    packed = PackedLinear(stored, bias=bias, dtype=dtype, device=device)
    if bias:
        packed._parameters["bias"] = module._parameters["bias"]
    return packed


class _PackedConvolution(PackedModule):
    """Mixed into a convolution's class: its kernel is packed."""

    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        stored = self.stored["weight"]
        matrix = self.packed_weight().dequantize(input.dtype)
        kernel = stored.orientation.from_matrix(matrix, stored.shape)
        return cast(Any, self)._conv_forward(input, kernel, self.bias)  # type: ignore[no-any-return]


def _packed_convolution(module: nn.Module, stored: StoredWeight, device: Any) -> PackedModule:
    kind = type(module)
    packed: Any = kind.__new__(type(f"Packed{kind.__name__}", (_PackedConvolution, kind), {}))
    nn.Module.__init__(packed)
    for key, value in module.__dict__.items():
        if not key.startswith("_") or key == "_reversed_padding_repeated_twice":
            packed.__dict__[key] = value
    packed._parameters["bias"] = module._parameters["bias"]
    packed.declare("weight", stored, device)
    return cast(PackedModule, packed)


def _use_plain_experts(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "_experts_implementation"):
        config._experts_implementation = "eager"


def _compute_dtype(module: PackedModule) -> torch.dtype:
    if isinstance(module, PackedEmbedding):
        return module.output_dtype
    bias = module._parameters.get("bias")
    found = getattr(module, "compute_dtype", None) or (None if bias is None else bias.dtype)
    return found or torch.get_default_dtype()


def _pack_expert(module: nn.Module, name: str, stored: StoredWeight, dtype: torch.dtype) -> None:
    """Declare one fused expert parameter of a module as packed, in place."""
    device = cast(Tensor, module._parameters[name]).device
    del module._parameters[name]
    kind = type(module)
    packed = cast(_PackedExperts, module)
    if not isinstance(module, _PackedExperts):
        body = {"_original_class": kind}
        module.__class__ = type(f"Packed{kind.__name__}", (_PackedExperts, kind), body)
        packed.experts_dtype = dtype
        packed.__dict__["_ready"] = False
    setattr(type(packed), name, _view_of(name))
    packed.declare(name, stored, device)


def _view_of(name: str) -> property:
    def get(self: Any) -> Any:
        return _ExpertMatrices(self, name) if self._ready else self._parameters[name]

    def put(self: Any, value: nn.Parameter) -> None:
        self._parameters[name] = value

    return property(get, put)


def finish_experts(module: PackedModule) -> None:
    """Let the model's own code see an expert's numbers, now that they are loaded."""
    if isinstance(module, _PackedExperts):
        module.__dict__["_ready"] = True


def _unpack_experts(module: _PackedExperts, dtype: torch.dtype | None) -> None:
    dense = {}
    for name, stored in module.stored.items():
        matrix = module.packed_weight(name).dequantize(dtype or module.experts_dtype)
        dense[name] = stored.orientation.from_matrix(matrix, stored.shape)
    for name in module.packed_names():
        (module._parameters if name in module._parameters else module._buffers).pop(name)
    module.__dict__.pop("_stored")
    module.__class__ = type(module)._original_class  # type: ignore[attr-defined]
    for name, values in dense.items():
        module.register_parameter(name, nn.Parameter(values))


def packed_weights(model: nn.Module) -> dict[str, StoredWeight]:
    """Every packed weight in a model, by its full name."""
    return {
        f"{prefix}.{name}" if prefix else name: stored
        for prefix, module in model.named_modules()
        if isinstance(module, PackedModule)
        for name, stored in module.stored.items()
    }


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where another was."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, module)
