"""Others' implementations, loaded without the dependencies that they do not need here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor


@contextmanager
def module_of(
    name: str, *, packages: Sequence[str], without: Sequence[tuple[str, str]] = ()
) -> Iterator[types.ModuleType]:
    """A module of another's package, whose `packages` are entered without running them.

    `without` are (module, names) that it imports and does not need: they become empty classes.
    """
    root = packages[0]
    found = importlib.util.find_spec(root)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{root} is not installed: scripts/test installs it")
    before = {key: module for key, module in sys.modules.items() if key.split(".")[0] == root}
    for key in before:
        del sys.modules[key]
    for package in packages:
        stub = types.ModuleType(package)
        inside = package.split(".")[1:]
        stub.__path__ = ["/".join((place, *inside)) for place in found.submodule_search_locations]
        sys.modules[package] = stub
    for missing, names in without:
        stub = types.ModuleType(missing)
        for each in names.split():
            setattr(stub, each, type(each, (), {}))
        sys.modules[missing] = stub
    try:
        yield importlib.import_module(name)
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == root]:
            del sys.modules[key]
        sys.modules.update(before)


def layer(seed: int, rows: int = 48, width: int = 256, tokens: int = 600) -> tuple[Tensor, Tensor]:
    """A weight ``(rows, width)`` and correlated inputs ``(tokens, width)``, some channels loud."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.exp(
        torch.randn(width, generator=generator)
    )
    inputs = torch.randn(tokens, width, generator=generator) @ mixing
    weight = torch.randn(rows, width, generator=generator)
    weight *= 1 + torch.rand(rows, 1, generator=generator)
    return weight, inputs


def output_error(weight: Tensor, other: Tensor, inputs: Tensor) -> float:
    """Squared error of the layer's outputs."""
    return float((inputs.double() @ (other.double() - weight.double()).T).square().sum())
