"""Quantizing a whole model: block by block, each on the outputs of those before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from studentfloat.errors import ConfigError, FailureError
from studentfloat.models.blocks import BlockRunner, find_blocks
from studentfloat.models.calibration import Calibration, CalibrationWindows, experts_one_by_one
from studentfloat.models.fold import fold_scale
from studentfloat.models.listen import InputListener, input_groups, listen
from studentfloat.models.load import LoadedModel, load_model
from studentfloat.models.quantized import QuantizedBlock, QuantizedModel, weight_record
from studentfloat.models.residency import BlockResidency, everything_resident
from studentfloat.models.sources import find_model
from studentfloat.models.walk import WeightSite, walk_weights
from studentfloat.progress import Progress, silent
from studentfloat.quantize.gptq_options import GPTQOptions
from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.method import Method, parse_method
from studentfloat.quantize.parts import InputScale, InputTransform
from studentfloat.quantize.pipeline import quantize_weight
from studentfloat.quantize.rounding.nearest import check_tensor, fake_quantize
from studentfloat.quantize.scheme import Scheme, replace_scheme
from studentfloat.quantize.steps.state import SharedInput
from studentfloat.quantize.weight import QuantizedWeight
from studentfloat.records import SkippedTensor, TensorQuantization

__all__ = ["ModelQuantizer", "quantize_model"]

# A site's name, its weight, and what there is to tell of it.
_Done = tuple[str, QuantizedWeight, TensorQuantization]


def quantize_model(
    model: LoadedModel | str,
    scheme: Scheme,
    method: str | Method = "gptq",
    calibration: Calibration | CalibrationWindows | None = None,
    *,
    smooth: float | None = None,
    gptq: GPTQOptions | None = None,
    embeddings: bool = False,
    head: bool = False,
    finished: Sequence[QuantizedBlock] = (),
    on_block: Callable[[QuantizedBlock], None] = lambda block: None,
    progress: Progress = silent,
) -> QuantizedModel:
    """Quantize a model's linear weights by any method, in place.

    Parameters
    ----------
    model
        Loaded, or what :func:`~studentfloat.models.find_model` takes. Its weights become
        the quantized ones' values.
    scheme
        What to.
    method
        A method or its spelling: see :func:`~studentfloat.quantize.parse_method`.
    calibration
        Text, or windows already cut. By default :class:`Calibration`'s own. Not read where
        the method does without.
    smooth
        SmoothQuant's α, in place of the method's.
    gptq
        How GPTQ goes about it.
    embeddings, head
        Quantize those too; to nearest.
    finished
        Blocks that an interrupted run finished, from the first on, as `on_block` got them:
        they are put in place, not quantized anew.
    on_block
        Called with each block that is finished now, in order.
    progress
        Called with the share done and what is being done.

    Returns
    -------
    QuantizedModel
        Weights, other parameters that changed, records, and what was skipped.

    Raises
    ------
    StudentFloatError
        On a method, scheme, model or text that cannot be used.
    """
    if isinstance(model, str):
        progress(0.0, f"loading {model}")
        model = load_model(find_model(model))
    if isinstance(method, str):
        method = parse_method(method, gptq)
    if smooth is not None:
        spelled = f"smooth={smooth}"
        method = Method(
            f"{method.name}+{spelled}", (*method.steps, *parse_method(spelled).transforms)
        )
    work = ModelQuantizer(
        model, scheme, method, calibration, embeddings=embeddings, head=head, progress=progress
    )
    blocks: list[QuantizedBlock] = []
    for block in work.run(finished):
        if len(blocks) >= len(finished):
            on_block(block)
        blocks.append(block)
    return work.result(blocks)


class ModelQuantizer:
    """One model on its way to being quantized; :meth:`run` yields each finished block.

    Parameters as for :func:`quantize_model`.
    """

    def __init__(
        self,
        model: LoadedModel,
        scheme: Scheme,
        method: Method,
        calibration: Calibration | CalibrationWindows | None = None,
        *,
        embeddings: bool = False,
        head: bool = False,
        residency: BlockResidency | None = None,
        progress: Progress = silent,
    ) -> None:
        self._residency = residency or everything_resident(model.module)
        method.check(scheme)
        if method.needs_gradients:
            raise ConfigError(
                f"method {method.name!r} needs gradients, which calibrating block by block does "
                "not compute"
            )
        self._module, self._loaded = model.module, model
        self._scheme, self._method, self._progress = scheme, method, progress
        found = walk_weights(model.module, embeddings=embeddings, head=head)
        self.sites: list[WeightSite] = found[0]
        self.skipped: list[SkippedTensor] = found[1]
        self._windows: CalibrationWindows | None = None
        if method.needs_inputs(scheme):
            chosen = calibration or Calibration()
            self._windows = chosen.cut(model) if isinstance(chosen, Calibration) else chosen

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on beside the model and the scheme, as plain data."""
        windows = self._windows
        return {
            "method": self._method.name,
            "steps": self._method.to_json(),
            "calibration": None if windows is None else windows.source,
            "calibration_sha256": None if windows is None else windows.sha256,
            "calibration_windows": None if windows is None else list(windows.tokens.shape),
        }

    def result(self, blocks: Sequence[QuantizedBlock]) -> QuantizedModel:
        """The blocks that :meth:`run` gave, put together."""
        return QuantizedModel(
            self._scheme,
            self._method.name,
            tuple(blocks),
            skipped=tuple(self.skipped),
            settings=self.settings,
        )

    def run(self, finished: Sequence[QuantizedBlock] = ()) -> Iterator[QuantizedBlock]:
        """Quantize block by block, replaying those that are finished already."""
        blocks = find_blocks(self._module, {id(site.parameter) for site in self.sites})
        if self._windows is None:
            yield from self._run_plainly(blocks, finished)
            return
        with experts_one_by_one(self._module), self._residency.on_demand(blocks):
            yield from self._run_calibrated(blocks, finished)

    def _run_plainly(
        self, blocks: list[tuple[str, nn.Module]], finished: Sequence[QuantizedBlock]
    ) -> Iterator[QuantizedBlock]:
        parts = list(zip([name for name, _ in blocks], self._sites_of(blocks), strict=True))
        parts.append(("", self._sites_outside(blocks)))
        # A block whose weights are all an earlier one's is there still, and empty.
        parts = [part for part in parts if part[0] or part[1]]
        for i, (name, sites) in enumerate(parts):
            self._progress(i / len(parts), name or "outside of blocks")
            if i < len(finished):
                yield self._replay(finished[i], name, sites)
                continue
            with self._residency.held(name):
                done = [self._quantize(s, self._transform(name, [s], None)) for s in sites]
            yield _block(name, done)

    def _run_calibrated(
        self, blocks: list[tuple[str, nn.Module]], finished: Sequence[QuantizedBlock]
    ) -> Iterator[QuantizedBlock]:
        assert self._windows is not None
        self._progress(0.0, "first inputs of the blocks")
        device = next(self._module.parameters()).device
        runner = BlockRunner(self._module, blocks, self._windows.batches(device))
        count = len(runner.blocks)
        sites_of = self._sites_of(runner.blocks)
        for i, (name, block) in enumerate(runner.blocks):
            self._progress((i + 0.5) / (count + 1), name)
            sites = sites_of[i]
            with self._residency.held(name):
                if i < len(finished):
                    yield self._replay(finished[i], name, sites)
                else:
                    listener = listen(self._module, sites, runner.run(i))
                    yield self._finish(
                        name,
                        sites,
                        listener,
                        block,
                        lambda i=i: runner.sample(i),  # type: ignore[misc]
                    )
                runner.advance(i)
        outside = self._sites_outside(runner.blocks)
        if not outside:
            return
        self._progress(count / (count + 1), "outside of blocks")
        if len(finished) > count:
            yield self._replay(finished[count], "", outside)
            return
        yield self._finish("", outside, listen(self._module, outside, runner.finish()))

    def _finish(
        self,
        name: str,
        sites: list[WeightSite],
        listener: InputListener,
        block: nn.Module | None = None,
        run: Callable[[], Tensor] | None = None,
    ) -> QuantizedBlock:
        """Choose input scales, fold them where that is right, then quantize every weight."""
        groups = input_groups(listener, sites)
        # All before any is quantized: a transform may be folded into another group's weight.
        heard = listener.statistics
        fed = [self._transform(name, g, heard.get(g[0].name), block, run) for g in groups]
        changed = {id(p): p for one in fed for p in one.changed}
        done: dict[str, _Done] = {}
        for group, one in zip(groups, fed, strict=True):
            for site in group:
                unheard = listener.unheard.get(site.name)
                notes = one.notes if unheard is None else (unheard, *one.notes)
                done[site.name] = self._quantize(site, replace(one, notes=notes))
        return _block(name, [done[site.name] for site in sites], self._named(changed, sites))

    def _transform(
        self,
        name: str,
        group: list[WeightSite],
        inputs: InputStatistics | None,
        block: nn.Module | None = None,
        run: Callable[[], Tensor] | None = None,
    ) -> _Fed:
        """What a group of weights is fed with, after what was folded of the method's transforms.

        A transform is folded into the block where that is right, else it is left to the layer.
        """
        fed = _Fed(inputs)
        if not self._method.transforms or self._is_short_of(inputs):
            return fed
        if not group[0].kind.multiplies_inputs:
            return fed.noted(f"{group[0].kind.value}: its inputs are not transformed")
        weights = tuple(site.matrix(site.parameter.detach()) for site in group)
        if inputs is not None:
            inputs.check(group[0].name)
        for site, weight in zip(group, weights, strict=True):
            check_tensor(weight, site.name)
        shared = SharedInput(weights, inputs, self._method.on_scheme(self._scheme))
        for step in self._method.transforms:
            found, fold = step.find(shared), None
            if found is not None:
                shared = shared.transformed(found)
                # Beyond a transform that the layer applies nothing can be folded.
                if isinstance(found, InputScale) and not fed.explicit and block and run:
                    fold = fold_scale(block, name, group, found.scale, run)
            fed = fed.noted(step.note(found, None if fold is None else fold.into))
            if fold is not None:
                fed = replace(fed, inputs=shared.inputs, changed=(*fed.changed, *fold.parameters))
            elif found is not None:
                fed = replace(fed, explicit=(*fed.explicit, found))
        return fed

    def _is_short_of(self, inputs: InputStatistics | None) -> bool:
        """Whether inputs are needed and were not seen: the weight is rounded to nearest then."""
        seen = inputs is not None and inputs.count
        return not seen and self._method.needs_inputs(self._scheme)

    def _named(
        self, changed: Mapping[int, nn.Parameter], sites: list[WeightSite]
    ) -> dict[str, Tensor]:
        weights = {id(site.parameter) for site in sites}
        return {
            name: parameter.detach().clone()
            for name, parameter in self._module.named_parameters()
            if id(parameter) in changed and id(parameter) not in weights
        }

    def _quantize(self, site: WeightSite, fed: _Fed) -> _Done:
        started = time.monotonic()
        before = site.matrix(site.parameter.detach()).clone().contiguous()
        result = quantize_weight(
            before,
            self._scheme,
            self._method,
            fed.inputs,
            transforms=fed.explicit,
            name=site.name,
        )
        seconds = time.monotonic() - started
        after = result.weight.dequantize()
        site.apply(lambda _: after)
        errors = _errors(before, after, fed.inputs, self._scheme)
        record = weight_record(
            site.name,
            result.weight,
            result.method,
            notes=(*fed.notes, *result.notes),
            seconds=round(seconds, 3),
            **errors,
        )
        return site.name, result.weight, record

    def _replay(self, block: QuantizedBlock, name: str, sites: list[WeightSite]) -> QuantizedBlock:
        """Put a finished block's weights in place."""
        names = {site.name for site in sites}
        if block.name != name or set(block.weights) != names:
            raise FailureError(
                f"the finished block {block.name!r} is not the model's {name!r}: it belongs to "
                "another model or other settings"
            )
        parameters = dict(self._module.named_parameters())
        for site in sites:
            values = block.weights[site.name].dequantize()
            site.apply(lambda _, values=values: values)  # type: ignore[misc]
        with torch.no_grad():
            for changed, value in block.changed.items():
                parameters[changed].copy_(value)
        return block

    def _sites_of(self, blocks: Sequence[tuple[str, nn.Module]]) -> list[list[WeightSite]]:
        """The weights of each block; one that several blocks share belongs to the first."""
        taken: set[int] = set()
        found = []
        for _, block in blocks:
            inside = {id(parameter) for parameter in block.parameters()} - taken
            taken |= inside
            found.append([site for site in self.sites if id(site.parameter) in inside])
        return found

    def _sites_outside(self, blocks: Sequence[tuple[str, nn.Module]]) -> list[WeightSite]:
        inside = {id(parameter) for _, block in blocks for parameter in block.parameters()}
        return [site for site in self.sites if id(site.parameter) not in inside]


