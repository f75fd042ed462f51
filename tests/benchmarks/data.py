"""From JSON lines to packed batches by morphax and by `datasets` with PyTorch's DataLoader, in turn in one run.

    python -m tests.benchmarks.data [--only NAME ...] [--rounds 5] [--json FILE] [--profile FOLDER]

The texts are drawn from 20,000 words, or stories of Reuters.  A call opens the file, encodes its texts by the same byte
pairs, joins them into rows of 512 tokens without padding, and reads every batch of an epoch in a shuffled order;
nothing of an earlier call is used but the tokenizer of `datasets`, with its words.  `datasets` reads the file by
`load_dataset("json")`, encodes by `map(batched=True)` with a fast tokenizer of `transformers`, and joins and cuts by a
second `map(batched=True)`, as its own language modelling scripts do; a DataLoader stacks and shuffles the rows.
morphax's is `Corpus`.  Each keeps a process of its own, and in each round one works after the other, so that the
machine's drift falls on both.  The table has tokens a second (medians over rounds), their ratio with its least and
greatest, and each process's peak memory.  Ends with 1 where morphax is not `GOAL` times as fast.  `--profile` also
writes Python's profile of a call of morphax, and prints the ten dearest functions.
"""

import dataclasses
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from tests.benchmarks.turns import add_turn_options, compare_all, read_worker, serve

GOAL = 2.0


@dataclasses.dataclass(frozen=True)
class Size:
    """A file of `texts`, each of up to `words` words, drawn or of `source`; the rows of a batch and their length."""

    texts: int
    words: int
    source: str = ""  # a data set of texts
    length: int = 512
    rows: int = 16
    vocab: int = 2000
    times: int = 1  # calls of a turn
    goal: float = GOAL

    @property
    def tokens(self) -> int:
        """Tokens of an epoch, about: byte pairs give about 2 a word."""
        return self.texts * self.words


SIZES = {
    "200,000 sentences": Size(200_000, 24),
    "10,000 documents": Size(10_000, 600),
    "Reuters, 5,485 stories": Size(5_485, 155, "reuters_r8", goal=1.5),  # small, so that most words are new
}


def make_files(size: Size, folder: Path) -> tuple[Path, Path]:
    """Writes the JSON lines and a tokenizer.json, unless they are there; returns their paths."""
    data, tokenizer = folder / "data.jsonl", folder / "tokenizer.json"
    if not tokenizer.exists():
        from train.data.tokens import Learnt

        chance = random.Random(0)
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        words = ["".join(chance.choices(letters, range(26, 0, -1), k=chance.randint(2, 9))) for _ in range(20_000)]
        with data.open("w", encoding="utf-8") as file:
            for text in read_texts(size.source) if size.source else draw_texts(size, words, chance):
                file.write(json.dumps({"text": text, "label": chance.choice("ab")}) + "\n")
        known = read_texts(size.source) if size.source else words
        tokenizer.write_text(Learnt(known, size.vocab).to_json(), encoding="utf-8")
    return data, tokenizer


def draw_texts(size: Size, words: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Draws texts, of words that are as common as Zipf found them."""
    common = [1 / (rank + 10) for rank in range(len(words))]
    for _ in range(size.texts):
        yield " ".join(chance.choices(words, common, k=chance.randint(size.words // 2, size.words))) + "."


def read_texts(source: str) -> list[str]:
    """Reads the texts of a data set."""
    from train.data.sources import open_dataset

    return [example["text"].decode() for example in open_dataset(source, "train").examples]


def start_morphax(size: Size, folder: Path) -> tuple[Callable[[], int], dict[str, Any]]:
    """A call that reads an epoch by morphax and returns its tokens."""
    from train.data.tasks.corpus import Corpus

    data, tokenizer = map(str, make_files(size, folder))
    os.environ["MORPHAX_CACHE"] = str(folder / "morphax")

    def once() -> int:
        shutil.rmtree(folder / "morphax", ignore_errors=True)
        opened = Corpus(path=data, test=data, tokenizer=tokenizer, length=size.length).open(only="train")
        batches = opened.batches("train", size.rows, 1, seed=0)
        return sum(int(np.sum(batch["segments"])) for batch in batches.stream(0, len(batches)))

    return once, {}


def start_datasets(size: Size, folder: Path) -> tuple[Callable[[], int], dict[str, Any]]:
    """The same by `datasets` and PyTorch."""
    import datasets
    import torch
    import transformers

    data, tokenizer = map(str, make_files(size, folder))
    datasets.disable_progress_bars()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=tokenizer)
    cache = folder / "datasets"

    def encode(texts: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": fast(texts["text"], return_attention_mask=False, return_token_type_ids=False)["input_ids"]}

    def join(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = [token for row in rows["input_ids"] for token in row]
        whole = len(ids) // size.length * size.length
        return {"input_ids": [ids[start : start + size.length] for start in range(0, whole, size.length)]}

    def once() -> int:
        shutil.rmtree(cache, ignore_errors=True)
        table = datasets.load_dataset("json", data_files=data, split="train", cache_dir=str(cache))
        table = table.map(encode, batched=True, remove_columns=table.column_names)
        table = table.map(join, batched=True).with_format("torch")
        chance = torch.Generator().manual_seed(0)
        rows = cast("torch.utils.data.Dataset[dict[str, torch.Tensor]]", table)  # which it is but for its type
        loader = torch.utils.data.DataLoader(rows, size.rows, shuffle=True, generator=chance)
        return sum(batch["input_ids"].numel() for batch in loader)

    return once, {}


STARTS = {"morphax": start_morphax, "datasets": start_datasets}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    if (asked := read_worker(STARTS)) is not None:
        who, name = asked
        once, facts = STARTS[who](SIZES[name], Path(os.environ["MORPHAX_CACHE"]) / "".join(filter(str.isalnum, name)))
        serve(once, facts)
        return
    from tests.benchmarks.measure import begin, finish, parser, selected
    from tests.benchmarks.profiled import profile_calls

    options = parser(__doc__)
    add_turn_options(options, 5, "Python's profile of morphax's call")
    given = options.parse_args(arguments)
    begin()
    chosen = selected(SIZES, given.only)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MORPHAX_CACHE"] = scratch  # also of the workers
        folders = {name: Path(scratch) / "".join(filter(str.isalnum, name)) for name in chosen}
        for name, folder in folders.items():
            folder.mkdir()
            make_files(SIZES[name], folder)
        figures, failures = compare_all(
            "tests.benchmarks.data", tuple(STARTS), SIZES, chosen, given, "From JSON lines to packed batches"
        )
        if given.profile is not None:
            for name in chosen:
                profile_calls(start_morphax(SIZES[name], folders[name])[0], given.profile / folders[name].name)
    finish(figures, given.json, failures)


if __name__ == "__main__":
    main()
