"""Products with packed weights, quantizing and dequantizing, beside their peers.

    pip install 'studentfloat[models,benchmark]' && python benchmarks/products.py --threads 1

Everything runs in one process, the calls taken in turn: the times are medians over rounds, the
ratios medians of ratios within a round, so that a drift of the machine's speed cancels (with
--clock cpu, so do calls that others interrupt: long ones would look slower than they are). Weights
are cold: every call takes the next of several copies, together larger than the last cache.
Products are of a `rows` by `columns` matrix in sf4 (blocks as asked for, bfloat16 scales) with 1
to 512 columns of activations. Each call that is timed follows others of the same library, as
it does in a model. "plain read" adds up the same bytes and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llamacpp import TYPES as LLAMA_CPP_TYPES
from llamacpp import Product as LlamaCppProduct
from llamacpp import instruction_sets as llama_cpp_instruction_sets
from torch import Tensor

from studentfloat.formats import get_format
from studentfloat.kernels import instruction_set, reference
from studentfloat.kernels.arrays import empty_like
from studentfloat.kernels.codec import decode
from studentfloat.kernels.dispatch import native
from studentfloat.quantize import Scheme, quantize
from studentfloat.quantize.compiled import value_table

# This file bears the name of a package that bitsandbytes looks for.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

Call = Callable[[int], object]
COLD_BYTES = 96 << 20  # three times the last cache of the machine that docs/kernels.md names


@dataclass(frozen=True)
class Case:
    """What is multiplied: a matrix of weights, and how it is quantized."""

    rows: int
    columns: int
    block: int
    threads: int

    @property
    def scheme(self) -> Scheme:
        return Scheme("sf4", block_size=self.block, scale_dtype="bfloat16")

    @property
    def weight(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.rows, self.columns, generator=generator)

    def copies(self, bits: float) -> int:
        return max(2, -(-COLD_BYTES * 8 // int(self.rows * self.columns * bits)))


def ours(case: Case, x: Tensor) -> Iterator[tuple[str, Call]]:
    quantized = quantize(case.weight, case.scheme)
    count = case.copies(4)
    matrices = [quantized.packed_matrix() for _ in range(count)]
    module = native()
    if module is not None:
        size = matrices[0].nbytes
        # In huge pages, as the matrices are.
        bytes_ = [empty_like(x, (size,), "uint8").fill_(1) for _ in range(count)]
        yield (
            "plain read",
            lambda i: module.read(bytes_[i % count].data_ptr(), size, case.threads),
        )
    short = x.bfloat16()
    # Each begins at another copy, so that none finds what the one before has fetched.
    second, third = count // 3, 2 * count // 3
    # Into given outputs, as the others have them and as the read needs none.
    out, short_out = torch.empty(len(x), case.rows), short.new_empty(len(x), case.rows)
    yield "ours, int8", lambda i: matrices[i % count].matmul(x, compute="int8", out=out)
    yield "ours, bfloat16", lambda i: matrices[(i + second) % count].matmul(short, out=short_out)
    yield "ours, float32", lambda i: matrices[(i + third) % count].matmul(x, out=out)
    if len(x) == 1:
        fourth = count // 2
        yield "ours, bfloat16, new output", lambda i: matrices[(i + fourth) % count].matmul(short)


def torch_bfloat16(case: Case, x: Tensor) -> Iterator[tuple[str, Call]]:
    count = case.copies(16)
    weights = [case.weight.bfloat16() for _ in range(count)]
    short = x.bfloat16()
    out = short.new_empty(len(x), case.rows)
    yield "torch bfloat16", lambda i: torch.mm(short, weights[i % count].T, out=out)


def bitsandbytes(case: Case, x: Tensor) -> Iterator[tuple[str, Call]]:
    import bitsandbytes as bnb

    count = case.copies(4)
    quantized = [
        bnb.functional.quantize_4bit(
            case.weight.bfloat16(), blocksize=max(64, case.block), quant_type="nf4"
        )
        for _ in range(count)
    ]
    short = x.bfloat16()

    def call(i: int) -> object:
        codes, state = quantized[i % count]
        return bnb.matmul_4bit(short, codes.t(), quant_state=state)

    yield "bitsandbytes NF4", call


def onnxruntime(case: Case, x: Tensor) -> Iterator[tuple[str, Call]]:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    blocks = case.columns // case.block
    integers = quantize(case.weight, Scheme("int4", block_size=case.block))
    # Codes count from 8 there, in two's complement here.
    codes = (integers.codes.numpy() ^ 8).reshape(case.rows, case.columns)
    packed = reference.pack(codes, 4).reshape(case.rows, blocks, case.block // 2)
    initializers = [
        numpy_helper.from_array(packed, "codes"),
        numpy_helper.from_array(integers.block_scales().numpy().reshape(-1), "scales"),
    ]
    sessions = []
    names = {4: "ONNX Runtime MatMulNBits, W4A8", 1: "ONNX Runtime MatMulNBits, float32"}
    for level, name in names.items():
        node = helper.make_node(
            "MatMulNBits",
            ["x", "codes", "scales"],
            ["y"],
            domain="com.microsoft",
            K=case.columns,
            N=case.rows,
            bits=4,
            block_size=case.block,
            accuracy_level=level,
        )
        graph = helper.make_graph(
            [node],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, case.columns])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, case.rows])],
            initializers,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = case.threads
        # Threads that go on spinning would slow down whoever is called next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        count = case.copies(4)
        binary = model.SerializeToString()
        made = [
            ort.InferenceSession(binary, options, providers=["CPUExecutionProvider"])
            for _ in range(count)
        ]
        sessions.append((name, made))
    numbers = x.numpy()
    for name, made in sessions:
        yield name, lambda i, made=made: made[i % len(made)].run(None, {"x": numbers})


def openvino(case: Case, x: Tensor) -> Iterator[tuple[str, Call]]:
    import openvino as ov
    from openvino import opset13 as op

    blocks = case.columns // case.block
    # What is stored, and in which format; any table is looked up by Gather, as NNCF writes it.
    kinds = {
        "INT4": ("int4", ov.Type.i4),
        "NF4": ("nf4", ov.Type.nf4),
        "table": ("sf4", ov.Type.u4),
    }
    numbers = x.numpy()
    core = ov.Core()
    for name, (number_format, kind) in kinds.items():
        quantized = quantize(case.weight, Scheme(number_format, block_size=case.block))
        shape = ov.Shape([case.rows, blocks, case.block])
        requests = []
        # The constants do not own what they are made of.
        kept = [quantized.packed.numpy().copy() for _ in range(case.copies(4))]
        scales = quantized.block_scales().numpy().astype(np.float16)[..., None].copy()
        table = get_format(number_format).decode_table.astype(np.float16)
        for packed in kept:
            codes = op.constant(ov.Tensor(packed, shape, kind))
            if name == "table":
                values = op.gather(op.constant(table), op.convert(codes, "u8"), op.constant(0))
            else:
                values = op.convert(codes, "f16")
            wide = op.multiply(values, op.constant(scales))
            whole = op.constant(np.array([case.rows, case.columns], dtype=np.int64))
            flat = op.reshape(wide, whole, special_zero=False)
            given = op.parameter([-1, case.columns], ov.Type.f32)
            product = op.matmul(given, op.convert(flat, "f32"), False, True)
            compiled = core.compile_model(
                ov.Model([product], [given]),
                "CPU",
                {"INFERENCE_NUM_THREADS": case.threads, "PERFORMANCE_HINT": "LATENCY"},
            )
            requests.append(compiled.create_infer_request())
        yield (
            f"OpenVINO {name}",
            lambda i, r=requests, kept=kept: r[i % len(kept)].infer([numbers], True, True),
        )


def llama_cpp(case: Case, x: Tensor) -> Iterator[tuple[str, Call]]:
    weight, numbers = case.weight.numpy(), x.numpy()
    sets = llama_cpp_instruction_sets()
    for name in LLAMA_CPP_TYPES:
        product = LlamaCppProduct(weight, name, numbers, case.copies(4.5), case.threads)
        yield f"llama.cpp {name}, repacked ({sets})", product.compute


PEERS: tuple[Callable[[Case, Tensor], Iterator[tuple[str, Call]]], ...] = (
    torch_bfloat16,
    bitsandbytes,
    onnxruntime,
    openvino,
    llama_cpp,
)


def products(case: Case, count: int, missing: set[str]) -> dict[str, Call]:
    """Every way to multiply, by name; notes the peers that are not installed."""
    x = torch.randn(count, case.columns, generator=torch.Generator().manual_seed(1))
    calls = dict(ours(case, x))
    for peer in PEERS:
        if peer.__name__ in missing:
            continue
        try:
            calls.update(peer(case, x))
        except Exception as error:
            missing.add(peer.__name__)
            print(f"without {peer.__name__}: {type(error).__name__}: {str(error)[:200]}")
    return calls


def codecs(case: Case, missing: set[str]) -> dict[str, dict[str, Call]]:
    """Every way to quantize and to dequantize."""
    weight, scheme = case.weight, case.scheme
    quantized = quantize(weight, scheme)
    scales, table = quantized.block_scales(), value_table(scheme.format)
    out = empty_like(weight, tuple(weight.shape), "float32")
    copy = empty_like(weight, tuple(weight.shape), "float32").fill_(1)
    size = copy.nbytes
    module = native()
    levels = torch.tensor(get_format("sf4").levels)
    cuts = (levels[1:] + levels[:-1]) / 2
    reads: dict[str, Call] = {}
    if module is not None:
        reads["plain read"] = lambda i: module.read(copy.data_ptr(), size, case.threads)

    def bucketize(i: int) -> object:
        blocks = weight.view(-1, case.block)
        peaks = blocks.abs().amax(dim=1, keepdim=True)
        return torch.bucketize(blocks / peaks, cuts, out_int32=True)

    def where(i: int) -> object:
        blocks = weight.view(-1, case.block)
        scaled = blocks / blocks.abs().amax(dim=1, keepdim=True)
        codes = torch.zeros_like(scaled)
        for k, cut in enumerate(cuts):
            codes = torch.where(scaled > cut, torch.full_like(codes, k + 1), codes)
        return codes

    to_codes: dict[str, Call] = {
        **reads,
        "ours": lambda i: quantize(weight, scheme),
        "torch bucketize": bucketize,
        "where per value (paper)": where,
    }

    def into(i: int) -> None:
        decode(quantized.packed, scales, table, out, bits=4, block_size=case.block)

    to_numbers: dict[str, Call] = {
        **reads,
        "ours, into a given output": into,
        "ours, a new output": lambda i: quantized.dequantize(),
    }
    try:
        import bitsandbytes.functional as bnb
    except ImportError:
        missing.add("bitsandbytes")
    else:
        state: Any = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        to_codes["bitsandbytes NF4"] = lambda i: bnb.quantize_4bit(
            weight, blocksize=64, quant_type="nf4"
        )
        to_numbers["bitsandbytes NF4"] = lambda i: bnb.dequantize_4bit(state[0], state[1])
    return {"quantize": to_codes, "dequantize": to_numbers}


def measure(
    calls: dict[str, Call],
    rounds: int,
    seconds: float,
    clock: Callable[[], float],
    *,
    copies: int = 1,
    warm: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of each call, round by round; slow ones get fewer rounds, but at least three.

    With `warm`, others by the same name go before it, for that many seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for i in range(copies):  # some repack a copy when it is first used
            call(i)
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    turns = dict.fromkeys(calls, 0)
    for i in range(rounds):
        # In another order each time: who comes after whom makes a difference.
        for name in rng.permutation(list(calls)):
            ready = time.perf_counter() + warm
            while True:
                warming = time.perf_counter() < ready
                begun = clock()
                calls[name](turns[name])
                took = clock() - begun
                turns[name] += 1
                if not warming:
                    break
            times[name].append(took)
        if i >= 2 and time.perf_counter() - started > seconds:
            break
    return times


def report(title: str, times: dict[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """Print a table; a ratio is how many times faster than the baseline."""
    print(f"\n{title} ({len(times[baseline])} rounds)")
    rows = []
    for name, its in times.items():
        ratio = statistics.median(b / t for b, t in zip(times[baseline], its, strict=True))
        rows.append({"what": title, "name": name, "ms": statistics.median(its) * 1e3})
        rows[-1][f"speed over {baseline}"] = ratio
        print(f"  {name:36} {rows[-1]['ms']:9.3f} ms   {ratio:6.2f} × the speed of {baseline}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 4096))
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--columns", type=int, nargs="*", default=[1, 8, 64, 512])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=8, help="a table, about, after warming up")
    names = [peer.__name__ for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names, help="by default all")
    parser.add_argument("--no-codecs", action="store_true")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time, for one thread on a machine that others use too",
    )
    parser.add_argument("--json", help="where to write the figures too")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads > 1:
        parser.error("processor time says nothing about several threads: take --threads 1")
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    torch.set_num_threads(options.threads)
    case = Case(*options.shape, options.block, options.threads)
    print(
        f"{case.rows} x {case.columns}, blocks of {case.block}, {case.threads} thread(s), "
        f"{instruction_set()}, {options.clock} time"
    )
    missing = set(names) - set(options.peers)
    rows = []
    # Threads of one library that go on spinning would take a core from the next one, and each
    # would find the others' code in the caches.
    warm = 0.02
    for count in options.columns:
        calls = products(case, count, missing)
        times = measure(
            calls, options.rounds, options.seconds, clock, copies=case.copies(4), warm=warm
        )
        wanted = "plain read" if count == 1 else "torch bfloat16"
        baseline = wanted if wanted in times else "ours, float32"
        rows += report(f"matrix x {count}", times, baseline)
    if not options.no_codecs:
        for title, calls in codecs(case, missing).items():
            times = measure(calls, options.rounds, options.seconds / 2, clock, warm=warm)
            rows += report(title, times, "plain read" if "plain read" in times else "ours")
    if missing:
        print(f"\nnot measured: {', '.join(sorted(missing))}")
    if options.json:
        found = {"case": vars(case), "missing": sorted(missing), "rows": rows}
        Path(options.json).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