@dataclass(frozen=True, eq=False)
class _Fed:
    """What weights are fed with, transforms left for the layer, and parameters that changed."""

    inputs: InputStatistics | None
    explicit: tuple[InputTransform, ...] = ()
    changed: tuple[nn.Parameter, ...] = ()
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> _Fed:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))


def _block(
    name: str,
    done: Sequence[_Done],
    changed: Mapping[str, Tensor] | None = None,
) -> QuantizedBlock:
    weights = {site: weight for site, weight, _ in done}
    records = tuple(record for _, _, record in done)
    return QuantizedBlock(name, weights, changed or {}, records)


def _errors(
    before: Tensor, after: Tensor, inputs: InputStatistics | None, scheme: Scheme
) -> dict[str, Any]:
    """Errors of weight and output, and what they were if rounded to nearest."""
    if scheme.scale_rule.searches:
        scheme = replace_scheme(scheme, scale_rule="absmax")
    nearest, _ = fake_quantize(before, scheme)
    energy = _square(before)
    errors: dict[str, Any] = {
        "weight_nmse": _share(_square(before - after), energy),
        "weight_nmse_nearest": _share(_square(before - nearest), energy),
    }
    if inputs is not None and inputs.count:
        output = inputs.output_energy(before)
        errors["output_nmse"] = _share(inputs.output_energy(before - after), output)
        errors["output_nmse_nearest"] = _share(inputs.output_energy(before - nearest), output)
        errors["tokens"] = inputs.count
    return errors


def _square(values: Tensor) -> float:
    total = float(values.square().sum(dtype=torch.float64))
    return total if math.isfinite(total) else float(values.double().square().sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
