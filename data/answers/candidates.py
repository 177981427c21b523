"""A model's answers to a question as candidates, and the scores of those that count."""

from collections.abc import Sequence

from data.answers.score import score
from data.answers.vote import vote
from data.benchmark.prompt import clean_sql
from data.benchmark.schema import Benchmark, Example
from data.sqlite.execute import TOO_LONG, Executor, Limits


def candidates(answers: Sequence[tuple[list[int], float]], tokenizer, end: int) -> list[dict]:
    """Token lists with the mean log-likelihood of their tokens, likeliest first -> dicts of `sql`, `score` and `ended`.

    Of answers with equal SQL only the first is kept. One that is not `ended` was cut by --max_output_tokens. Where there are
    none, as of a model whose logits are no numbers, one without SQL stands in.
    """
    answers = answers or [([], 0.0)]
    texts = tokenizer.batch_decode([tokens for tokens, _ in answers], skip_special_tokens=True)
    found: dict[str, dict] = {}
    for text, (tokens, likelihood) in zip(texts, answers):
        sql = clean_sql(text)
        found.setdefault(sql, dict(sql=sql, score=likelihood, ended=tokens[-1:] == [end]))
    return list(found.values())


def too_long(tokens: int, limit: int) -> list[dict]:
    """The candidates of a question that takes too many tokens even with the shortest schema: one without SQL."""
    message = f"the question takes {tokens:,} tokens, over --max_input_tokens {limit:,}: shorten it"
    return [dict(sql="", score=0.0, ended=True, error=TOO_LONG, message=message)]


def scored(
    benchmark: Benchmark,
    split: str,
    proposed: Sequence[Sequence[dict]],
    examples: Sequence[Example],
    progress: bool = False,
    seconds: float = Limits.seconds,
) -> list[dict]:
    """The scored rows of examples (`score`), with `candidates` and the index `chosen` where there are several.

    `cut`: the answer that counts was ended by --max_output_tokens, not by the model. `seconds`: time limit of one statement.
    """
    databases = [benchmark.databases(example.db_id, split)[0] for example in examples]
    with Executor(seconds=seconds) as executor:
        chosen = vote(executor, list(zip(databases, proposed)), progress)
    predictions = [own[place]["sql"] for own, place in zip(proposed, chosen)]
    rows = score(benchmark, split, predictions, examples, progress=progress, seconds=seconds)
    for row, own, place in zip(rows, proposed, chosen):
        if own[place].get("error") == TOO_LONG:
            row |= {name: own[place][name] for name in ("error", "message")}
        row["cut"] = not own[place]["ended"]
        if len(own) > 1:
            row |= dict(candidates=list(own), chosen=place)
    return rows
