"""Examples as a Hugging Face dataset, tokenised once and cached on disk."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data.benchmark import prompt
from data.benchmark.schema import Example, Schema

if TYPE_CHECKING:
    import datasets


def encoded(
    examples: Sequence[Example], schemas: dict[str, Schema], encode: Callable, tokenizer, limit: int, **options: object
) -> "datasets.Dataset":
    """The examples (index, db_id, question, sql, values) with the columns that `encode(rows, schemas, tokenizer, limit)` adds.

    `tokenizer` is a fast tokenizer of transformers, `limit` a prompt's maximum number of tokens; `encode` also gets the
    options. The cache's key is a fingerprint of all that the result depends on: the examples, their schemas, the source of the
    module `prompt` and of `encode` with what it uses of its own module, the tokenizer, the limit and the options.
    """
    import datasets  # takes a second, which those who only score need not wait
    from datasets.fingerprint import Hasher

    rows = datasets.Dataset.from_list([asdict(example) for example in examples])
    schemas = {db_id: schemas[db_id] for db_id in sorted(set(rows["db_id"]))}
    source = [inspect.getsource(prompt), *_sources(encode, set())]
    contents = [repr(rows[:]), repr(schemas)]  # as texts: hashing objects one by one takes seconds
    written = tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map
    fingerprint = Hasher.hash([*contents, source, written, limit, options])
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "text-to-sql"
    folder.mkdir(parents=True, exist_ok=True)
    return rows.map(
        encode,
        batched=True,
        fn_kwargs=dict(schemas=schemas, tokenizer=tokenizer, limit=limit, **options),
        cache_file_name=str(folder / f"{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        desc="tokens",
    )


def _sources(function: Callable, seen: set[str]) -> Iterator[str]:
    """The source of a function and of those of its module that it calls, and the module's constants that they use."""
    yield inspect.getsource(function)
    codes, names = [function.__code__], []
    while codes:  # a function within it has code of its own
        code = codes.pop()
        codes += [part for part in code.co_consts if inspect.iscode(part)]
        names += code.co_names
    for name in sorted({*names} - seen):
        seen.add(name)
        value = function.__globals__.get(name)
        if inspect.isfunction(value) and value.__module__ == function.__module__:
            yield from _sources(value, seen)
        elif isinstance(value, str | int | float | tuple | list | dict):
            yield f"{name} = {value!r}"
