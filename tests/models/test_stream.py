from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from studentfloat.errors import ModelError
from studentfloat.models.stream import list_tensors


@pytest.fixture
def shard(tmp_path):
    tensors = {
        "model.layers.10.mlp.up_proj.weight": torch.randn(6, 4),
        "model.layers.2.mlp.up_proj.weight": torch.randn(6, 4, dtype=torch.bfloat16),
        "model.layers.2.attn.weight": torch.randn(2, 3, dtype=torch.float16),
        "model.embed_tokens.weight": torch.randn(3, 3, dtype=torch.float64),
        "model.norm.weight": torch.ones(4),
        "position_ids": torch.arange(6).reshape(2, 3),
        "empty.weight": torch.zeros(0, 4),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    return file, tensors


def test_every_float_tensor_is_read_to_the_bit(shard) -> None:
    file, tensors = shard
    listed, damaged = list_tensors([file])
    assert damaged == {}
    assert {tensor.name for tensor in listed} == set(tensors)
    for tensor in listed:
        if tensor.dtype == "I64":
            with pytest.raises(ModelError, match="I64"):
                tensor.read()
            continue
        values = tensor.read()
        assert values.shape == tensor.shape == tuple(tensors[tensor.name].shape)
        np.testing.assert_array_equal(values, tensors[tensor.name].double().numpy())


def test_names_say_layer_role_and_what_is_no_matrix(shard) -> None:
    listed, _ = list_tensors([shard[0]])
    by_name = {tensor.name: tensor for tensor in listed}
    names = [tensor.name for tensor in listed if tensor.layer is not None]
    assert names.index("model.layers.2.mlp.up_proj.weight") < names.index(
        "model.layers.10.mlp.up_proj.weight"
    )
    up = by_name["model.layers.10.mlp.up_proj.weight"]
    assert (up.layer, up.role, up.is_embedding_or_head) == (10, "up_proj", False)
    assert by_name["model.embed_tokens.weight"].is_embedding_or_head
    assert "vector" in by_name["model.norm.weight"].why_not_real()
    assert "I64" in by_name["position_ids"].why_not_real()


def test_a_truncated_shard_costs_only_what_is_cut_off(shard) -> None:
    file, tensors = shard
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 60])
    listed, damaged = list_tensors([file])
    assert damaged == {}
    failed = []
    for tensor in (tensor for tensor in listed if tensor.dtype != "I64"):
        try:
            np.testing.assert_array_equal(tensor.read(), tensors[tensor.name].double().numpy())
        except ModelError as error:
            failed.append(str(error))
    assert 0 < len(failed) < 5
    assert all("truncated" in message for message in failed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "only 3 bytes"),
        (struct.pack("<Q", 10**12) + b"{}", "claims"),
        (struct.pack("<Q", 3) + b"{{{", "not valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "not JSON: it must begin with a brace"),
    ],
)
def test_a_damaged_header_is_told_and_other_shards_are_read(
    shard, tmp_path, content, message
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(content)
    listed, damaged = list_tensors([bad, shard[0]])
    assert len(listed) == 7
    assert message in damaged["bad.safetensors"]


def test_a_header_that_contradicts_itself_is_damaged(tmp_path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    _, damaged = list_tensors([file])
    assert "12 bytes for F32 of shape [2, 2]" in damaged["x.safetensors"]
