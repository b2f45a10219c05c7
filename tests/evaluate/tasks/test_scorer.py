"""Our scorer against lm-evaluation-harness's own, on the same requests."""

from __future__ import annotations

import logging
from itertools import takewhile

import pytest
import torch
from lm_eval.api.instance import Instance
from torch import nn

from studentfloat.errors import ConfigError, DataError
from studentfloat.evaluate.tasks import StudentFloatLM, TaskOptions, load_tasks
from studentfloat.models import LoadedModel, find_model, load_model, quantize_checkpoint
from studentfloat.quantize import Scheme
from tests import tiny
from tests.evaluate.tasks import items
from tests.evaluate.tasks.conftest import load_tiny


def stock(model: LoadedModel, **options):
    """The harness's scorer on the same model; what it says of itself is not our concern."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # The tests' tokenizer has neither a beginning nor an end: the harness must be told one.
    prefix = StudentFloatLM(model).prefix_token_id
    return HFLM(
        pretrained=model.module, tokenizer=model.tokenizer, prefix_token_id=prefix, **options
    )


def requests(data: str, *names: str, **options) -> list[Instance]:
    tasks = load_tasks(TaskOptions(names, data=data, **options)).tasks
    return [request for task in tasks for request in task.requests]


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for (our_total, our_greedy), (total, greedy) in zip(ours, theirs, strict=True):
        assert our_total == pytest.approx(total, rel=1e-5, abs=1e-4)
        assert our_greedy == greedy


CHOSEN = tuple(name for name in items.LANGUAGE_TASKS if name != "wikitext")


@pytest.mark.parametrize("name", CHOSEN)
def test_log_likelihoods_are_those_of_the_harness(llama, data, name) -> None:
    asked = requests(data, name)
    theirs = stock(llama).loglikelihood(asked, disable_tqdm=True)
    for batch_size in (1, 3, 8):
        scorer = StudentFloatLM(llama, batch_size=batch_size)
        assert_same(scorer.loglikelihood(asked), theirs)
        assert scorer.notes == ()


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_every_architecture_with_contexts_longer_than_it_takes(family, data, tmp_path) -> None:
    """Sliding windows, learned positions, softcaps, experts; some items lose their beginning."""
    model = load_tiny(tmp_path / "m", tiny.FAMILIES[family])
    asked = requests(data, "piqa", "winogrande", "arc_easy", "boolq")
    ours = StudentFloatLM(model, batch_size=4)
    theirs = stock(model)
    assert ours.max_length == theirs.max_length
    if model.longest_window == 128:  # all but one
        lengths = [len("".join(request.args).encode()) for request in asked]
        assert min(lengths) < 129 < max(lengths)
    assert_same(ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True))
    assert all("longer than its window of" in note for note in ours.notes)
    assert bool(ours.notes) == bool(getattr(model.module.config, "sliding_window", None))


def test_whole_texts_in_windows(data, tmp_path) -> None:
    model = load_tiny(tmp_path / "m", lambda: tiny.llama(max_position_embeddings=24))
    asked = requests(data, "wikitext")
    ticks = []
    ours = StudentFloatLM(model, batch_size=3, tick=lambda: ticks.append(1))
    theirs = stock(model).loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs, rel=1e-5)
    assert len(ticks) == len(asked) == 2


def test_requests_that_belong_to_no_item(llama) -> None:
    asked = [
        Instance("loglikelihood", {}, arguments, i)
        for i, arguments in enumerate(
            [("", "to be"), ("to be ", "or not"), ("<pad>so", " it is"), ("", "<pad>x"), ("a", "b")]
        )
    ]
    theirs = stock(llama).loglikelihood(asked, disable_tqdm=True)
    ticks = []
    ours = StudentFloatLM(llama, tick=lambda: ticks.append(1))
    assert_same(ours.loglikelihood(asked), theirs)
    assert len(ticks) == 5


def test_a_tokenizer_that_begins_every_text(llama, data, tmp_path) -> None:
    """As those of Llama and Gemma do; a text that brings the token is given no second one."""
    from tokenizers import processors

    tokenizer = tiny.bpe_tokenizer()
    size = len(tokenizer)
    wide = load_tiny(
        tmp_path / "m", lambda: tiny.llama(vocab_size=size, max_position_embeddings=512)
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    model = LoadedModel(wide.source, wide.module, tokenizer, wide.kind)
    arguments = [("what is", " this"), ("<s>what is", " that"), ("", "so it is"), ("", "<s>so")]
    own = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(arguments)]
    asked = own + requests(data, "piqa", "winogrande")
    ours = StudentFloatLM(model)
    assert ours._encode(*arguments[0])[0][0] == tokenizer.bos_token_id
    assert ours._encode(*arguments[1])[0].count(tokenizer.bos_token_id) == 1
    assert_same(ours.loglikelihood(asked), stock(model).loglikelihood(asked, disable_tqdm=True))
    (whole,) = requests(data, "wikitext", limit=1)
    theirs = stock(model).loglikelihood_rolling([whole], disable_tqdm=True)
    assert ours.loglikelihood_rolling([whole]) == pytest.approx(theirs, rel=1e-5)
    other = LoadedModel(llama.source, llama.module, tokenizer, llama.kind)
    with pytest.raises(DataError, match=r"gives token 26\d, but .* vocabulary ends at 259"):
        StudentFloatLM(other).loglikelihood(asked)


def counting(module: nn.Module, found: list[int]):
    return module.register_forward_hook(
        lambda _module, given, _output: found.append(given[0].shape[:2].numel())
    )


def test_only_what_is_asked_is_run(llama, data) -> None:
    """Tokens through the first block, and positions through the head, against the least."""
    asked = requests(data, "arc_easy")
    scorer = StudentFloatLM(llama, batch_size=1)
    pairs = [scorer._encode(*request.args) for request in asked]
    least = 0
    for item in {request.doc_id for request in asked}:
        mine = [p for p, r in zip(pairs, asked, strict=True) if r.doc_id == item]
        # The last token of a choice is predicted, not run.
        inputs = [(context + continuation)[:-1] for context, continuation in mine]
        columns = zip(*inputs, strict=False)
        shared = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
        assert shared >= len(mine[0][0])
        least += shared + sum(len(tokens) - shared for tokens in inputs)
    scorer.loglikelihood(asked[:4])  # the first time contexts are run both ways
    tokens: list[int] = []
    positions: list[int] = []
    handles = [
        counting(llama.module.model.layers[0].mlp, tokens),
        counting(llama.module.lm_head, positions),
    ]
    scorer.loglikelihood(asked)
    for handle in handles:
        handle.remove()
    assert sum(tokens) == least
    whole = sum(len(context) + len(continuation) for context, continuation in pairs)
    assert sum(tokens) < 0.6 * whole
    assert sum(positions) <= sum(len(continuation) for _, continuation in pairs) + 2 * len(asked)


def test_sharing_a_context_changes_nothing(llama, data) -> None:
    asked = requests(data, "piqa", "arc_easy", "winogrande", "mmlu")
    shared = StudentFloatLM(llama, batch_size=5)
    whole = StudentFloatLM(llama, batch_size=5, share_prefix=False)
    assert_same(shared.loglikelihood(asked), whole.loglikelihood(asked))
    assert shared._scorer._shares is True
    assert whole._scorer._shares is False


class Heedless(nn.Module):
    """A model that takes a mask of pairs and makes a padding mask of it."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model, self.config, self.dtype = model, model.config, model.dtype

    def get_output_embeddings(self):
        return self.model.get_output_embeddings()

    def forward(self, input_ids, position_ids=None, attention_mask=None, use_cache=False):
        return self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False)


