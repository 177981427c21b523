"""Greedy decoding and beam search write what transformers' own do, and nothing that a grammar does not allow."""

import importlib
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForCausalLM, T5Config
from transformers.cache_utils import StaticLayer

from data.answers import constrained
from data.benchmark import sample, spider
from data.run.signals import Stop
from data.sqlite.execute import TIMED_OUT, Executor
from data.with_torch import quantised
from data.with_torch.answering import Questions
from data.with_torch.search import Answers, Columns

CPU = torch.device("cpu")
ENCODERS, DECODERS = ("T5_3B", "flan_t5_base"), ("gpt_neox_20b", "llama_65b")
PROMPTS = (30, 50, 7, 80)  # tokens
LONGEST = 20  # tokens of an answer


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """There 4-bit layers compute in bf16, and answers that are as likely change places."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module", params=[*ENCODERS, *DECODERS])
def script(request):
    return importlib.import_module(request.param)


@pytest.fixture(scope="module")
def model(script):
    """Random weights whose answers differ, as a copied output layer's do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        config = (T5Config if script.SCRIPT in ENCODERS else script.Config)(**script.TINY_CONFIG)
        if script.SCRIPT in ENCODERS:
            model = script.random_model(config, 0, CPU)
        else:
            how = script.quantization()
            model = quantised.random_base(quantised.skeleton_of(AutoModelForCausalLM, config, how), 0, CPU, how)
    for module in model.modules():
        module.support_avx512bf16_for_cpu = False  # as load_model has it
    model.eval()
    torch.manual_seed(1)
    head = torch.nn.Parameter(0.3 * torch.randn(2048, 128))
    model.get_output_embeddings().weight = head
    model.get_base_model = lambda: model
    return model


def prompts(script) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    made = [torch.randint(5, 2000, (length,), generator=generator).tolist() for length in PROMPTS]
    schema = made[0]
    for number in (1, 2):  # two questions behind one schema
        made[number] = schema + made[number]
    shared = [0, len(schema), len(schema), 0]
    return [dict(input_ids=ids, labels=[1], shared=count, schema=None) for ids, count in zip(made, shared)]


def own(script, model, rows: list[dict], end: int, beams: int, columns: int) -> tuple[list[Answers], int]:
    """Its answers, and how often some of them had to be asked again."""
    tokenizer, again = SimpleNamespace(pad_token_id=0, eos_token_id=end), 0
    args = replace(script.Args(), num_beams=beams, max_output_tokens=LONGEST)
    with torch.inference_mode():
        if script.SCRIPT in ENCODERS:
            return script.write(model, rows, args, tokenizer, None, CPU), 0
        found: list[Answers | None] = [None for _ in rows]
        while waiting := [i for i, answers in enumerate(found) if answers is None]:
            asked = [rows[i] | dict(columns=columns << again) for i in waiting]
            for i, answers in zip(waiting, script.write(model, asked, args, tokenizer, None)):
                found[i] = answers
            again += 1
        return found, again - 1


def others(model, row: dict, end: int, beams: int) -> dict[tuple, float]:
    """What transformers writes to one prompt, with the mean log-likelihood of each."""
    ids = torch.tensor([row["input_ids"]])
    how = dict(max_new_tokens=LONGEST, do_sample=False, num_beams=beams, num_return_sequences=beams, pad_token_id=0)
    with torch.inference_mode():
        done = model.generate(
            ids, attention_mask=torch.ones_like(ids), eos_token_id=end, output_scores=True, return_dict_in_generate=True, **how
        )
    start = 1 if model.config.is_encoder_decoder else ids.shape[1]
    found = {}
    for place, answer in enumerate(done.sequences[:, start:].tolist()):
        answer = answer[: answer.index(end) + 1] if end in answer else answer
        found[tuple(answer)] = done.sequences_scores[place].item() if beams > 1 else 0.0
    return found


@pytest.mark.parametrize(("beams", "columns"), [(1, LONGEST), (4, 4 * LONGEST), (1, 7), (4, 24), (4, 12)])
def test_answers_are_those_of_transformers(script, model, beams, columns):
    """With columns for all tokens, and with fewer, of which some are used again and some questions are asked again."""
    rows = prompts(script)
    end, ended, asked_again = 1, 0, 0
    for _ in range(2):
        found, again = own(script, model, rows, end, beams, columns)
        asked_again += again
        for row, answers in zip(rows, found):
            mine, expected = {tuple(tokens): score for tokens, score in answers}, others(model, row, end, beams)
            whole = {tokens: score for tokens, score in expected.items() if tokens[-1] == end}
            if len(whole) < beams:  # transformers' puts what was cut off among what ended
                expected = whole if beams > 1 else expected
            else:
                assert mine.keys() == expected.keys()
            assert expected.keys() <= mine.keys() and len(mine) == beams
            assert beams == 1 or expected == pytest.approx({tokens: mine[tokens] for tokens in expected}, abs=1e-4)
            ended += sum(tokens[-1] == end for tokens in mine)
        end = max(mine, key=len)[6]  # a token that ends one of them early
    assert ended and (asked_again or columns > 12 or script.SCRIPT in ENCODERS)


