"""What the untrained model thinks of a question behind a candidate's SQL."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from data.benchmark import sample, spider
from data.run.signals import Stop
from data.with_torch import back_translation
from data.with_torch.back_translation import EXAMPLES, back_translate

QUESTIONS = [
    "How many robots are there?",
    "Which  robot is\nthe heaviest?",
    "What is its weight?",
    "How many robots are there?",
]


def answers() -> list[list[dict]]:
    count, lightest = "SELECT COUNT(*) FROM robot", "SELECT robot.weight FROM robot ORDER BY robot.weight LIMIT 1"
    own = [(count, lightest), (count, lightest, ""), (count,), (count, lightest)]
    return [[dict(sql=sql, score=-0.1 * place) for place, sql in enumerate(each)] for each in own]


@pytest.fixture(scope="module", params=["gpt_neox_20b", "llama_65b"])
def trained(request):
    """The tiny model with an adapter that changes what it says, its tokenizer, and the loss."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        script = importlib.import_module(request.param)
        args = replace(script.Args(), **script.TINY, tiny=True)
        base = dict(model="none", tiny=True, random_weights=False, seed=0, base_16bit=False)
        tokenizer = script.load_tokenizer(args, spider.load(sample.build()))
        model = script.load_model(args, base, script.load_config(args, base), tokenizer, torch.device("cpu")).eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    return model, tokenizer, script.AnswerLoss(model)


@torch.inference_mode()
def judged(trained, own: list[list[dict]], accelerator=None, stop=None) -> list[list[dict]] | None:
    model, tokenizer, losses = trained
    with model.disable_adapter():
        return back_translate(own, QUESTIONS, losses, tokenizer, accelerator or Accelerator(cpu=True), stop or Stop())


@torch.inference_mode()
def alone(trained, sql: str, question: str) -> float:
    """The same of one pair, by the library's own model and loss."""
    model, tokenizer, _ = trained
    before = f"{EXAMPLES}SQL: {sql}\nQuestion:"
    ids = tokenizer(f"{before} {' '.join(question.split())}\n").input_ids
    labels = [-100] * len(tokenizer(before).input_ids) + ids[len(tokenizer(before).input_ids) :]
    with model.disable_adapter():
        return -model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()


@pytest.mark.parametrize("tokens", [1, 2048])
def test_it_is_the_likelihood_of_the_questions_tokens_without_the_adapter(trained, monkeypatch, tokens):
    monkeypatch.setattr(back_translation, "TOKENS", tokens)
    own = answers()
    assert judged(trained, own) is own
    for question, several in zip(QUESTIONS, own):
        for each in several:
            if len(several) == 1:
                assert "question_score" not in each
            else:
                assert each["question_score"] == pytest.approx(alone(trained, each["sql"], question), rel=1e-3)
    assert own[0][0]["question_score"] == own[3][0]["question_score"] != own[0][1]["question_score"]


def test_it_is_the_same_on_several_ranks(trained, monkeypatch):
    whole = judged(trained, answers())
    gathered = []
    for rank in (0, 1, 1, 0):  # first what each finds, then with what both found
        both = [pair for found in gathered for pair in found]
        monkeypatch.setattr(back_translation, "gather_object", lambda own, both=both: gathered.append(own) or both or own)
        one = SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu"))
        divided = judged(trained, answers(), one)
        assert (divided is None) == (not both or len(gathered) == 2)
    assert min(map(len, gathered)) > 0 and len(gathered[0]) + len(gathered[1]) == 5
    assert [[each.get("question_score") for each in own] for own in divided] == [
        [pytest.approx(each["question_score"], rel=1e-3) if "question_score" in each else None for each in own] for own in whole
    ]


@pytest.mark.parametrize("looks", [0, 1])
def test_a_signal_ends_it(trained, monkeypatch, looks):
    class Later:
        """Asks to stop after so many looks."""

        requested = property(lambda self: next(asked))

    asked = iter([False] * looks + [True])
    monkeypatch.setattr(back_translation, "TOKENS", 1)
    assert judged(trained, answers(), stop=Later()) is None


def test_single_answers_are_not_judged(trained):
    own = [[dict(sql="SELECT 1", score=-1.0)] for _ in QUESTIONS]
    assert judged(trained, own) is own and own[0] == [dict(sql="SELECT 1", score=-1.0)]


def test_nor_are_those_far_behind_the_first(trained):
    own = [
        [dict(sql=f"SELECT {score}", score=score) for score in scores]
        for scores in ((-0.1, -0.25, -0.4), (-0.1, -0.4), (-1,), ())
    ]
    judged(trained, own)
    assert [["question_score" in each for each in several] for several in own] == [
        [True, True, False],
        [True, False],
        [False],
        [],
    ]


def test_a_tokenizer_may_end_every_text(trained):
    _, tokenizer, _ = trained
    ending = lambda texts: SimpleNamespace(  # noqa: E731
        input_ids=[[*ids, 1] for ids in tokenizer(texts).input_ids]
        if isinstance(texts, list)
        else [*tokenizer(texts).input_ids, 1]
    )
    pair = ("SELECT COUNT(*) FROM robot", QUESTIONS[0])
    (row,), (usual,) = back_translation._encoded([pair], ending), back_translation._encoded([pair], tokenizer)
    assert (
        row["input_ids"] == usual["input_ids"] and row["labels"] == [*usual["labels"], 1] and row["shared"] == usual["shared"]
    )
    assert usual["shared"] == len(tokenizer(EXAMPLES).input_ids) > 100
