"""Tiny random models of real architectures, with a byte-level tokenizer, saved to disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 260


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token per byte, and four special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<cls>": 1, "<sep>": 2, "<unk>": 3}
    vocabulary |= {character: i + 4 for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        unk_token="<unk>",
    )


def bpe_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Bytes and a few merges, which llama.cpp asks for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "a")]
    words = ["<unk>", "<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    bare = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens(["<unk>", "<s>", "</s>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def llama(**changes) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
            **changes,
        }
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> torch.nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=128
        )
    )


def mixtral() -> torch.nn.Module:
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
            max_position_embeddings=128,
        )
    )


def gpt_oss() -> torch.nn.Module:
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            layer_types=["full_attention", "full_attention"],
        )
    )


def bert(head: bool = False) -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    return transformers.BertForMaskedLM(config) if head else transformers.BertModel(config)


def t5() -> torch.nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4
        )
    )


def vit() -> torch.nn.Module:
    return transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=32,
            patch_size=8,
        )
    )


def roberta() -> torch.nn.Module:
    return transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=66,
            pad_token_id=1,
        )
    )


def resnet() -> torch.nn.Module:
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    )


def save(
    make: Callable[[], torch.nn.Module],
    directory: Path,
    *,
    tokenizer: bool = True,
    max_shard_size: str = "5GB",
    spread: float = 8.0,
) -> Path:
    """Make a model with fixed random weights, spread wide enough to have opinions; save it."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    if tokenizer:
        byte_tokenizer().save_pretrained(directory)
    return directory


_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_NO_END = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _family(name: str, *, config_name: str = "", **changes) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        config = getattr(transformers, f"{config_name or name}Config")(
            **{**_SMALL, **_NO_END, **changes}
        )
        return getattr(transformers, f"{name}ForCausalLM")(config)

    return make


FAMILIES: dict[str, Callable[[], torch.nn.Module]] = {
    "llama": llama,
    "mistral": _family("Mistral", sliding_window=16),
    "qwen2": _family("Qwen2"),
    "qwen3": _family("Qwen3", head_dim=8),
    "gemma": _family("Gemma", head_dim=8),
    "gemma2": _family("Gemma2", head_dim=8, sliding_window=16, query_pre_attn_scalar=8),
    "gemma3": _family(
        "Gemma3",
        config_name="Gemma3Text",
        head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi": _family("Phi", partial_rotary_factor=0.5),
    "phi3": _family("Phi3"),
    "opt": _family("OPT", ffn_dim=48, word_embed_proj_dim=24),
    "gpt2": gpt2,
    "gpt-neox": _family("GPTNeoX", rotary_pct=0.25),
    "mixtral": mixtral,
    "qwen3-moe": _family(
        "Qwen3Moe", head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "gpt-oss": gpt_oss,
}
"""Decoders of each family that calibration must take."""
