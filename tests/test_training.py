"""What a run learns from: how many updates it makes, in which micro-batches, and how many tokens these hold."""

import pytest

from data import sample, spider
from data.batches import epoch_updates
from data.errors import UserError
from data.training import TrainingData
from data.words import word_tokenizer
from llama_65b import Tokenizer

OPTIONS = dict(batch_size=4, grad_accum=2, epochs=3, max_updates=0, eval_only=False, eval_examples=5, vary_schema=0.0, seed=1,
               max_input_tokens=1000)  # fmt: skip


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
    return lambda ranks=1, apart=True, **how: TrainingData(benchmark, OPTIONS | how, encode, tokenizer, ranks, apart)


def test_a_run_has_as_many_updates_as_its_epochs_need(make):
    assert (make().updates, make().per_update) == (21, 8) and make(ranks=2).updates == 12
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
    chosen = {i for batch, _ in data.micro_batches(0, 0) for i in batch}
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


def test_micro_batches_divide_the_updates(make):
    data = make(ranks=2)
    ranks = [data.micro_batches(rank, 0) for rank in (0, 1)]
    expected = epoch_updates(data.prompts, 16, 1, 0, data.answers)
    for update in range(4):
        own = [batch for batches in ranks for batch, _ in batches[2 * update : 2 * update + 2]]
        assert sorted(sum(own, [])) == sorted(expected[update])
    assert data.micro_batches(0, 2) == ranks[0][4:]


def test_where_prompt_and_answer_are_one_sequence_their_whole_length_counts(make):
    data = make(apart=False)
    whole = [sum(pair) for pair in zip(data.prompts, data.answers)]
    assert [batch for batch, _ in data.micro_batches(0, 0)[:2]] == data.micro_batches(0, 0)[0][1]
    assert sorted(sum(data.micro_batches(0, 0)[0][1], [])) == sorted(epoch_updates(whole, 8, 1, 0)[0])


def test_a_shared_schema_counts_once_a_micro_batch(make, benchmark):
    tokenizer = make().tokenizer
    data = TrainingData(benchmark, OPTIONS, encode, tokenizer, 1, False, share=True)
    one, other = ([i for i, name in enumerate(data.train["db_id"]) if name == wanted] for wanted in data.train["db_id"][:2])
    batches = [one[:2], one[2:3] + other[:1]]
    prompts, answers = data.tokens(batches)
    examples = [i for batch in batches for i in batch]
    schemas = 1 + len({data.train["db_id"][i] for i in batches[1]})
    assert prompts == sum(data.prompts[i] - 10 for i in examples) + 10 * schemas
    assert answers == sum(data.answers[i] for i in examples)
    assert make(apart=False).tokens(batches) == (sum(data.prompts[i] for i in examples), answers)
