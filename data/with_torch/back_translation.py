"""Judge candidates by how likely their SQL makes the question: the noisy channel model, https://arxiv.org/abs/1908.05731.

The model that judges is the one before training: it has read how people ask, and what it thinks of an answer is independent
of what training made of it.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from data.run.signals import Stop
from data.with_torch.packs import packs_of

MARGIN = 0.2  # a candidate less likely than the first by more, in the mean of its tokens, has next to no chance to be chosen
TOKENS = 2048  # of a forward pass: one that wrote the candidates has memory for these
# what stands before each pair, in the spelling of --full_names
EXAMPLES = """\
SQL: SELECT COUNT(*) FROM employee
Question: How many employees are there?

SQL: SELECT city.name FROM city WHERE city.population > 100000 ORDER BY city.population DESC
Question: List the names of the cities with more than 100000 inhabitants, the largest first.

SQL: SELECT author.name, COUNT(*) FROM author JOIN book ON author.author_id = book.author_id GROUP BY author.author_id
Question: For each author, show the name and the number of books.

SQL: SELECT AVG(flight.distance), MAX(flight.price) FROM flight WHERE flight.origin = 'Lisbon'
Question: What are the average distance and the highest price of flights from Lisbon?

SQL: SELECT member.first_name FROM member WHERE member.member_id NOT IN (SELECT visit.member_id FROM visit)
Question: What are the first names of members who have never made a visit?

SQL: SELECT team.name FROM team JOIN player ON team.id = player.team_id GROUP BY team.id ORDER BY COUNT(*) DESC LIMIT 1
Question: Which team has the most players?

"""


def back_translate(
    answers: Sequence[Sequence[dict]],
    questions: Sequence[str],
    losses: Callable[..., torch.Tensor],
    tokenizer,
    accelerator: Accelerator,
    stop: Stop,
) -> Sequence[Sequence[dict]] | None:
    """The answers, where a question's likeliest candidates have a `question_score`; None once a signal asks to stop.

    It is the mean log-likelihood of the question's tokens behind the candidate's SQL; a candidate alone gets none.
    `losses(**batch, reduction="none")` returns the cross-entropies (tokens,) of the labels of a batch (`packs_of`). The pairs
    are divided among ranks.
    """
    near = [[each for each in own if each["score"] >= own[0]["score"] - MARGIN] for own in answers]
    several = [(question, own) for question, own in zip(questions, near) if len(own) > 1]
    pairs = list(dict.fromkeys((each["sql"], question) for question, own in several for each in own))
    own = list(zip(pairs, _encoded(pairs, tokenizer)))[accelerator.process_index :: accelerator.num_processes]
    found = []
    for batch in _batches(sorted(own, key=lambda pair: len(pair[1]["input_ids"]) + len(pair[1]["labels"]))):
        if stop.requested:
            break
        tensors, _ = packs_of([row for _, row in batch], tokenizer.pad_token_id)
        tensors = {name: tensor.to(accelerator.device) for name, tensor in tensors.items()}
        each = losses(**tensors, reduction="none")
        lengths = [len(row["labels"]) for _, row in batch]
        found += [(pair, -loss.mean().item()) for (pair, _), loss in zip(batch, each.cpu().split(lengths))]
    known = dict(gather_object(found))
    for question, own in several:
        for each in own:
            if (each["sql"], question) in known:
                each["question_score"] = known[each["sql"], question]
    return answers if len(known) == len(pairs) else None


def _encoded(pairs: Sequence[tuple[str, str]], tokenizer) -> list[dict]:
    """(SQL, question) -> input_ids (EXAMPLES, SQL), of which EXAMPLES are `shared`, and labels (the question)."""
    if not pairs:
        return []
    before = [f"{EXAMPLES}SQL: {sql}\nQuestion:" for sql, _ in pairs]
    whole = [f"{text} {' '.join(question.split())}\n" for text, (_, question) in zip(before, pairs)]
    examples, before, whole = tokenizer(EXAMPLES).input_ids, tokenizer(before).input_ids, tokenizer(whole).input_ids
    # as far as they are alike: a tokenizer may end every text in a way of its own
    cuts = [_alike(first, ids) for first, ids in zip(before, whole)]
    shared = min(_alike(examples, ids) for ids in whole)
    return [dict(input_ids=ids[:cut], labels=ids[cut:], shared=shared) for ids, cut in zip(whole, cuts)]


def _alike(first: list[int], second: list[int]) -> int:
    """How many tokens two texts have in common before they part."""
    return next((i for i, (one, other) in enumerate(zip(first, second)) if one != other), min(len(first), len(second)))


def _batches(rows: Sequence[tuple[tuple, dict]]) -> Iterator[list[tuple[tuple, dict]]]:
    """Rows in batches of up to TOKENS, what they share counted once; a longer row stands by itself."""
    batch, tokens = [], 0
    for pair, row in rows:
        more = len(row["input_ids"]) - row["shared"] + len(row["labels"])
        if batch and tokens + more > TOKENS:
            yield batch
            batch = []
        tokens = more + (tokens if batch else row["shared"])
        batch.append((pair, row))
    if batch:
        yield batch
