"""Layer-by-layer calibration against a slow reference that runs the whole model each time."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from studentfloat.errors import ConfigError, DataError, FailureError, ModelError
from studentfloat.models import (
    Calibration,
    CalibrationWindows,
    LoadedModel,
    ModelKind,
    WeightKind,
    quantize_model,
    walk_weights,
)
from studentfloat.quantize import GPTQOptions, Scheme, fake_quantize, gptq
from tests import tiny

SCHEME = Scheme("nf4", 16)
EXPERTS = (WeightKind.EXPERTS, WeightKind.TRANSPOSED_EXPERTS)


def loaded(make, *, kind: ModelKind = ModelKind.CAUSAL, tokenizer=None) -> LoadedModel:
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "eager"  # the others know no double precision
    # In double precision, or rounding decides which side of a boundary a number falls on.
    return LoadedModel(SimpleNamespace(name="tiny"), model.double().eval(), tokenizer, kind)


def windows(count: int = 3, length: int = 24) -> CalibrationWindows:
    generator = torch.Generator().manual_seed(5)
    return CalibrationWindows(
        torch.randint(4, tiny.VOCABULARY, (count, length), generator=generator)
    )


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_numbers_that_say_nothing_are_named(method: str) -> None:
    model = loaded(lambda: tiny.llama(num_hidden_layers=1))
    weight = model.module.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 4] = torch.nan
    with pytest.raises(DataError, match=r"layers\.0\.mlp\.up_proj\.weight holds 1 NaN"):
        quantize_model(model, SCHEME, method, calibration=windows(1))
    # In squares of what it feeds, a norm of 1e30 overflows in single precision.
    with torch.no_grad():
        weight[3, 4] = 0
        model.module.float().model.layers[0].input_layernorm.weight.fill_(1e30)
    with pytest.raises(DataError, match=r"inputs of model\.layers\.0\.self_attn\.q_proj"):
        quantize_model(model, SCHEME, method, calibration=windows(1))


def inputs_of(model, sites, tokens) -> dict[str, list[torch.Tensor]]:
    """What each weight is fed with in a run of the whole model: experts as a list of each."""
    heard: dict[str, list[torch.Tensor]] = {site.name: [] for site in sites}
    modules = dict(model.named_modules())
    handles = []
    for site in sites:
        module = modules[site.name.rpartition(".")[0]]
        if site.kind in EXPERTS:
            handles.append(
                module.register_forward_pre_hook(_expert_hook(site, heard), with_kwargs=True)
            )
        else:

            def hook(_module, args, site=site):
                heard[site.name].append(args[0].detach().flatten(0, -2).double())

            handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        for window in tokens:
            model(input_ids=window[None])
    for handle in handles:
        handle.remove()
    return heard


def _expert_hook(site, heard):
    def hook(module, args, kwargs):
        values = [*args, *kwargs.values()]
        hidden, chosen = values[0].detach().flatten(0, -2), values[1]
        for expert in range(site.parameter.shape[0]):
            inputs = hidden[(chosen == expert).any(dim=-1)]
            if "down" in site.name:
                transposed = site.kind is WeightKind.TRANSPOSED_EXPERTS
                up = module.gate_up_proj[expert]
                both = inputs @ up if transposed else inputs @ up.T
                if hasattr(module, "gate_up_proj_bias"):
                    inputs = module._apply_gate(both + module.gate_up_proj_bias[expert])
                else:
                    gate, up = both.chunk(2, dim=-1)
                    inputs = module.act_fn(gate) * up
            heard[site.name].append(inputs.detach().double())

    return hook


def hessian_of(site, inputs) -> torch.Tensor:
    if site.kind not in EXPERTS:
        stacked = torch.cat(inputs)
        return stacked.T @ stacked
    count = site.parameter.shape[0]
    each = [torch.cat(inputs[expert::count]) for expert in range(count)]
    return torch.stack([x.T @ x for x in each])


def reference(model, tokens, *, blocks: list[str]) -> None:
    """GPTQ in the model's order: for each block the whole model runs anew."""
    sites, _ = walk_weights(model)
    for prefix in blocks:
        inside = [site for site in sites if site.name.startswith(prefix)]
        heard = inputs_of(model, inside, tokens)
        for site in inside:
            matrix = site.matrix(site.parameter.detach())
            new = gptq(matrix, hessian_of(site, heard[site.name]), SCHEME).tensor.dequantize()
            site.apply(lambda _, new=new: new)


