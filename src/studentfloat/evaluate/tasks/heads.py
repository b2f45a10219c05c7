"""Logits of some positions only: the output head sees no others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Head"]

# Logits held at a time; small enough for a processor's cache to help.
_CHUNK_BYTES = 64 << 20


class Head:
    """A language model's output head, listened to.

    What enters it is caught during the model's own pass, so that nothing need be known of the
    architecture: whatever the model does to logits afterwards (a softcap, a scale) is done
    still. Where it does nothing, which is tried out first, logits are made in chunks.

    Attributes
    ----------
    takes_positions
        Whether the model can be told positions.
    note
        What a reader of scores must know; empty for nothing.
    """

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = device
        self.takes_positions = "position_ids" in inspect.signature(module.forward).parameters
        self.note = ""
        self._head = module.get_output_embeddings()
        self._is_last = False
        if self._head is None or not self._is_heard():
            self._head = None
            self.note = (
                "logits of all positions are computed: the output head is no module that is "
                "given the hidden states"
            )

    def logits(self, rows: Tensor, columns: Tensor, **inputs: Any) -> Iterator[tuple[int, Tensor]]:
        """Run the model, and give the logits at some positions of the batch.

        Parameters
        ----------
        rows, columns
            Positions, of shape ``(count,)``.
        inputs
            Of the model: ``input_ids`` of shape ``(batch, tokens)`` and so on.

        Yields
        ------
        start, logits
            The index of a position, and float32 logits of shape ``(positions, vocabulary)``
            from there on.
        """
        if self._head is None:
            yield 0, self._module(**inputs).logits[rows, columns].float()
            return
        if not self._is_last:
            output, _ = self._caught(rows, columns, len(rows), inputs)
            yield 0, output.logits[0].float()
            return
        _, hidden = self._caught(rows, columns, 1, inputs)
        vocabulary = int(getattr(self._module.config.get_text_config(), "vocab_size", 1 << 16))
        size = max(1, _CHUNK_BYTES // (4 * vocabulary))
        for start in range(0, len(hidden), size):
            logits: Tensor = self._head(hidden[start : start + size][None])[0]
            yield start, logits.float()

    def _caught(
        self, rows: Tensor, columns: Tensor, let_through: int, inputs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        """The model's output where the head was given few positions, and all those asked for."""
        caught: list[Tensor] = []
        shape = tuple(inputs["input_ids"].shape)

        def pick(_head: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not given or not isinstance(given[0], Tensor) or given[0].shape[:2] != shape:
                return None
            caught.append(given[0][rows, columns])
            return (caught[0][None, :let_through], *given[1:])

        handle = self._head.register_forward_pre_hook(pick)
        try:
            output = self._module(**inputs)
        finally:
            handle.remove()
        return output, (caught or [torch.empty(0)])[0]

    def _is_heard(self) -> bool:
        """Try the head out on two tokens."""
        tokens = torch.tensor([[0, 1]], device=self._device)
        rows, columns = torch.tensor([[0, 0], [0, 1]], device=self._device)
        with torch.inference_mode():
            plain = self._module(input_ids=tokens, use_cache=False).logits[0]
            inputs = {"input_ids": tokens, "use_cache": False}
            output, hidden = self._caught(rows, columns, 2, inputs)
            if len(hidden) != 2 or output.logits.shape != (1, *plain.shape):
                return False
            itself = self._head(hidden[None])[0]
        self._is_last = itself.shape == plain.shape and bool(
            torch.allclose(itself.float(), plain.float(), rtol=1e-4, atol=1e-5)
        )
        return bool(torch.allclose(output.logits[0].float(), plain.float(), rtol=1e-3, atol=1e-3))
