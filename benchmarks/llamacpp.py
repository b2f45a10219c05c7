"""llama.cpp by way of the xllamacpp wheel: a product with one quantized matrix, or a whole model.

The wheel is one shared library that exports ggml's C functions; :class:`Product` calls them as
llama.cpp does for a layer's weight: the tensor is put into the processor's "repack" buffer, which
interleaves rows for the vector width, and a graph of one ``ggml_mul_mat`` is computed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TYPES", "Generator", "Product", "instruction_sets"]

# ggml_type of ggml.h, and bytes of a block of 32 numbers.
TYPES = {"Q4_0": (2, 18), "IQ4_NL": (20, 18)}
_FLOAT32 = 0
_WEIGHTS = 1  # ggml_backend_buffer_usage
_SETS = ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon", "dotprod")


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class _ThreadpoolParams(ctypes.Structure):
    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_QUIET = _LOG(lambda level, text, data: None)

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_log_set": (None, (_LOG, _POINTER)),
    "ggml_init": (_POINTER, (_InitParams,)),
    "ggml_new_tensor_2d": (_POINTER, (_POINTER, _INT, _LONG, _LONG)),
    "ggml_mul_mat": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_new_graph": (_POINTER, (_POINTER,)),
    "ggml_build_forward_expand": (None, (_POINTER, _POINTER)),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        (_INT, _POINTER, _POINTER, _LONG, _LONG, _LONG, _POINTER),
    ),
    "ggml_backend_cpu_init": (_POINTER, ()),
    "ggml_backend_cpu_reg": (_POINTER, ()),
    "ggml_backend_cpu_set_n_threads": (None, (_POINTER, _INT)),
    "ggml_backend_cpu_set_threadpool": (None, (_POINTER, _POINTER)),
    "ggml_threadpool_params_default": (_ThreadpoolParams, (_INT,)),
    "ggml_threadpool_new": (_POINTER, (ctypes.POINTER(_ThreadpoolParams),)),
    "ggml_backend_reg_dev_get": (_POINTER, (_POINTER, ctypes.c_size_t)),
    "ggml_backend_reg_get_proc_address": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "ggml_backend_buft_name": (ctypes.c_char_p, (_POINTER,)),
    "ggml_backend_alloc_ctx_tensors": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_buffer_set_usage": (None, (_POINTER, _INT)),
    "ggml_backend_tensor_set": (None, (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_tensor_get": (None, (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_graph_compute": (_INT, (_POINTER, _POINTER)),
}


def _load() -> Any:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise ImportError("xllamacpp is not installed")
    library = ctypes.CDLL(str(next(Path(found.origin).parent.glob("*.so"))))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.ggml_log_set(_QUIET, None)  # it tells of every tensor that it repacks
    return library


def instruction_sets() -> str:
    """What the wheel was compiled for."""
    library = _load()
    return ", ".join(name for name in _SETS if getattr(library, f"ggml_cpu_has_{name}")())


def _repacking(library: Any) -> Any:
    """The buffer type that interleaves rows."""
    processor = library.ggml_backend_cpu_reg()
    get = library.ggml_backend_reg_get_proc_address(processor, b"ggml_backend_dev_get_extra_bufts")
    kind = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
    types = kind(get)(library.ggml_backend_reg_dev_get(processor, 0))
    for buffer_type in itertools.takewhile(bool, map(types.__getitem__, itertools.count())):
        if b"REPACK" in library.ggml_backend_buft_name(buffer_type):
            return buffer_type
    raise OSError("this llama.cpp repacks no weights")


class Product:
    """``x Wᵀ`` by llama.cpp, with `copies` of one repacked matrix.

    Parameters
    ----------
    weight
        float32, of shape ``(rows, columns)``; llama.cpp's own code quantizes it.
    type_name
        One of :data:`TYPES`.
    """

    def __init__(
        self, weight: npt.NDArray[np.float32], type_name: str, x: Any, copies: int, threads: int
    ) -> None:
        rows, columns = weight.shape
        kind, block_bytes = TYPES[type_name]
        self.library = library = _load()
        packed = np.empty(rows * columns // 32 * block_bytes, dtype=np.uint8)
        library.ggml_quantize_chunk(
            kind, weight.ctypes.data, packed.ctypes.data, 0, rows, columns, None
        )
        self.backend = library.ggml_backend_cpu_init()
        library.ggml_backend_cpu_set_n_threads(self.backend, threads)
        pool = library.ggml_threadpool_params_default(threads)
        pool.poll = 0  # threads that go on spinning would slow down whoever is called next
        library.ggml_backend_cpu_set_threadpool(
            self.backend, library.ggml_threadpool_new(ctypes.byref(pool))
        )
        self.shape = len(x), rows
        self.graphs = []
        for _ in range(copies):
            weights = library.ggml_init(_InitParams(1 << 16, None, True))
            matrix = library.ggml_new_tensor_2d(weights, kind, columns, rows)
            buffer = library.ggml_backend_alloc_ctx_tensors_from_buft(weights, _repacking(library))
            library.ggml_backend_buffer_set_usage(buffer, _WEIGHTS)
            library.ggml_backend_tensor_set(matrix, packed.ctypes.data, 0, packed.nbytes)
            context = library.ggml_init(_InitParams(1 << 20, None, True))
            given = library.ggml_new_tensor_2d(context, _FLOAT32, columns, len(x))
            product = library.ggml_mul_mat(context, matrix, given)
            graph = library.ggml_new_graph(context)
            library.ggml_build_forward_expand(graph, product)
            library.ggml_backend_alloc_ctx_tensors(context, self.backend)
            library.ggml_backend_tensor_set(given, x.ctypes.data, 0, x.nbytes)
            self.graphs.append((graph, product))

    def compute(self, i: int) -> None:
        """Multiply by copy `i`, modulo their number."""
        graph, _ = self.graphs[i % len(self.graphs)]
        if self.library.ggml_backend_graph_compute(self.backend, graph):
            raise OSError("ggml_backend_graph_compute failed")

    def result(self, i: int) -> npt.NDArray[np.float32]:
        """What :meth:`compute` has found, of shape ``(len(x), rows)``."""
        out = np.empty(self.shape, dtype=np.float32)
        _, product = self.graphs[i % len(self.graphs)]
        self.library.ggml_backend_tensor_get(product, out.ctypes.data, 0, out.nbytes)
        return out


# Answers each line of tokens with llama.cpp's own timings.
_SERVE = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, tokens = sys.argv[1], int(sys.argv[3])
params.n_ctx, params.n_parallel = 1024, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
params.cpuparams.poll = params.cpuparams_batch.poll = 0
params.verbosity, params.use_jinja = -1, False
server = xllamacpp.Server(params)
for line in sys.stdin:
    answer = server.handle_completions({"prompt": json.loads(line), "n_predict": tokens,
        "ignore_eos": True, "temperature": 0.0, "cache_prompt": False})
    print("timings", json.dumps(answer["timings"]), flush=True)
"""


class Generator:
    """A GGUF in a process of its own: beside other C++ libraries the wheel aborts."""

    def __init__(self, file: Path, threads: int, tokens: int) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ImportError("xllamacpp is not installed")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(file), str(threads), str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, prompt: list[int]) -> float:
        """Seconds that reading the prompt and generating take, by llama.cpp's own clock."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(prompt) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("timings "):
                timings = json.loads(line.partition(" ")[2])
                return float(timings["prompt_ms"] + timings["predicted_ms"]) / 1e3
        raise OSError(f"llama.cpp ended with code {self._process.wait()}")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