def likelihood(model, row: dict, tokens: list[int]) -> float:
    """The mean log-likelihood of an answer's tokens, in one pass over all of them."""
    ids, answer = torch.tensor([row["input_ids"]]), torch.tensor([tokens])
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            start = torch.full((1, 1), model.config.decoder_start_token_id)
            logits = model(input_ids=ids, decoder_input_ids=torch.cat([start, answer[:, :-1]], 1)).logits
        else:
            logits = model(torch.cat([ids, answer], 1)).logits[:, ids.shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(2, answer[..., None]).mean().item()


def test_scores_are_mean_log_likelihoods_of_what_ended_and_of_what_was_cut(script, model):
    rows = prompts(script)
    first, _ = own(script, model, rows, 1, 4, 30)
    end = first[0][0][0][6]  # some of its answers end with it, and others do not
    found, _ = own(script, model, rows, end, 4, 30)
    scored = [(row, tokens, score) for row, answers in zip(rows, found) for tokens, score in answers]
    assert {tokens[-1] == end for _, tokens, _ in scored} == {True, False}
    for row, tokens, score in scored:
        assert score == pytest.approx(likelihood(model, row, tokens), abs=1e-4)


def test_a_pack_has_no_more_beams_than_attention_takes_at_once(script, model, monkeypatch):
    if script.SCRIPT in ENCODERS:
        pytest.skip("has a row for each question")
    slots = []

    class Watched(script.Columns):
        def __init__(self, *given):
            super().__init__(*given)
            slots.append(self.slots)

    monkeypatch.setattr(script, "Columns", Watched)
    schema = prompts(script)[0]["input_ids"]
    rows = [dict(input_ids=[*schema, number], labels=[1], shared=len(schema), schema=None) for number in range(5, 45)]
    for beams in (1, 4, 80):
        own(script, model, rows[: 40 if beams < 80 else 2], 1, beams, beams * LONGEST)
    assert slots == [40, 64, 80]


def test_tensors_stay_where_they_are(script, model, monkeypatch):
    """A CUDA graph reads and writes where it did when it was captured, also after columns were used again."""
    if script.SCRIPT in ENCODERS:
        pytest.skip("has all columns from the beginning")
    moved, places = [], {}
    compact = script.Columns._compact
    monkeypatch.setattr(script.Columns, "_compact", lambda columns: moved.append(columns) or compact(columns))

    class Watched(script.Columns):
        def make_room(self, search):
            super().make_room(search)
            parts = [vars(self), vars(search), *map(vars, self.cache.layers)]
            tensors = [each for part in parts for each in part.values() if isinstance(each, torch.Tensor)]
            places.setdefault(self, set()).add(tuple(each.data_ptr() for each in tensors))

    monkeypatch.setattr(script, "Columns", Watched)
    found, _ = own(script, model, prompts(script), 1, 4, 30)
    assert len(moved) > 3 and all(found) and {len(each) for each in places.values()} == {1}


@pytest.mark.parametrize("seed", range(12))
def test_columns_keep_what_beams_attend_to_and_set_aside_no_more_than_has_to_go(seed):
    rng, packs, width, beams, first = random.Random(seed), 2, 3, 2, 2
    slots, size = width * beams, 30
    shares = [[rng.choice([4, 8, 12]) for _ in range(width)] for _ in range(packs)]
    places = torch.arange(first + size)
    layer = StaticLayer(max_cache_len=first + size)
    layer.lazy_initialization(*(torch.zeros(packs, 1, 0, 1),) * 2)
    layer.update(*(torch.zeros(packs, 1, first, 1),) * 2)  # the prompts'
    mask = (places < first).expand(packs, 1, slots, -1).clone()
    columns = Columns(SimpleNamespace(layers=[layer]), mask, first, shares, beams)
    search = SimpleNamespace(beams=beams, scores=torch.zeros(packs * width, beams))
    search.done = torch.zeros(packs * width, dtype=torch.bool)
    search.aside = torch.zeros_like(search.done)
    written = [[()] * beams for _ in range(packs * width)]  # tokens, which are numbers of their own, of each slot

    for step in range(1, 25):
        parents = [[rng.randrange(beams) for _ in range(beams)] for _ in written]
        search.parent = torch.tensor(parents)
        search.done |= torch.tensor([rng.random() < 0.03 for _ in written])
        written = [[own[parent] for parent in each] for own, each in zip(written, parents)]
        held = [0 if done else len({token for own in each for token in own}) for each, done in zip(written, search.done)]
        before = search.aside.tolist()
        columns.make_room(search)
        assert not (search.aside & ~search.done).any()
        for pack in range(packs):
            own = range(pack * width, (pack + 1) * width)
            gone = [question for question in own if search.aside[question] and not before[question]]
            left = sum(held[question] for question in own if question not in gone)
            beyond = {question: held[question] - shares[pack][question - own.start] for question in own if held[question]}
            if gone:
                least = min(gone, key=beyond.__getitem__)
                assert left + slots <= size < left + held[least] + slots
                assert beyond[least] >= max((beyond[question] for question in beyond if question not in gone), default=-size)
        seen = columns.attended(search.parent)
        tokens = torch.arange(packs * slots).view(packs, 1, slots, 1) + 1000 * step
        keys, _ = layer.update(tokens.float(), tokens.float())
        for question, (own, done) in enumerate(zip(written, search.done.tolist())):
            pack, place = divmod(question, width)
            for beam in range(beams):
                slot = place * beams + beam
                own[beam] += (1000 * step + pack * slots + slot,)
                if not done:
                    attended = keys[pack, 0, seen[pack, 0, slot], 0]
                    assert sorted(attended.tolist()) == [0.0] * first + sorted(map(float, own[beam]))


def test_memory_for_all_layers_is_taken_with_the_first(script, model):
    if script.SCRIPT in ENCODERS:
        pytest.skip("has no cache of this kind")
    cache = script.CacheAtOnce(config=model.config, max_cache_len=8)
    cache.update(torch.zeros(1, 4, 2, 32), torch.zeros(1, 4, 2, 32), 0)
    assert len(cache.layers) == 4 and all(layer.keys.shape == (1, 4, 8, 32) for layer in cache.layers)


@pytest.mark.parametrize(("columns", "length"), [(6, 6), (10_000, LONGEST)])
def test_a_batch_has_columns_as_asked_and_no_more_than_answers_take(script, model, monkeypatch, columns, length):
    if script.SCRIPT in ENCODERS:
        pytest.skip("has columns for all steps")
    lengths = []

    class Watched(script.CacheAtOnce):
        def __init__(self, config, max_cache_len):
            lengths.append(max_cache_len)
            super().__init__(config=config, max_cache_len=max_cache_len)

    monkeypatch.setattr(script, "CacheAtOnce", Watched)
    own(script, model, [prompts(script)[2]], 1, 1, columns)
    assert lengths[0] == 48 + length  # behind its prompt, which is filled up


ANSWER = [([3], 0.0)]


def questions(count: int, most: int, stop: Stop) -> Questions:
    rows = [dict(input_ids=[5] * (200 - number), db_id="any") for number in range(count)]
    options = dict(max_input_tokens=999, max_output_tokens=9, eval_batch_size=most, num_beams=1)
    return Questions(Dataset.from_list(rows), dict(any=None), options, Accelerator(cpu=True), stop)


def test_questions_that_want_more_columns_come_again_with_them():
    asked = questions(30, 10, Stop())

    def columns() -> list[int]:
        return [row["columns"] for row in asked.batch()]

    assert columns() == [64] * 10
    asked.take([ANSWER] * 8 + [None] * 2)
    assert columns() == [64] * 10
    asked.take([ANSWER] * 4 + [None] * 6)  # where most of a batch want more, all that wait get it
    assert columns() == [128] * 10
    asked.take([ANSWER] * 10)
    assert columns() == [256] * 2 + [128] * 6
    asked.take([ANSWER] * 8)
    assert not columns() and list(asked.written.values()) == [ANSWER] * 30


def test_a_batch_of_one_that_wants_more_columns_says_nothing_about_others():
    asked = questions(3, 1, Stop())
    asked.batch()
    asked.take([None])
    assert asked.columns == {0: 128, 1: 64, 2: 64} and asked.waiting == [1, 2, 0]


def test_the_last_questions_of_a_batch_wait_for_others_and_not_the_other_way_round():
    asked = questions(30, 16, Stop())
    asked.batch()
    assert not asked.enough(3) and asked.enough(2) and asked.enough(0)
    asked.take([ANSWER] * 14 + [None] * 2)
    asked.batch()  # the last
    assert not asked.enough(1) and asked.enough(0)


def test_a_signal_ends_a_batch_and_answers_that_are_not_written_are_none():
    stop = Stop()
    asked = questions(3, 2, stop)
    asked.batch()
    assert not asked.enough(2)
    stop.number = 15
    assert asked.enough(2)
    asked.take([ANSWER, None])
    assert not asked.batch() and asked.answers(SimpleNamespace(eos_token_id=1)) is None


def test_what_does_not_fit_shrinks_by_an_eighth():
    asked, sizes = questions(128, 128, Stop()), []
    for _ in range(4):
        sizes.append(len(asked.batch()))
        with asked.fewer():
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    assert sizes == [128, 112, 98, 85]


def test_questions_that_are_left_are_asked_again_and_the_others_have_their_answers(script, model):
    rows = prompts(script)
    end = own(script, model, rows, 1, 1, LONGEST)[0][0][0][0][3]  # a token that ends the first answer early
    whole, _ = own(script, model, rows, end, 1, LONGEST)
    longer = [answers[0][0][-1] != end or len(answers[0][0]) > 8 for answers in whole]  # than till it is asked whether to go on
    assert 0 < sum(longer) < len(rows)
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=end)
    args = replace(script.Args(), num_beams=1, max_output_tokens=LONGEST)
    where = [CPU] if script.SCRIPT in ENCODERS else []
    with torch.inference_mode():
        asked = [row | dict(columns=LONGEST) for row in rows]
        found = script.write(model, asked, args, tokenizer, None, *where, lambda left: left <= sum(longer))
    assert [answers is None for answers in found] == longer
    for answers, expected in zip(found, whole):
        assert answers is None or answers[0][0] == expected[0][0]


