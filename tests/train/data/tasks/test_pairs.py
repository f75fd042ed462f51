"""Translation: pairs from files, the loss against its formula, search and scores against their definitions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sacrebleu

from configs.translate_numbers import make_model as small
from train.cli import main
from train.config import load_config
from train.data.notes import Notes
from train.data.sources import divide
from train.data.tasks.pairs import Pairs
from train.engine.evidence import Trained
from train.engine.folder import record, use_saved_tokenizer
from train.engine.prepared import prepare_evaluation
from train.engine.step import make_search
from train.errors import InputError
from train.experiment import Evaluation
from train.objectives import Translation
from train.parallel import Jit, Mesh, Pmap
from train.review.translations import Translations, score_texts, search_translations
from train.sums import compute_means

ENGLISH = [
    f"the {colour} {thing}"
    for colour in ("red", "green", "blue", "old")
    for thing in ("house", "dog", "hat", "tree", "boat")
]
GERMAN = [text.replace("the", "das").replace("house", "Haus").replace("dog", "Tier") for text in ENGLISH]


@pytest.fixture(autouse=True)
def _kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    Path("a.en").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
    Path("a.de").write_text("\n".join(GERMAN) + "\n", encoding="utf-8")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_loss_is_smoothed_cross_entropy_over_what_follows_in_the_sentence(smoothing: float) -> None:
    chance = np.random.default_rng(0)
    logits = jnp.asarray(chance.normal(size=(3, 6, 11)), jnp.float32)
    batch = {
        "tokens": jnp.asarray(chance.integers(0, 11, (3, 6))),
        "segments": jnp.asarray([[1] * 6, [1] * 3 + [0] * 3, [0] * 6]),
    }
    targets = optax.smooth_labels(jax.nn.one_hot(batch["tokens"][:, 1:], 11), smoothing)
    each = optax.softmax_cross_entropy(logits[:, :-1], targets)
    found = compute_means(Translation(smoothing)(logits, batch))
    assert found["loss"] == pytest.approx(float((each[0].sum() + each[1, :2].sum()) / 7), rel=1e-6)


@pytest.mark.slow
def test_one_beam_finds_what_taking_the_likeliest_token_finds_and_a_batch_what_a_row_finds() -> None:
    model = small(vocab=40, width=16, repeats=1, heads=2)
    chance = np.random.default_rng(0)
    rows = [chance.integers(3, 40, count) for count in (5, 9, 2)]
    batch = {name: np.zeros((3, 12), np.int32) for name in ("source", "source_segments", "source_positions")}
    for row, ids in enumerate(rows):
        batch["source"][row, : len(ids)], batch["source_segments"][row, : len(ids)] = ids, 1
        batch["source_positions"][row, : len(ids)] = np.arange(len(ids))
    batch |= {
        "tokens": np.ones((3, 1), np.int32),
        "segments": np.ones((3, 1), np.int32),
        "positions": np.zeros((3, 1), np.int32),
    }
    arrays = jax.tree.map(jnp.asarray, batch)
    params = jax.tree.map(lambda leaf: 3 * leaf, jax.jit(model.init)(jax.random.key(1), arrays)["params"])
    likeliest: list[list[int]] = []
    apply = jax.jit(lambda source, tokens: model.apply({"params": params}, {"source": source, "tokens": tokens}))
    for ids in rows:
        tokens = [1]
        while len(tokens) < 9:
            later = [0] * (9 - len(tokens))  # which no token before sees
            logits = jnp.asarray(apply(jnp.asarray(ids)[None], jnp.asarray([tokens + later])))
            tokens.append(int(logits[0, len(tokens) - 1].argmax()))
        likeliest.append(tokens[1:])
    end = likeliest[0][3]  # so that one translation ends early, where the model would go on with other tokens
    assert likeliest[0][4] != end
    found = np.asarray(make_search(model, Translation(beams=1, longest=8), end)(params, arrays))
    for row, tokens in zip(found.tolist(), likeliest, strict=True):
        stop = tokens.index(end) if end in tokens else len(tokens)
        assert row == tokens[:stop] + [end] * (8 - stop)
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_a_batch_of_pairs_is_both_sides_padded_to_one_bucket() -> None:
    data = Pairs(path="a.en", parallel="a.de", tokenizer="bpe:300", holdout=0.3)
    opened = data.open()
    batches = opened.batches("train", 4, 3, 0)
    assert len(batches) == -(-len(opened.rows["train"]) // 4)
    seen = []
    for batch in (batches[step] for step in range(len(batches))):
        for place, index in enumerate(batch["index"]):
            row = opened.rows["train"][index] if batch["weights"][place] else {"source": [], "tokens": []}
            seen += [int(index)] if batch["weights"][place] else []
            for name, prefix in (("source", "source_"), ("tokens", "")):
                count, rest = len(row[name]), batch[name].shape[1] - len(row[name])
                assert batch[name].shape in ((6, 16), (6, 24))
                assert batch[name][place].tolist() == [*row[name], *[0] * rest]
                assert batch[f"{prefix}segments"][place].tolist() == [1] * count + [0] * rest
                assert batch[f"{prefix}positions"][place].tolist() == [*range(count), *[0] * rest]
    assert sorted(seen) == list(range(len(opened.rows["train"])))
    first = opened.rows["train"][0]["tokens"]
    assert (first[0], first[-1]) == (opened.begin, opened.end)


def test_scores_are_those_of_sacrebleu_on_100_random_cases() -> None:
    chance, words = np.random.default_rng(0), ["ein", "Hund", "rennt", "im", "Park", "schnell", "."]
    for _ in range(100):
        said, meant = ([" ".join(chance.choice(words, chance.integers(3, 9))) for _ in range(5)] for _ in range(2))
        said[0] = meant[0]
        metrics, each = score_texts(said, meant)
        assert metrics["bleu"] == pytest.approx(sacrebleu.BLEU().corpus_score(said, [meant]).score)
        assert metrics["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(said, [meant]).score)
        assert metrics["exact_match"] == pytest.approx(sum(a == b for a, b in zip(said, meant, strict=True)) / 5)
        assert each[0] == pytest.approx(100.0)


def test_parallel_files_a_table_and_json_lines_give_the_same_pairs() -> None:
    both = list(zip(ENGLISH, GERMAN, strict=True))
    Path("a.tsv").write_bytes(("\ufeffsource\ttarget\r\n" + "".join(f"{a}\t{b}\r\n" for a, b in both)).encode())
    Path("a.jsonl").write_text(
        "".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in both), encoding="utf-8"
    )
    specs = [
        Pairs(path="a.en", parallel="a.de", holdout=0.3),
        Pairs(path="a.tsv", holdout=0.3),
        Pairs(path="a.jsonl", holdout=0.3),
    ]
    for part in ("train", "test"):
        found = [list(spec.read_parts(part, Notes())[part]) for spec in specs]
        assert found[0] == found[1] == found[2]
        assert found[0]
    parts = specs[0].read_parts(None, Notes())
    assert sorted([*parts["train"], *parts["test"]]) == sorted(both)


def test_a_learnt_vocabulary_spells_every_text() -> None:
    opened = Pairs(path="a.en", parallel="a.de", tokenizer="bpe:300", holdout=0.3).open()
    assert 259 < opened.vocab <= 300
    strange = "a lynx, 雪 & ~42"
    assert opened.tokens.decode(opened.tokens.encode([strange])[0].tolist()).strip() == strange


@pytest.mark.parametrize(
    ("spec", "content", "sentence"),
    [
        (Pairs(path="a.en", parallel="a.de"), {"a.de": "ein Haus\n"}, "a.en has 20 lines and a.de has 1"),
        (Pairs(path="a.en", parallel="a.de"), {"a.de": "\n".join(["", *GERMAN[1:]])}, "Line 1 of a.de is empty"),
        (Pairs(path="a.en", parallel="a.de"), {"a.de": ""}, "a.de has no text; it needs some"),
        (Pairs(path="a.en", parallel="none.de"), {}, "none.de cannot be read"),
        (
            Pairs(path="a.txt"),
            {"a.txt": "a hat\n"},
            "a.txt has one text a line; give the file of the translations by data.parallel",
        ),
        (Pairs(path="a.tsv"), {"a.tsv": "source\tother\na\tb\n"}, "no column 'target'"),
        (Pairs(path="a.tsv"), {"a.tsv": "source\ttarget\na\t\n"}, "has no text"),
        (Pairs(path="a.en", parallel="a.de", length=3, holdout=0.3), {}, "data.length is 3"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused_in_a_sentence(
    spec: Pairs, content: dict[str, str], sentence: str
) -> None:
    for name, text in content.items():
        Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        spec.open()


def test_long_pairs_are_left_out_of_training_when_asked() -> None:
    Path("b.en").write_text("the hat\n" + "the long " * 40 + "\n", encoding="utf-8")
    Path("b.de").write_text("der Hut\nlang\n", encoding="utf-8")
    opened = Pairs(path="b.en", parallel="b.de", test="a.en", test_parallel="a.de", length=32, skip=True).open()
    assert len(opened.rows["train"]) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer": "bpe:no"}, "bpe:N"),
        ({"parallel": "a.de"}, "without path"),
        ({"path": "a", "parallel": "b", "test": "c"}, "test_parallel"),
        ({"holdout": 1.0}, "holdout"),
        ({"length": 2}, "length is 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pairs(**changes)


@pytest.mark.slow
def test_the_users_own_parallel_files_train_and_what_was_learnt_from_them_stays_with_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = "model.embed.width=16 model.encoder.repeats=1 model.decoder.repeats=1 data.tokenizer=bpe:300"
    model += " evaluation.batch_size=8"
    own = "data.path=a.en data.parallel=a.de data.holdout=0.3 batch_size=8 objective.longest=8 objective.beams=2"
    command = [
        "train",
        "translate_numbers",
        *model.split(),
        *own.split(),
        "steps=4",
        "evaluation.every=4",
        "--run",
        "run",
        "--json",
    ]
    assert main(command) == 0
    assert set(json.loads(capsys.readouterr().out)["review"]) == {"bleu", "chrf", "exact_match"}
    learnt = Path("run/tokenizer.json").read_text(encoding="utf-8")
    questions = ["predict", "run", "the red house", "a lynx", "--json"]
    assert main(questions) == 0
    first = json.loads(capsys.readouterr().out)["answers"]
    assert [set(one) for one in first] == [{"input", "translation"}] * 2
    Path("asked.csv").write_text("source,target\nthe red house,\n a lynx ,\n", encoding="utf-8")
    assert main(["predict", "run", "asked.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == first

    more = divide(lynxes := [f"{number} lynxes sleep" for number in range(40)], lynxes, 0.3)["train"]
    # the same test part; from this training part one would learn other tokens
    for name, own in (("b.en", ENGLISH), ("b.de", GERMAN)):
        Path(name).write_text("\n".join(own + more), encoding="utf-8")
    losses = []
    for one in ("a", "b"):
        assert main(["eval", "run", f"data.path={one}.en", f"data.parallel={one}.de", "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["evaluation"]["loss"]["value"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    for name in ("a.en", "a.de"):
        Path(name).unlink()
    assert main(questions) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == first
    assert Path("run/tokenizer.json").read_text(encoding="utf-8") == learnt


def test_a_run_goes_on_with_the_vocabulary_that_it_learnt() -> None:
    experiment = load_config(
        "translate_numbers", ["data.path=a.en", "data.parallel=a.de", "data.holdout=0.3", "data.tokenizer=bpe:300"]
    )[0]
    learnt: Any = experiment.data.open()
    record(Path("run"), experiment, "translate_numbers", learnt)
    Path("a.de").write_text("\n".join(GERMAN).replace("Haus", "Heim"), encoding="utf-8")
    opened: list[Any] = [one.data.open() for one in (use_saved_tokenizer(Path("run"), experiment), experiment)]
    kept, anew = (one.tokens.encode(["das Haus"])[0].tolist() for one in opened)
    assert kept == learnt.tokens.encode(["das Haus"])[0].tolist() != anew


@pytest.mark.slow
def test_translations_do_not_depend_on_batches_or_devices() -> None:
    data = Pairs(path="a.en", parallel="a.de", test="a.en", test_parallel="a.de", tokenizer="bpe:300")
    opened, found = data.open(), []
    for parallel, size in ((Jit(), 64), (Jit(), 1), (Jit(), 7), (Pmap(), 64), (Mesh(data=4, fsdp=2), 8)):
        experiment = dataclasses.replace(
            load_config("translate_numbers", [])[0],
            model=small(vocab=300, width=16, repeats=1, heads=2),
            data=data,
            objective=Translation(beams=3, longest=6),
            parallel=parallel,
            evaluation=Evaluation(batch_size=size),
        )
        trainer = prepare_evaluation(experiment, opened)
        batches = opened.batches("test", size, parallel.size(), None)
        params = jax.jit(experiment.model.init)(jax.random.key(1), jax.tree.map(jnp.asarray, batches[0]))["params"]
        placed = parallel.spread(jax.tree.map(lambda leaf: 3 * leaf, params))
        found.append(Translations(shown=len(ENGLISH), attention=0).review(Trained(trainer, placed, {})))
        if parallel == Jit() and size == 7:
            pairs, texts = search_translations(Trained(trainer, placed))
            assert [source for source, _ in pairs] == ENGLISH
            assert len(set(texts)) > 1
            assert found[0].metrics == score_texts(texts, GERMAN)[0]
    assert all(other == found[0] for other in found)