def test_a_model_that_shares_otherwise_is_noticed(llama, data) -> None:
    asked = requests(data, "arc_easy")
    model = LoadedModel(llama.source, Heedless(llama.module), llama.tokenizer, llama.kind)
    scorer = StudentFloatLM(model)
    expected = StudentFloatLM(llama).loglikelihood(asked)
    assert_same(scorer.loglikelihood(asked), expected)
    assert scorer.notes == (
        "each choice is run with its whole context: sharing it gives other scores",
    )


def test_an_architecture_without_attention(data, tmp_path) -> None:
    import transformers

    def mamba():
        return transformers.MambaForCausalLM(
            transformers.MambaConfig(
                vocab_size=tiny.VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1
            )
        )

    model = load_tiny(tmp_path / "m", mamba)
    asked = requests(data, "winogrande", limit=1)
    scorer = StudentFloatLM(model)
    theirs = stock(model).loglikelihood(asked, disable_tqdm=True)
    assert_same(scorer.loglikelihood(asked), theirs)
    assert len(scorer.notes) == 1
    assert "each choice is run with its whole context" in scorer.notes[0]


def test_attention_that_takes_no_mask_shares_nothing(llama, data) -> None:
    from studentfloat.models import KVCacheScheme, quantized_kv_cache

    asked = requests(data, "arc_easy", limit=2)
    with quantized_kv_cache(
        llama.module, KVCacheScheme(Scheme("int4", 16, scale_dtype="bfloat16"))
    ):
        scorer = StudentFloatLM(llama)
        scores = scorer.loglikelihood(asked)
        alone = [StudentFloatLM(llama).loglikelihood([request])[0] for request in asked]
    assert_same(scores, alone)
    assert "'studentfloat_kv' takes no mask" in scorer.notes[0]
    plain = StudentFloatLM(llama).loglikelihood(asked)
    assert any(abs(a[0] - b[0]) > 1e-3 for a, b in zip(scores, plain, strict=True))


