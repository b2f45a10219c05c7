"""Log-likelihoods of the ends of token sequences, what they have in common computed once.

An item is a few sequences (a context with each of its choices). What they begin with, the
trunk, is run once for all of them, and their branches go on from its key-value cache. Only the
hidden states that predict a scored token reach the output head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import DataError
from studentfloat.evaluate.tasks.heads import Head

__all__ = ["ScoredTokens", "SequenceScorer"]

# A second pass for the branches costs about as much as so many tokens.
_LEAST_SAVED = 8
# Tokens in a batch, padding included, however many items that is.
_MOST_TOKENS = 16_384
# Attention that keeps nothing beside the cache it is handed, and takes a padding mask.
_STATELESS = frozenset(
    {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 0.1


@dataclass(frozen=True)
class ScoredTokens:
    """What goes into the model, and the tokens that its last positions must predict."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def first(self) -> int:
        """The position that predicts the first target."""
        return len(self.inputs) - len(self.targets)


@dataclass(frozen=True)
class _Tree:
    """An item: the sequences' common beginning, and where each goes on."""

    trunk: tuple[int, ...]
    members: tuple[int, ...]
    branching: bool


@dataclass
class _Asked:
    """Which positions of a batch must be scored, each once, and for which targets."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    _known: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, row: int, column: int, target: int, owner: int) -> None:
        """Ask for `target` of sequence `owner` at a position of the batch."""
        slot = self._known.setdefault((row, column), len(self.rows))
        if slot == len(self.rows):
            self.rows.append(row)
            self.columns.append(column)
        self.slots.append(slot)
        self.targets.append(target)
        self.owners.append(owner)


class SequenceScorer:
    """Scores sequences by a causal language model of transformers.

    Parameters
    ----------
    module
        In evaluation mode.
    name
        Of the model, for messages.
    batch_size
        Items in a batch.
    share_prefix
        Whether to run trunks once.

    Attributes
    ----------
    notes
        What was done otherwise than asked for.
    """

    def __init__(
        self, module: torch.nn.Module, *, name: str, batch_size: int, share_prefix: bool
    ) -> None:
        self.notes: list[str] = []
        self._module: Any = module
        self._name = name
        self._batch_size = batch_size
        self._device = next(module.parameters()).device
        self._head = Head(module, self._device)
        if self._head.note:
            self.notes.append(self._head.note)
        # None until the first trunk has shown that going on from a cache gives the same.
        self._shares: bool | None = None if share_prefix else False
        attention = getattr(self._module.config, "_attn_implementation", None)
        if share_prefix and attention not in _STATELESS:
            self._give_up_sharing(f"its attention, {attention!r}, keeps a state of its own")

    def score(
        self,
        sequences: Sequence[ScoredTokens],
        items: Sequence[Sequence[int]],
        done: Callable[[Sequence[int]], None] = lambda members: None,
    ) -> list[tuple[float, bool]]:
        """Score every sequence.

        Parameters
        ----------
        sequences
            At least one input and one target each.
        items
            Which sequences (by index) belong together; every one in just one item.
        done
            Called with each finished item's indices.

        Returns
        -------
        list of (float, bool)
            Log-likelihood of the targets in nats, and whether each is the most likely token.

        Raises
        ------
        DataError
            If the model gives NaN or infinity.
        """
        totals = torch.zeros(len(sequences), dtype=torch.float64)
        greedy = torch.ones(len(sequences), dtype=torch.bool)
        with torch.inference_mode():
            if self._shares is None:
                self._try_sharing(sequences, items)
            whole: list[_Tree] = []
            branching: list[_Tree] = []
            for tree in (t for item in items for t in self._trees(sequences, item)):
                (branching if tree.branching else whole).append(tree)
            left = [set(item) for item in items]
            home = {member: i for i, item in enumerate(items) for member in item}
            for trees, run in ((branching, self._run_branching), (whole, self._run_whole)):
                for batch in self._batches(trees, sequences):
                    run(batch, sequences, totals, greedy)
                    for member in (m for tree in batch for m in tree.members):
                        left[home[member]].discard(member)
                        if not left[home[member]]:
                            done(items[home[member]])
        self._check_finite(totals)
        return [(float(t), bool(g)) for t, g in zip(totals, greedy, strict=True)]

    def _trees(self, sequences: Sequence[ScoredTokens], item: Sequence[int]) -> Iterator[_Tree]:
        inputs = [sequences[i].inputs for i in item]
        shared = _common_length(inputs)
        if all(len(i) == shared for i in inputs):
            # Choices of one token each: the same input for all, no branches.
            yield _Tree(inputs[0], tuple(item), branching=False)
        elif self._shares and shared * (len(item) - 1) >= _LEAST_SAVED:
            yield _Tree(inputs[0][:shared], tuple(item), branching=True)
        else:
            for index, tokens in zip(item, inputs, strict=True):
                yield _Tree(tokens, (index,), branching=False)

    def _batches(
        self, trees: list[_Tree], sequences: Sequence[ScoredTokens]
    ) -> Iterator[list[_Tree]]:
        """Trees of similar length together, the longest first: what does not fit fails early."""
        waiting = sorted(trees, key=lambda t: -_tokens(t, sequences))
        batch: list[_Tree] = []
        for tree in waiting:
            most = _tokens(batch[0], sequences) if batch else 0
            full = len(batch) == self._batch_size or (len(batch) + 1) * most > _MOST_TOKENS
            if batch and full:
                yield batch
                batch = []
            batch.append(tree)
        if batch:
            yield batch

    def _run_whole(
        self, batch: list[_Tree], sequences: Sequence[ScoredTokens], totals: Tensor, greedy: Tensor
    ) -> None:
        """Without a cache, padded on the right: causal attention never sees the padding."""
        asked = _Asked()
        for row, tree in enumerate(batch):
            for member in tree.members:
                sequence = sequences[member]
                for k, target in enumerate(sequence.targets):
                    asked.add(row, sequence.first + k, target, member)
        tokens = self._padded([tree.trunk for tree in batch])
        self._run(asked, totals, greedy, input_ids=tokens, use_cache=False)

    def _run_branching(
        self, batch: list[_Tree], sequences: Sequence[ScoredTokens], totals: Tensor, greedy: Tensor
    ) -> None:
        """Trunks, padded on the left so that branches follow without a gap, then branches."""
        longest = max(len(tree.trunk) for tree in batch)
        on_trunks, on_branches = _Asked(), _Asked()
        branches: list[tuple[int, tuple[int, ...]]] = []
        for row, tree in enumerate(batch):
            length = len(tree.trunk)
            for member in tree.members:
                sequence = sequences[member]
                for k, target in enumerate(sequence.targets):
                    place = sequence.first + k
                    if place < length:
                        on_trunks.add(row, longest - length + place, target, member)
                    else:
                        on_branches.add(len(branches), place - length, target, member)
                if len(sequence.inputs) > length:
                    branches.append((row, sequence.inputs[length:]))
        tokens = self._padded([tree.trunk for tree in batch], left=True)
        lengths = torch.tensor([len(tree.trunk) for tree in batch], device=self._device)
        seen = torch.arange(longest, device=self._device) >= longest - lengths[:, None]
        cache = self._run(
            on_trunks,
            totals,
            greedy,
            input_ids=tokens,
            attention_mask=seen.long(),
            position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
        )
        rows = torch.tensor([row for row, _ in branches], device=self._device)
        cache.batch_select_indices(rows)
        tokens = self._padded([branch for _, branch in branches])
        after = torch.arange(tokens.shape[1], device=self._device)
        self._run(
            on_branches,
            totals,
            greedy,
            input_ids=tokens,
            attention_mask=torch.cat([seen[rows].long(), torch.ones_like(tokens)], dim=1),
            position_ids=lengths[rows, None] + after,
            past_key_values=cache,
            use_cache=True,
        )

    def _run(self, asked: _Asked, totals: Tensor, greedy: Tensor, **inputs: Any) -> Any:
        """One pass; adds to `totals`, and gives the cache."""
        if "position_ids" in inputs and not self._head.takes_positions:
            del inputs["position_ids"]
        rows, columns, slots, targets, owners = (
            torch.tensor(part, dtype=torch.int64, device=self._device)
            for part in (asked.rows, asked.columns, asked.slots, asked.targets, asked.owners)
        )
        # Targets by slot, so that each chunk of logits is looked at once.
        order = torch.argsort(slots, stable=True)
        slots, targets, owners = slots[order], targets[order], owners[order].cpu()
        output, chunks = self._head.logits(rows, columns, **inputs)
        for start, logits in chunks:
            low, high = torch.searchsorted(
                slots, torch.tensor([start, start + len(logits)], device=self._device)
            ).tolist()
            here, wanted = slots[low:high] - start, targets[low:high]
            # As log_softmax does it: less the largest first, so that little is lost.
            likely = logits.max(dim=-1)
            shifted = logits - likely.values[:, None]
            normalizer = shifted.exp().sum(dim=-1).log()
            found = shifted[here, wanted] - normalizer[here]
            totals.index_add_(0, owners[low:high], found.double().cpu())
            missed = (likely.indices[here] != wanted).cpu()
            greedy[owners[low:high][missed]] = False
        return getattr(output, "past_key_values", None)

    def _padded(self, rows: Sequence[tuple[int, ...]], *, left: bool = False) -> Tensor:
        length = max(len(row) for row in rows)
        padded = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, row in enumerate(rows):
            start = length - len(row) if left else 0
            padded[i, start : start + len(row)] = torch.tensor(row)
        return padded.to(self._device)

    def _try_sharing(
        self, sequences: Sequence[ScoredTokens], items: Sequence[Sequence[int]]
    ) -> None:
        """Whether this model goes on from a cache, shown on the first item that would.

        Architectures differ in what their cache is; one that is read wrong would give scores
        that are wrong but not absurd.
        """
        self._shares = True
        for item in items:
            trees = list(self._trees(sequences, item))
            if not trees[0].branching:
                continue
            found = []
            self._shares = False
            for run, parts in (
                (self._run_branching, trees),
                (self._run_whole, list(self._trees(sequences, item))),
            ):
                totals = torch.zeros(len(sequences), dtype=torch.float64)
                greedy = torch.ones(len(sequences), dtype=torch.bool)
                try:
                    run(parts, sequences, totals, greedy)
                except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError):
                    if run == self._run_whole:
                        raise
                    self._give_up_sharing("it has no key-value cache that can be divided")
                    return
                found.append(totals[list(item)])
            shared, plain = found
            tolerance = _TOLERANCE.get(self._module.dtype, _COARSE_TOLERANCE)
            tokens = torch.tensor([1.0 + len(sequences[i].targets) for i in item])
            if not bool(((shared - plain).abs() <= tolerance * tokens).all()):
                self._check_finite(plain)
                self._give_up_sharing("going on from its key-value cache gives other scores")
                return
            self._shares = True
            return
        self._shares = None

    def _give_up_sharing(self, reason: str) -> None:
        self._shares = False
        self.notes.append(f"each choice is run with its whole context: {reason}")

    def _check_finite(self, totals: Tensor) -> None:
        if not bool(torch.isfinite(totals).all()):
            raise DataError(
                f"{self._name} gives NaN or infinity: the weights or the number type overflow"
            )


def _common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all sequences begin with."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _tokens(tree: _Tree, sequences: Sequence[ScoredTokens]) -> int:
    """Tokens that a tree takes in a batch."""
    if not tree.branching:
        return len(tree.trunk)
    longest = max(len(sequences[member].inputs) for member in tree.members)
    return len(tree.trunk) + (longest - len(tree.trunk)) * len(tree.members)
