"""Judge candidates by how likely their SQL makes the question: the noisy channel model, https://arxiv.org/abs/1908.05731.

The model that judges is the one before training: it has read how people ask, and what it thinks of an answer is independent
of what training made of it.
"""

from collections.abc import Callable, Sequence
from os.path import commonprefix

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from data.run.signals import Stop
from data.training.batches import runs
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
    """Put `question_score` into the likeliest of each question's candidates -> the answers; None once a signal asks to stop.

    It is the mean log-likelihood of the question's tokens behind the candidate's SQL; a candidate alone gets none.
    `losses(**batch, reduction="none")` returns the cross-entropies (tokens,) of the labels of a batch (`packs_of`). The pairs
    of SQL and question are divided among ranks.
    """
    likely = [
        (candidate, question)
        for question, several in zip(questions, answers)
        if len(several) > 1
        for candidate in several
        if candidate["score"] >= several[0]["score"] - MARGIN
    ]
    pairs = list(dict.fromkeys((candidate["sql"], question) for candidate, question in likely))
    rows = _encoded(pairs, tokenizer)
    lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows]
    own = sorted(range(len(pairs))[accelerator.process_index :: accelerator.num_processes], key=lengths.__getitem__)
    found = []
    for batch in runs(own, lengths, [("", row["shared"]) for row in rows], len(rows), TOKENS):
        if stop.requested:
            break
        tensors, _ = packs_of([rows[i] for i in batch], tokenizer.pad_token_id)
        tensors = {name: tensor.to(accelerator.device) for name, tensor in tensors.items()}
        parts = losses(**tensors, reduction="none").cpu().split([len(rows[i]["labels"]) for i in batch])
        found += [(pairs[i], -part.mean().item()) for i, part in zip(batch, parts)]
    known = dict(gather_object(found))
    for candidate, question in likely:
        if (pair := (candidate["sql"], question)) in known:
            candidate["question_score"] = known[pair]
    return answers if len(known) == len(pairs) else None


def _encoded(pairs: Sequence[tuple[str, str]], tokenizer) -> list[dict]:
    """(SQL, question) -> input_ids (EXAMPLES, SQL), of which EXAMPLES are `shared`, and labels (the question)."""
    if not pairs:
        return []
    before = [f"{EXAMPLES}SQL: {sql}\nQuestion:" for sql, _ in pairs]
    whole = [f"{text} {' '.join(question.split())}\n" for text, (_, question) in zip(before, pairs)]
    examples, before, whole = tokenizer(EXAMPLES).input_ids, tokenizer(before).input_ids, tokenizer(whole).input_ids
    # as far as they are alike: a tokenizer may end every text in a way of its own
    cuts = [len(commonprefix(both)) for both in zip(before, whole)]
    shared = len(commonprefix([examples, *whole]))
    return [dict(input_ids=ids[:cut], labels=ids[cut:], shared=shared) for ids, cut in zip(whole, cuts)]