def test_a_model_whose_head_is_no_module(llama, data, monkeypatch) -> None:
    asked = requests(data, "piqa", "arc_easy")
    expected = StudentFloatLM(llama).loglikelihood(asked)
    monkeypatch.setattr(llama.module, "get_output_embeddings", lambda: None)
    scorer = StudentFloatLM(llama)
    assert_same(scorer.loglikelihood(asked), expected)
    assert "logits of all positions" in scorer.notes[0]


def test_logits_in_chunks(llama, data, monkeypatch) -> None:
    asked = requests(data, "piqa", "arc_easy")
    expected = StudentFloatLM(llama).loglikelihood(asked)
    monkeypatch.setattr("studentfloat.evaluate.tasks.heads._CHUNK_BYTES", 4 * tiny.VOCABULARY * 3)
    assert_same(StudentFloatLM(llama).loglikelihood(asked), expected)


def test_half_precision(llama, data, tmp_path) -> None:
    source = find_model(str(tiny.save(tiny.llama, tmp_path / "m", spread=2.0)))
    model = load_model(source, dtype=torch.bfloat16)
    asked = requests(data, "arc_easy")
    ours = StudentFloatLM(model).loglikelihood(asked)
    theirs = stock(model).loglikelihood(asked, disable_tqdm=True)
    for (our_total, _), (total, _) in zip(ours, theirs, strict=True):
        assert our_total == pytest.approx(total, rel=0.02, abs=0.5)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> LoadedModel:
    place = tmp_path_factory.mktemp("packed")
    source = find_model(str(tiny.save(tiny.llama, place / "dense")))
    scheme = Scheme("sf4", block_size=16, scale_dtype="bfloat16")
    quantize_checkpoint(source, scheme, place / "packed", head=True)
    return load_model(find_model(str(place / "packed"), packed=True))


def test_a_packed_model_scores_the_same_in_the_harness(packed, data) -> None:
    """Also as transformers itself loads it; constructing HFLM changes nothing in it."""
    import transformers

    asked = requests(data, "piqa", "arc_easy")
    ours = StudentFloatLM(packed).loglikelihood(asked)
    assert_same(ours, stock(packed).loglikelihood(asked, disable_tqdm=True))
    assert_same(StudentFloatLM(packed).loglikelihood(asked), ours)
    again = transformers.AutoModelForCausalLM.from_pretrained(packed.source.directory)
    theirs = stock(LoadedModel(packed.source, again, packed.tokenizer, packed.kind))
    assert_same(ours, theirs.loglikelihood(asked, disable_tqdm=True))