@pytest.fixture(scope="module")
def asked(script):
    """Encoded questions about the sample's databases, with tokenizer and benchmark."""
    benchmark = spider.load(sample.build(), full_names=True)
    tokenizer = script.load_tokenizer(replace(script.Args(), **script.TINY, tiny=True), benchmark)
    few = benchmark.splits["dev"][::40]
    columns = {name: [getattr(e, name) for e in few] for name in ("question", "db_id", "values", "sql")}
    rows = script.encode(columns, benchmark.schemas, tokenizer, 4096)
    return benchmark, tokenizer, Dataset.from_dict(rows | dict(db_id=columns["db_id"]))


@pytest.fixture
def plain_words(model, asked):
    """An output layer that likes no special piece, and none that the vocabulary lacks, but the end."""
    _, tokenizer, _ = asked
    head = model.get_output_embeddings()
    real, unwritten = head.weight, {*tokenizer.all_special_ids, *range(len(tokenizer), 2048)} - {tokenizer.eos_token_id}
    changed = real.detach().clone()
    changed[list(unwritten)] = 0
    head.weight = torch.nn.Parameter(changed)
    yield
    head.weight = real


def answered(script, model, asked, beams: int, grammars, **more: int) -> list[list[dict]]:
    benchmark, tokenizer, examples = asked
    args = replace(script.Args(), **script.TINY | more | dict(num_beams=beams))
    return script.generate(model, tokenizer, examples, benchmark.schemas, args, Accelerator(cpu=True), Stop(), grammars)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_grammar_that_allows_everything_changes_nothing(script, model, asked, plain_words, beams, monkeypatch):
    monkeypatch.setattr(constrained, "grammar", lambda schema, without: r"start: /(.|\n)*/")
    everything = constrained.Grammars(asked[1], model.config.vocab_size)
    free = answered(script, model, asked, beams, None)
    assert answered(script, model, asked, beams, everything) == free and not everything.unchecked
    assert len({each["sql"] for own in free for each in own}) > 1 or all(not own[0]["sql"] for own in free)


@pytest.mark.parametrize("beams", [1, 3])
def test_all_that_ends_runs(script, model, asked, beams):
    """Of random weights, which have learned nothing; they may join tables without end."""
    benchmark, tokenizer, examples = asked
    grammars = constrained.grammars_for(dict(full_names=True, plain_sql=False), True, tokenizer, model.config.vocab_size)
    held = answered(script, model, asked, beams, grammars, max_output_tokens=400)
    jobs = [
        (benchmark.databases(db_id, "dev")[0], each["sql"])
        for db_id, own in zip(examples["db_id"], held)
        for each in own
        if each["ended"]
    ]
    with Executor(seconds=0.5) as executor:
        results = executor.run(jobs, keep=0)
    assert jobs and not [(sql, each.message) for (_, sql), each in zip(jobs, results) if each.error not in (None, TIMED_OUT)]
    assert not grammars.unchecked
