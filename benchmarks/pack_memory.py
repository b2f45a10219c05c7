"""Quantize a synthetic checkpoint of 20 GB in a process whose data may take 2 GB.

    python benchmarks/pack_memory.py [--gigabytes 20] [--limit 2] [--directory DIR]

Needs one and a third times as much room on disk. The limit is RLIMIT_DATA: heap and private
mappings, of the interpreter and torch too.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, INNER = 4096, 14336
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (1024, HIDDEN),
    "self_attn.v_proj": (1024, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
WORK = """
import resource, sys, time
from pathlib import Path
limit = int(float(sys.argv[3]) * 1e9)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from studentfloat.models import find_model, quantize_checkpoint
from studentfloat.quantize import Scheme
started = time.monotonic()
scheme = Scheme("sf4", scale_dtype="bfloat16")
done = quantize_checkpoint(find_model(sys.argv[1]), scheme, Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{done.bytes / 1e9:.2f} GB written, {done.bits_per_weight:.3f} bits a weight, "
      f"{time.monotonic() - started:.0f} s, peak resident {peak:.2f} GB, limit {sys.argv[3]} GB")
"""


def main() -> None:
    """Make it, quantize it, tell, and clean up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--limit", type=float, default=2)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        size = make(place / "source", options.gigabytes)
        largest = 2 * max(a * b for a, b in SHAPES.values())
        print(f"source: {size / 1e9:.1f} GB, largest tensor {largest / 1e9:.2f} GB")
        command = [sys.executable, "-c", WORK, place / "source", place / "out", str(options.limit)]
        subprocess.run([str(part) for part in command], check=True)
    finally:
        shutil.rmtree(place)


def make(place: Path, gigabytes: float) -> int:
    """Llama-shaped layers of random bfloat16, as many as it takes; gives the bytes written."""
    place.mkdir()
    torch.manual_seed(0)
    per_layer = 2 * sum(a * b for a, b in SHAPES.values())
    layers = max(1, round(gigabytes * 1e9 / per_layer))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "tie_word_embeddings": True,
    }
    (place / "config.json").write_text(json.dumps(config))
    # Drawing them anew for each layer would take longer than quantizing them.
    drawn = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}
    for layer in range(layers):
        tensors = {f"model.layers.{layer}.{name}.weight": t for name, t in drawn.items()}
        save_file(tensors, place / f"model-{layer:03}.safetensors", {"format": "pt"})
        print(f"layer {layer + 1} of {layers} written", file=sys.stderr)
    rest = {
        "model.embed_tokens.weight": torch.randn(32000, HIDDEN).bfloat16(),
        "model.norm.weight": torch.ones(HIDDEN),
    }
    save_file(rest, place / "model-rest.safetensors", {"format": "pt"})
    return sum(file.stat().st_size for file in place.glob("*.safetensors"))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