def with_a_head_of_its_own(place) -> LoadedModel:
    """A model whose configuration ties its head, and whose head was replaced."""
    model = load_tiny(place)
    head = model.module.lm_head
    head.weight = nn.Parameter(torch.flip(head.weight.detach(), dims=[0]).clone())
    return model


def test_a_replaced_head_stays(data, tmp_path) -> None:
    """The harness ties weights again when it is handed a model; we leave it as it is."""
    asked = requests(data, "arc_easy")
    model = with_a_head_of_its_own(tmp_path / "m")
    head = model.module.lm_head.weight.detach().clone()
    before = StudentFloatLM(model).loglikelihood(asked)
    assert torch.equal(model.module.lm_head.weight, head)
    assert StudentFloatLM(model).loglikelihood(asked) == before
    # The trap itself, so that it is noticed when it is gone.
    theirs = stock(model)
    assert not torch.equal(model.module.lm_head.weight, head)
    assert any(
        abs(a[0] - b[0]) > 0.1
        for a, b in zip(theirs.loglikelihood(asked, disable_tqdm=True), before, strict=True)
    )
    # The way around it that docs/tasks.md tells.
    model = with_a_head_of_its_own(tmp_path / "again")
    model.module.config.tie_word_embeddings = False
    assert_same(stock(model).loglikelihood(asked, disable_tqdm=True), before)


def test_nothing_is_remembered_from_one_model_to_the_next(llama, data, tmp_path) -> None:
    """The harness's cache of answers is keyed by the question alone."""
    from lm_eval.api.model import CachingLM

    asked = requests(data, "arc_easy", limit=2)
    other = load_tiny(tmp_path / "m", lambda: tiny.llama(hidden_size=32))
    first, second = (StudentFloatLM(m).loglikelihood(asked) for m in (llama, other))
    assert first != second
    assert StudentFloatLM(llama).loglikelihood(asked) == first
    assert all(not r.resps and not r.filtered_resps for r in asked)
    caches = [CachingLM(StudentFloatLM(m), str(tmp_path / "cache.db")) for m in (llama, other)]
    answers = [[tuple(a) for a in cache.loglikelihood(asked)] for cache in caches]
    for cache in caches:
        cache.dbdict.close()
    assert answers == [first, first], "the trap is gone: docs/decisions/0015 says it is there"


def test_what_it_does_not_do(llama, tmp_path, data) -> None:
    with pytest.raises(ConfigError, match="generate"):
        StudentFloatLM(llama).generate_until([])
    bert = load_tiny(tmp_path / "bert", tiny.bert)
    with pytest.raises(ConfigError, match="is no causal language model but encoder"):
        StudentFloatLM(bert)
    bare = LoadedModel(llama.source, llama.module, None, llama.kind)
    with pytest.raises(DataError, match="no tokenizer"):
        StudentFloatLM(bare)
    long = Instance("loglikelihood", {}, ("a", "b" * 600), 0)
    with pytest.raises(DataError, match=r"600 tokens is longer than .* at most 512"):
        StudentFloatLM(llama).loglikelihood([long])
    with pytest.raises(DataError, match="needs one of each"):
        StudentFloatLM(llama).loglikelihood([Instance("loglikelihood", {}, ("a", ""), 0)])


def test_overflow_is_named(llama, data) -> None:
    norm = llama.module.model.norm.weight
    kept = norm.detach().clone()
    norm.data.fill_(torch.inf)
    with pytest.raises(DataError, match="gives NaN or infinity"):
        StudentFloatLM(llama).loglikelihood(requests(data, "arc_easy"))
    norm.data.copy_(kept)
