"""Log-likelihoods of the ends of token sequences, what they have in common computed once.

An item is a few sequences (a context with each of its choices). What they begin with, the
trunk, is run once for all of them: their branches stand behind it in one row, each at the
positions that it has on its own and hidden from the others by a mask. Only the hidden states that
predict a scored token reach the output head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from studentfloat.errors import DataError
from studentfloat.evaluate.tasks.heads import Head

__all__ = ["ScoredTokens", "SequenceScorer"]

# A mask of its own makes attention a little slower: sharing fewer tokens gains nothing.
_LEAST_SAVED = 8
# Tokens in a batch, padding included, however many items that is.
_MOST_TOKENS = 16_384
# Once a batch has so many tokens, what would be mostly padding in it waits for the next.
_ENOUGH_TOKENS = 256
_LEAST_FILLED = 0.9
# Attention that keeps no state of its own, and takes a mask of every pair of tokens.
_TAKES_MASKS = ("eager", "sdpa")
# What bounds how far attention looks: a mask of our own would lift that.
_REACHES = ("sliding_window", "attention_chunk_size")
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
        # None until the first trunk has shown that sharing gives the same.
        self._shares: bool | None = None if share_prefix else False
        self._attention = getattr(self._module.config, "_attn_implementation", None)
        self._reach = _reach(self._module.config)
        if share_prefix and self._attention not in _TAKES_MASKS:
            self._give_up_sharing(f"the attention {self._attention!r} takes no mask of this kind")
        elif share_prefix and not self._head.takes_positions:
            self._give_up_sharing("it is told no positions")

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
            for trees, run in ((branching, self._run_packed), (whole, self._run_whole)):
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
        elif self._may_share(shared * (len(item) - 1), max(len(i) for i in inputs)):
            yield _Tree(inputs[0][:shared], tuple(item), branching=True)
        else:
            for index, tokens in zip(item, inputs, strict=True):
                yield _Tree(tokens, (index,), branching=False)

    def _may_share(self, saved: int, longest: int) -> bool:
        if not self._shares or saved < _LEAST_SAVED:
            return False
        if longest <= self._reach:
            return True
        note = f"items longer than its window of {self._reach} tokens share no context"
        if note not in self.notes:
            self.notes.append(note)
        return False

    def _batches(
        self, trees: list[_Tree], sequences: Sequence[ScoredTokens]
    ) -> Iterator[list[_Tree]]:
        """Trees of similar length together, the longest first: what does not fit fails early."""
        waiting = sorted(trees, key=lambda t: -_tokens(t, sequences))
        batch: list[_Tree] = []
        for tree in waiting:
            own = _tokens(tree, sequences)
            most = _tokens(batch[0], sequences) if batch else own
            full = len(batch) == self._batch_size or (len(batch) + 1) * most > _MOST_TOKENS
            loose = own < _LEAST_FILLED * most and len(batch) * most >= _ENOUGH_TOKENS
            if batch and (full or loose):
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

    def _run_packed(
        self,
        batch: list[_Tree],
        sequences: Sequence[ScoredTokens],
        totals: Tensor,
        greedy: Tensor,
    ) -> None:
        """Trunk and branches in a row; each branch sees the trunk and itself."""
        asked = _Asked()
        rows, positions, segments = [], [], []
        for row, tree in enumerate(batch):
            length = len(tree.trunk)
            tokens, places, parts = list(tree.trunk), list(range(length)), [0] * length
            for part, member in enumerate(tree.members, start=1):
                sequence = sequences[member]
                branch = sequence.inputs[length:]
                for place, target in enumerate(sequence.targets, start=sequence.first):
                    column = place if place < length else len(tokens) + place - length
                    asked.add(row, column, target, member)
                tokens += branch
                places += range(length, length + len(branch))
                parts += [part] * len(branch)
            rows.append(tuple(tokens))
            positions.append(tuple(places))
            segments.append(tuple(parts))
        self._run(
            asked,
            totals,
            greedy,
            input_ids=self._padded(rows),
            position_ids=self._padded(positions),
            attention_mask=self._tree_mask(self._padded(segments, fill=-1)),
            use_cache=False,
        )

    def _tree_mask(self, segments: Tensor) -> Tensor:
        """Who sees whom, of shape ``(batch, 1, tokens, tokens)``, as the attention wants it."""
        tokens = segments.shape[1]
        seen = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
        seen &= torch.ones(tokens, tokens, dtype=torch.bool, device=self._device).tril()
        if self._attention == "sdpa":
            return seen[:, None]
        least = torch.finfo(self._module.dtype).min
        return torch.zeros_like(seen, dtype=self._module.dtype).masked_fill(~seen, least)[:, None]

    def _run(self, asked: _Asked, totals: Tensor, greedy: Tensor, **inputs: Any) -> None:
        """One pass; adds to `totals`, and strikes from `greedy`."""
        rows, columns, slots, targets, owners = (
            torch.tensor(part, dtype=torch.int64, device=self._device)
            for part in (asked.rows, asked.columns, asked.slots, asked.targets, asked.owners)
        )
        # Targets by slot, so that each chunk of logits is looked at once.
        order = torch.argsort(slots, stable=True)
        slots, targets, owners = slots[order], targets[order], owners[order].cpu()
        for start, logits in self._head.logits(rows, columns, **inputs):
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

    def _padded(self, rows: Sequence[tuple[int, ...]], *, fill: int = 0) -> Tensor:
        padded = torch.full((len(rows), max(len(row) for row in rows)), fill)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.tensor(row)
        return padded.to(self._device)

    def _try_sharing(
        self, sequences: Sequence[ScoredTokens], items: Sequence[Sequence[int]]
    ) -> None:
        """Whether this model can share, shown on the first item that would.

        Architectures differ in what they make of positions and of masks; one that makes
        something else of them would give scores that are wrong but not absurd.
        """
        for item in items:
            self._shares = True
            packed = list(self._trees(sequences, item))
            self._shares = None
            if not packed[0].branching:
                continue
            whole = [_Tree(sequences[i].inputs, (i,), branching=False) for i in item]
            plain = self._tried(self._run_whole, whole, sequences)
            try:
                shared = self._tried(self._run_packed, packed, sequences)
            except (TypeError, ValueError, RuntimeError, IndexError) as error:
                self._give_up_sharing(f"it takes no mask of this kind ({type(error).__name__})")
                return
            chosen = list(item)
            self._check_finite(plain[chosen])
            tolerance = _TOLERANCE.get(self._module.dtype, _COARSE_TOLERANCE)
            tokens = torch.tensor([1.0 + len(sequences[i].targets) for i in item])
            difference = (shared[chosen] - plain[chosen]).abs()
            if bool((difference <= tolerance * tokens).all()):
                self._shares = True
            else:
                self._give_up_sharing("sharing it gives other scores")
            return

    def _tried(
        self,
        run: Callable[..., None],
        trees: list[_Tree],
        sequences: Sequence[ScoredTokens],
    ) -> Tensor:
        totals = torch.zeros(len(sequences), dtype=torch.float64)
        run(trees, sequences, totals, torch.ones(len(sequences), dtype=torch.bool))
        return totals

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
    length = len(tree.trunk)
    return length + sum(len(sequences[member].inputs) - length for member in tree.members)


def _reach(config: Any) -> int:
    """How far back attention looks, where that is bounded."""
    bounds = (getattr(config.get_text_config(), name, None) for name in _REACHES)
    return min((bound for bound in bounds if bound), default=sys.maxsize)
