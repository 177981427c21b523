"""What a run learns from: how many updates it makes, in which forward passes, and how many tokens these hold."""

import sys
from collections import Counter

import datasets
import pytest

from data.benchmark import sample, spider
from data.common.errors import UserError
from data.training.batches import GROUP_SIZE, epoch_updates
from data.training.cache import encoded
from data.training.small_tokenizer import word_tokenizer
from data.training.training_data import TrainingData
from llama_65b import Tokenizer

OPTIONS = dict(update_examples=8, batch_size=0, batch_tokens=0, epochs=3, max_updates=0, eval_only=False, eval_examples=5,
               vary_schema=0.0, seed=1, max_input_tokens=1000)  # fmt: skip
ROOM = 16_384


@pytest.fixture(scope="module")
def benchmark():
    return spider.load(sample.build(), overfit=50)


def encode(rows, schemas, tokenizer, limit, share=False):
    inputs = [list(range(10 + len(question))) for question in rows["question"]]
    labels = [list(range(len(sql))) for sql in rows["sql"]]
    return dict(input_ids=inputs, labels=labels, shared=[10 * share] * len(inputs), shortened=[False] * len(inputs))


@pytest.fixture
def make(benchmark):
    tokenizer = Tokenizer(tokenizer_object=word_tokenizer(benchmark, special=["<unk>"]))

    def go(padded: bool = True, share: bool = False, **options: object) -> TrainingData:
        return TrainingData(benchmark, OPTIONS | options, encode, tokenizer, padded, **(dict(share=True) if share else {}))

    return go


PREFIX = "ask"


def worded(question: str) -> str:
    return f"{PREFIX}: {question}"


def encode_worded(rows, schemas, tokenizer, limit):
    lengths = [len(part) for part in map(lambda question: worded(question), rows["question"])]
    return dict(input_ids=[[1] * length for length in lengths])


def longer(question: str) -> str:
    return f"please answer: {question}"


def test_tokens_are_made_anew_where_what_makes_them_has_changed(benchmark, monkeypatch, tmp_path):
    """Also where a function or a constant has that it uses: a run would learn from the prompts of an earlier one."""
    tokenizer = Tokenizer(tokenizer_object=word_tokenizer(benchmark, special=["<unk>"]))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    few = benchmark.splits["train"][:3]

    def lengths() -> list[int]:
        rows = encoded(few, benchmark.schemas, encode_worded, tokenizer, 100)
        return [len(ids) - len(example.question) for ids, example in zip(rows["input_ids"], few)]

    assert lengths() == [5] * 3
    made = set(tmp_path.rglob("*.arrow"))
    assert lengths() == [5] * 3 and set(tmp_path.rglob("*.arrow")) == made
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "PREFIX", "answer")
    assert lengths() == [8] * 3
    monkeypatch.setattr(here, "worded", longer)
    assert lengths() == [15] * 3
    made = set(tmp_path.rglob("*.arrow"))
    tokenizer.eos_token = "<unk>"  # which answers end in, and the tokenizer's own file does not hold
    assert lengths() == [15] * 3 and set(tmp_path.rglob("*.arrow")) > made


def examples_of(passes: list[list[list[int]]]) -> list[int]:
    """What an update's passes hold, over all ranks."""
    return sorted(i for each in passes for batch in each for i in batch)


def test_a_run_has_as_many_updates_as_its_epochs_need(make):
    assert (make().updates, make().per_update) == (21, 8) and make(update_examples=16).updates == 12
    assert make(max_updates=5).updates == 5 and make(eval_only=True).updates == 0
    assert make(vary_schema=0.4).variants == 3 and len(make(vary_schema=0.4).train) == 150