def block_names(model) -> list[str]:
    names = [site.name for site in walk_weights(model)[0]]
    found = []
    for name in names:
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        prefix = name if number is None else ".".join(parts[: number + 1]) + "."
        if prefix not in found:
            found.append(prefix)
    inner = [name for name in found if name.endswith(".")]
    return inner + [name for name in found if not name.endswith(".")]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_a_run_of_the_whole_model(family: str) -> None:
    tokens = windows()
    ours, slow = loaded(tiny.FAMILIES[family]), loaded(tiny.FAMILIES[family])
    result = quantize_model(ours, SCHEME, "gptq", tokens)
    reference(slow.module, tokens.tokens, blocks=block_names(slow.module))
    sites = {site.name: site for site in walk_weights(ours.module)[0]}
    assert set(result.weights) == set(sites)
    expected = dict(slow.module.named_parameters())
    for name, site in sites.items():
        torch.testing.assert_close(site.parameter, expected[name], msg=name)
        stored = result.weights[name].dequantize()
        torch.testing.assert_close(stored, site.matrix(site.parameter.detach()))
    x = tokens.tokens[:1]
    with torch.no_grad():
        torch.testing.assert_close(ours.module(input_ids=x).logits, slow.module(input_ids=x).logits)


@pytest.mark.parametrize("make", [tiny.bert, tiny.roberta, lambda: tiny.bert(head=True)])
def test_encoders(make) -> None:
    tokens = windows()
    ours, slow = loaded(make, kind=ModelKind.ENCODER), loaded(make)
    quantize_model(ours, SCHEME, "gptq", tokens)
    reference(slow.module, tokens.tokens, blocks=block_names(slow.module))
    expected = dict(slow.module.named_parameters())
    for name, parameter in ours.module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], msg=name)


def test_records_say_what_happened() -> None:
    model = loaded(tiny.llama)
    original = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    result = quantize_model(model, SCHEME, "gptq", windows())
    assert len(result.records) == 14
    record = result.records[3]
    weight = original[record.name]
    nearest, bits = fake_quantize(weight, SCHEME)
    assert record.method == "gptq"
    assert record.tokens == 72
    assert record.bits_per_weight == bits
    assert record.weight_nmse_nearest == pytest.approx(
        float((weight - nearest).square().sum() / weight.square().sum()), rel=1e-5
    )
    assert record.weight_nmse > record.weight_nmse_nearest
    assert 0 < record.output_nmse < record.output_nmse_nearest
    assert record.scale_least <= record.scale_median <= record.scale_greatest
    assert result.bits_per_weight == pytest.approx(bits)
    assert {tensor.name for tensor in result.skipped} & set(original)
    assert result.settings["calibration_windows"] == [3, 24]


@pytest.mark.parametrize("method", ["smooth=0.5", "awq+gptq"])
def test_a_scale_folded_into_a_weight_is_there_before_it_is_rounded(method: str) -> None:
    model = loaded(tiny.llama)
    result = quantize_model(model, SCHEME, method, windows())
    notes = [note for record in result.records for note in record.notes]
    assert any("folded into model.layers.0.mlp.up_proj" in note for note in notes)
    for site in walk_weights(model.module)[0]:
        stored = result.weights[site.name].dequantize()
        assert torch.equal(site.parameter, stored), site.name


def test_killed_it_ends_with_the_same_bytes() -> None:
    whole = quantize_model(loaded(tiny.llama), SCHEME, "gptq", windows())
    kept = []

    def die(block) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.append(block)

    with pytest.raises(KeyboardInterrupt):
        quantize_model(loaded(tiny.llama), SCHEME, "gptq", windows(), on_block=die)
    fresh = []
    model = loaded(tiny.llama)
    resumed = quantize_model(model, SCHEME, "gptq", windows(), finished=kept, on_block=fresh.append)
    assert [block.name for block in kept + fresh] == [block.name for block in whole.blocks]
    for name, weight in whole.weights.items():
        assert torch.equal(weight.base.packed, resumed.weights[name].base.packed)
        assert torch.equal(weight.base.scales, resumed.weights[name].base.scales)
    with pytest.raises(FailureError, match="belongs to another model"):
        quantize_model(loaded(tiny.gpt2), SCHEME, "gptq", windows(), finished=kept)


def test_methods_without_inputs_read_no_text() -> None:
    model = loaded(tiny.llama)
    original = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    result = quantize_model(model, SCHEME, "x2-mse", Calibration(text="/nowhere"))
    for name, weight in result.weights.items():
        expected, _ = fake_quantize(original[name], Scheme("nf4", 16, scale_rule="x2-mse"))
        assert torch.equal(weight.dequantize(), expected)
    assert result.settings["calibration"] is None


def test_weighted_search_is_weighted_by_activation_energy() -> None:
    model, slow = loaded(tiny.llama), loaded(tiny.llama)
    result = quantize_model(model, SCHEME, "weighted-mse", windows())
    sites = [site for site in walk_weights(slow.module)[0] if site.layer == 0]
    heard = inputs_of(slow.module, sites, windows().tokens)
    for site in sites:
        energy = torch.cat(heard[site.name]).square().sum(dim=0)
        expected, _ = fake_quantize(
            site.parameter.detach(),
            Scheme("nf4", 16, scale_rule="weighted-mse"),
            weights=energy,
        )
        got = result.weights[site.name].dequantize()
        assert (got != expected).float().mean() < 0.01


