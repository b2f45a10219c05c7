"""Tokens a second of `generate` through transformers: packed weights beside their peers.

    pip install 'studentfloat[models,benchmark]' && python benchmarks/generate.py

The embedded model, one sequence, greedy. The contestants take turns within one process, and
the figure of each is the median over rounds; the ratio is what counts, since the machine's speed
drifts. ``--profile`` says instead where the time of a token goes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from llamacpp import Generator

import studentfloat.transformers
from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.models.exchange import export_model
from studentfloat.models.packed.modules import packed_tensors
from studentfloat.quantize import Scheme


def main() -> None:
    """Load all, let them take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", default="sf4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="the main thread's processor time a token, by module, of the packed bfloat16 model",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = find_model("smollm2-135m")
    with tempfile.TemporaryDirectory() as place:
        packed, whole = Path(place) / "packed", Path(place) / "whole"
        scheme = Scheme(options.format, 64, scale_dtype="bfloat16")
        quantize_checkpoint(source, scheme, packed)
        quantize_checkpoint(source, scheme, whole, head=True)
        prompt = torch.randint(0, 40000, (1, 32), generator=torch.Generator().manual_seed(0))
        if options.profile:
            profile(whole, prompt, options.tokens, options.rounds)
            return
        contestants = load(source.directory, packed, whole)
        gguf = Path(place) / "iq4_nl.gguf"
        codes = Scheme("iq4_nl", 32, scale_dtype="float16")
        quantize_checkpoint(source, codes, gguf.with_suffix(""), head=True)
        export_model(gguf.with_suffix(""), "gguf", gguf)
        far = llama_cpp(gguf, options.threads, options.tokens)
        turns: dict[str, Callable[[], float]] = {
            **{
                name: partial(run, model, prompt, options.tokens)
                for name, model in contestants.items()
            },
            **{name: partial(model.run, prompt[0].tolist()) for name, model in far.items()},
        }
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        for turn in range(options.rounds + 1):
            for name, take in turns.items():
                took = take()
                if turn:  # the first warms up
                    seconds[name].append(took)
        for generator in far.values():
            generator.close()
    base = statistics.median(seconds["transformers bfloat16"])
    print(f"{options.tokens} tokens, {options.threads} threads, median of {options.rounds}")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:28} {options.tokens / median:7.1f} tokens/s  {base / median:5.2f} x bfloat16")


def load(dense: Path, packed: Path, whole: Path) -> dict[str, Any]:
    """The contestants by name; what is not installed is said and left out."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    half = {"dtype": torch.bfloat16}
    config = studentfloat.transformers.StudentFloatConfig
    makers: dict[str, Callable[[], Any]] = {
        "transformers bfloat16": lambda: AutoModelForCausalLM.from_pretrained(dense, **half),
        "packed, bfloat16": lambda: AutoModelForCausalLM.from_pretrained(packed, **half),
        "packed, bfloat16, head too": lambda: AutoModelForCausalLM.from_pretrained(whole, **half),
        "packed, float32": lambda: AutoModelForCausalLM.from_pretrained(packed),
        "packed, int8 (W4A8)": lambda: AutoModelForCausalLM.from_pretrained(
            packed, quantization_config=config(compute="int8"), **half
        ),
        "bitsandbytes NF4": lambda: AutoModelForCausalLM.from_pretrained(
            dense,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            ),
            **half,
        ),
    }
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make().eval()
        except ImportError as error:
            print(f"{name}: not installed ({error})")
    return found


def llama_cpp(file: Path, threads: int, tokens: int) -> dict[str, Generator]:
    """The far mark: a program of its own, without Python between the layers."""
    try:
        return {"llama.cpp IQ4_NL, head too": Generator(file, threads, tokens)}
    except ImportError as error:
        print(f"llama.cpp: not installed ({error})")
        return {}


def run(model: Any, prompt: torch.Tensor, tokens: int) -> float:
    """Seconds that `tokens` new tokens take."""
    started = time.perf_counter()
    with torch.no_grad():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - started


class Meter:
    """Time by name; what is metered inside something else does not count there."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside = [0.0]

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - started
                self.seconds[name] += took - self._inside.pop()
                self.calls[name] += 1
                self._inside[-1] += took

        return metered


class MeteredMatrix:
    """A compiled matrix whose products are metered."""

    def __init__(self, matrix: Any, meter: Meter) -> None:
        self._matrix = matrix
        self.multiply = meter.wrap("compiled product", matrix.multiply)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matrix, name)


def profile(directory: Path, prompt: torch.Tensor, tokens: int, rounds: int) -> None:
    """Print which modules take the time, each without those inside it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    run(model, prompt, tokens)
    started = time.thread_time()
    run(model, prompt, tokens)
    print(f"unmetered {(time.thread_time() - started) / tokens * 1e3:.1f} ms a token")
    meter = Meter()
    for module in model.modules():
        module.forward = meter.wrap(type(module).__name__, module.forward)
    for tensor in packed_tensors(model).values():
        for matrix in tensor.packing.kernels:
            matrix._native = MeteredMatrix(matrix._native, meter)
    everything = meter.wrap("generate, outside the model", run)
    for _ in range(rounds):
        everything(model, prompt, tokens)
    total = sum(meter.seconds.values())
    print(f"{tokens} tokens, {torch.get_num_threads()} threads, {rounds} rounds")
    for name, seconds in meter.seconds.most_common():
        each = tokens * rounds
        print(
            f"{name:28} {seconds / each * 1e3:7.2f} ms a token  {seconds / total:6.1%}  "
            f"{meter.calls[name] / each:6.1f} calls"
        )


if __name__ == "__main__":
    main()