@pytest.mark.parametrize("vary_schema", [0.0, 0.4])
def test_questions_that_are_too_long_are_left_out_counted_and_said(make, benchmark, vary_schema):
    lengths = [10 + len(example.question) for example in benchmark.splits["train"]]
    limit = sorted(lengths)[len(lengths) // 2]
    fitting = [i for i, length in enumerate(lengths) if length <= limit]
    assert 0 < len(fitting) < 50
    data = make(max_input_tokens=limit, vary_schema=vary_schema, eval_examples=0)
    assert (data.questions, data.left_out, data.updates) == (len(fitting), 50 - len(fitting), 3 * -(-len(fitting) // 8))
    assert data.prompts == [lengths[i] for i in fitting] * data.variants and len(data.train) == len(data.prompts)
    chosen = {i for passes in data.passes(1, ROOM) for i in examples_of(passes)}
    assert chosen == set(range(len(fitting) * data.variants))
    assert len(data.dev) == 50  # those are asked for: that they are not asked is their answer
    _, warnings = data.health("", lambda rows, pad: {name: Longest([row[name] for row in rows]) for name in LEARNED})
    longer = f"are longer than --max_input_tokens {limit}: they are"
    assert f"{50 - len(fitting)} of 50 questions {longer} left out of training" in warnings
    assert f"{50 - len(fitting)} of 50 questions {longer} not asked, and count as wrong" in warnings


LEARNED = ("input_ids", "labels")


class Longest(list):
    """Lists, as a tensor gives them."""

    def tolist(self) -> list:
        return list(self)


def test_nothing_is_said_where_all_fit_and_no_training_begins_where_none_does(make):
    data = make()
    _, warnings = data.health("", lambda rows, pad: {name: Longest([row[name] for row in rows]) for name in LEARNED})
    assert data.left_out == 0 and not [warning for warning in warnings if "longer than" in warning]
    with pytest.raises(UserError, match="all 50 questions are longer than --max_input_tokens: raise it, or shorten them"):
        make(max_input_tokens=10)


def test_dev_examples_are_evenly_spaced(make):
    assert make().dev["index"][:] == [0, 10, 20, 30, 40] and len(make(eval_examples=0).dev) == 50


@pytest.mark.parametrize("vary_schema", [0.0, 0.4])
@pytest.mark.parametrize(
    ("padded", "share"), [(True, False), (False, False), (False, True)], ids=["padded", "packed", "shared"]
)
def test_what_an_update_holds_depends_on_neither_room_nor_ranks_nor_the_size_of_a_batch(make, padded, share, vary_schema):
    """Runs on other machines, and those that are resumed on them, learn the same examples in the same order."""
    how = dict(padded=padded, share=share, vary_schema=vary_schema)
    whole = make(**how).passes(1, 10**9)
    expected = [examples_of(passes) for passes in whole]
    assert len(expected) == 21 and {len(update) for update in expected} == {8}
    assert [len(passes) for passes in whole] == [1] * 21  # all at once, where there is room
    longest = max(make(**how).lengths)
    for ranks, room, most in ((1, longest, 0), (2, 2 * longest, 0), (4, ROOM, 1), (8, longest, 2), (1, ROOM, 3)):
        plan = make(**how, batch_size=most).passes(ranks, room)
        assert [examples_of(passes) for passes in plan] == expected
        assert {len(each) for passes in plan for each in passes} == {ranks}
        sizes = [len(batch) for passes in plan for each in passes for batch in each]
        assert min(sizes) >= 1 and (not most or max(sizes) <= most)
        if room == longest and ranks == 1:
            assert max(len(passes) for passes in plan) > 2


@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 20, 21])
@pytest.mark.parametrize("vary_schema", [0.0, 0.4])
def test_resuming_gives_the_rest(make, start, vary_schema):
    data = make(vary_schema=vary_schema)
    assert data.passes(2, ROOM, start) == data.passes(2, ROOM)[start:]
    assert data.passes(2, ROOM, start, 9) == data.passes(2, ROOM)[start:9] and data.passes(2, ROOM, 21, 99) == []


@pytest.mark.parametrize("share", [False, True])
def test_each_epoch_is_complete_and_has_its_own_variant_where_schemas_vary(make, share):
    same, varied = (make(padded=False, share=share, vary_schema=most).passes(2, ROOM) for most in (0.0, 0.4))
    for number in range(3):
        seen = [
            Counter(i for passes in plan[7 * number : 7 * number + 7] for i in examples_of(passes)) for plan in (same, varied)
        ]
        # 50 examples in 7 updates of 8: six stand in two
        assert [sorted(own.values()) for own in seen] == [[1] * 44 + [2] * 6] * 2
        assert set(seen[0]) == set(range(50)) and set(seen[1]) == set(range(50 * number, 50 * number + 50))


def test_an_epoch_smaller_than_one_update_goes_on(make):
    plan = make(update_examples=64, max_updates=5).passes(1, ROOM)
    assert len(plan) == 5 and all(set(examples_of(passes)) == set(range(50)) for passes in plan)


def test_nothing_is_learned_where_a_model_is_only_scored(make):
    data = make(eval_only=True, batch_tokens=1)
    assert data.passes(8, ROOM) == [] and data.check(8) is None


@pytest.mark.parametrize("padded", [False, True])
def test_an_update_has_an_example_for_every_rank(make, padded):
    with pytest.raises(UserError) as caught:
        make(padded=padded, update_examples=7).check(8)
    assert str(caught.value) == "--update_examples 7 is less than one for each of 8 GPUs: raise it"
    assert {len(batch) for each in make(padded=padded).passes(8, ROOM)[0] for batch in each} == {1}


@pytest.mark.parametrize("padded", [False, True])
def test_a_forward_pass_has_room_for_the_longest_example(make, padded):
    longest = max(make(padded=padded).lengths)
    for tokens in (0, longest):
        make(padded=padded, batch_tokens=tokens).check(8)
    with pytest.raises(UserError) as caught:
        make(padded=padded, batch_tokens=longest - 1).check(8)
    found = f"--batch_tokens {longest - 1} is less than the longest example's {longest}"
    assert str(caught.value) == f"{found}: raise it, or lower --max_input_tokens"


def test_questions_share_varied_schemas_where_schemas_are_shared(make):
    """Up to GROUP_SIZE of one database have one, else none would be shared."""
    data = make(padded=False, share=True, vary_schema=0.4, update_examples=50)
    groups = Counter(data.train["db_id"][:50])
    databases = Counter(name.split("#")[0] for name in data.train["db_id"][:50])
    assert max(groups.values()) == GROUP_SIZE < max(databases.values())
    assert len(groups) == sum(-(-count // GROUP_SIZE) for count in databases.values())
    own = data.train["db_id"]
    assert [data.schemas[i] for i in range(150)] == [(own[i], 10) for i in range(150)]
    # those of one schema are side by side, and its tokens count once
    (batch,) = data.passes(1, ROOM, 0, 1)[0][0]
    assert data.tokens([[batch]])[0] == sum(data.prompts[i] - 10 for i in batch) + 10 * len(groups)
    assert max(Counter(make(padded=False, vary_schema=0.4).train["db_id"][:50]).values()) == 1


def test_where_prompt_and_answer_are_one_sequence_their_whole_length_counts(make):
    data = make(padded=False)
    assert data.lengths == [sum(pair) for pair in zip(data.prompts, data.answers)]
    whole = [sorted(update) for update in epoch_updates(data.lengths, data.schemas, 8, 1, 0)]
    assert [examples_of(passes) for passes in data.passes(1, ROOM, 0, 7)] == whole
    longest = max(data.lengths)
    assert all(sum(data.lengths[i] for i in batch) <= longest for passes in data.passes(1, longest) for (batch,) in passes)


def test_a_shared_schema_counts_once_a_pass(make):
    data = make(padded=False, share=True)
    one, other = ([i for i, name in enumerate(data.train["db_id"]) if name == wanted] for wanted in data.train["db_id"][:2])
    passes = [[one[:2], one[2:3] + other[:1]]]  # of two ranks
    prompts, answers = data.tokens(passes)
    examples = examples_of(passes)
    schemas = 1 + len({data.train["db_id"][i] for i in passes[0][1]})
    assert prompts == sum(data.prompts[i] - 10 for i in examples) + 10 * schemas
    assert answers == sum(data.answers[i] for i in examples)
    assert data.tokens([[batch] for batch in passes[0]]) == (prompts, answers)  # in two passes of one
    assert make(padded=False).tokens(passes) == (sum(data.prompts[i] for i in examples), answers)