def test_an_expert_without_tokens_is_rounded_to_nearest_and_listed() -> None:
    model = loaded(tiny.mixtral)
    with torch.no_grad():
        for layer in model.module.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.weight[:2] += 1.0  # two experts tie above the rest
            layer.mlp.gate.weight[2:] -= 0.0
    original = model.module.model.layers[0].mlp.experts.down_proj.detach().clone()
    hidden = model.module.model.embed_tokens.weight
    with torch.no_grad():
        hidden.abs_()
    result = quantize_model(model, SCHEME, "gptq", windows(1, 12))
    name = "model.layers.0.mlp.experts.down_proj"
    record = next(r for r in result.records if r.name == name)
    idle = next(note for note in record.notes if note.startswith("experts without tokens"))
    listed = [int(i) for i in idle.rpartition(": ")[2].split(", ")]
    assert listed
    for expert in listed:
        nearest, _ = fake_quantize(original[expert], SCHEME)
        assert torch.equal(result.weights[name].dequantize()[expert], nearest)


def test_the_head_is_calibrated_on_the_quantized_blocks_outputs() -> None:
    make = lambda: tiny.llama(tie_word_embeddings=False)  # noqa: E731
    model, slow = loaded(make), loaded(make)
    result = quantize_model(model, SCHEME, "gptq", windows(), head=True)
    assert result.blocks[-1].name == ""
    reference(slow.module, windows().tokens, blocks=block_names(slow.module))
    site = next(s for s in walk_weights(slow.module, head=True)[0] if s.kind is WeightKind.HEAD)
    heard = inputs_of(slow.module, [site], windows().tokens)
    expected = gptq(
        site.parameter.detach(), hessian_of(site, heard[site.name]), SCHEME
    ).tensor.dequantize()
    got = result.weights["lm_head.weight"].dequantize()
    torch.testing.assert_close(got, expected)


def test_an_embedding_has_no_inputs() -> None:
    result = quantize_model(loaded(tiny.llama), SCHEME, "gptq", windows(), embeddings=True)
    (record,) = (r for r in result.records if r.kind == "embed_tokens")
    assert record.method == "rtn"
    assert "looked up" in record.notes[0]


def test_blocks_that_pass_more_than_hidden_states_are_refused() -> None:
    model = loaded(tiny.llama)
    second = model.module.model.layers[1]
    second.register_forward_pre_hook(
        lambda _module, args, kwargs: ((args[0] * 2, *args[1:]), kwargs),
        with_kwargs=True,
        prepend=True,
    )
    with pytest.raises(ModelError, match="more than hidden states passes between the blocks"):
        quantize_model(model, SCHEME, "gptq", windows())


def test_misuse() -> None:
    model = loaded(tiny.llama, tokenizer=tiny.byte_tokenizer())
    for method, message in (
        ("gtpq", "no step is called 'gtpq'"),
        ("gptq+gptq", "'gptq' is given twice"),
        ("rank=x", "a number from 1"),
        ("mse+x2-mse", "both a scale rule"),
    ):
        with pytest.raises(ConfigError, match=message):
            quantize_model(model, SCHEME, method)
    with pytest.raises(ConfigError, match="at least one window"):
        Calibration(windows=0)
    with pytest.raises(ConfigError, match="at most 128"):
        quantize_model(model, SCHEME, "gptq", Calibration(window_length=500))


def test_a_text_shorter_than_one_window(tmp_path) -> None:
    (tmp_path / "short.txt").write_text("few words")
    model = loaded(tiny.llama, tokenizer=tiny.byte_tokenizer())
    calibration = Calibration(text=str(tmp_path / "short.txt"), windows=1, window_length=100)
    with pytest.raises(DataError, match="9 tokens, too few for 1 windows of 100"):
        quantize_model(model, SCHEME, "gptq", calibration)


def test_encoder_decoders_are_not_calibrated_on_text() -> None:
    model = loaded(tiny.t5, kind=ModelKind.OTHER)
    with pytest.raises(ConfigError, match="cannot be calibrated on text"):
        quantize_model(model, SCHEME, "gptq")
    assert len(quantize_model(model, SCHEME, "rtn").weights) == 32


def test_options_reach_gptq() -> None:
    ours = quantize_model(
        loaded(tiny.llama), SCHEME, "gptq", windows(), gptq=GPTQOptions(order="none")
    )
    other = quantize_model(loaded(tiny.llama), SCHEME, "gptq", windows())
    name = next(iter(ours.weights))
    assert not torch.equal(ours.weights[name].base.packed, other.weights[name].base.packed)
