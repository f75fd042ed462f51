"""Where a translation looked: the matrices that the report draws, of a trained model, by words, on any number of
devices.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.translate_numbers import make_model as small
from models import Block, LogitsHead, Stack, TokenEmbed, Transformer
from models.inspect.attention import attention_weights
from models.structure import replace
from train.cli import main
from train.config import load_config
from train.data.tasks.pairs import Pairs
from train.data.tokens import Bytes, Learnt
from train.engine.evidence import Trained
from train.engine.prepared import prepare_evaluation
from train.experiment import Evaluation
from train.objectives import Translation
from train.page import to_html
from train.parallel import Jit, Mesh, Pmap
from train.review import translations
from train.review.attention import align_words, draw_heatmaps, group_words, make_cross_attention

ENGLISH = [
    f"the {colour} {thing}"
    for colour in ("red", "green", "blue", "old")
    for thing in ("house", "dog", "hat", "tree", "boat")
]
GERMAN = [text.replace("the", "das").replace("house", "Haus").replace("dog", "Tier") for text in ENGLISH]


def law_a_matrix_gives_all_weight_to_the_source(
    source: str, text: str, panel: tuple[list[str], list[str], np.ndarray]
) -> None:
    asked, said, matrix = panel
    assert (asked, said) == (source.split(), text.split())
    assert matrix.shape == (len(said), len(asked))
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_report_draws_where_a_trained_model_looked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    drawn: list[Any] = []
    asked: list[Any] = []
    monkeypatch.setattr(translations, "draw_heatmaps", lambda panels: drawn.extend(panels) or draw_heatmaps(panels))
    monkeypatch.setattr(
        translations, "align_words", lambda trained, pairs: asked.extend(pairs) or align_words(trained, pairs)
    )
    settings = [
        "model.embed.width=16",
        "model.encoder.repeats=1",
        "model.decoder.repeats=2",
        "objective.beams=1",
        "objective.longest=12",
    ]
    settings += [
        "model.decoder.scan=true",
        "steps=12",
        "evaluation.every=12",
        "batch_size=32",
        "evaluation.batch_size=250",
        "review=Translations(attention=3)",
    ]
    assert (
        main(["train", "translate_numbers", "data.dataset=number_words/few", *settings, "--run", "run", "--json"]) == 0
    )
    capsys.readouterr()
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "Attention: where each word of the translation looked in the source" in page
    assert len(drawn) == len(asked) == 3
    for (source, text), panel in zip(asked, drawn, strict=True):
        law_a_matrix_gives_all_weight_to_the_source(source, text, panel)


@pytest.mark.slow
def test_a_matrix_is_the_same_on_any_number_of_devices_and_follows_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, lines in (("a.en", ENGLISH), ("a.de", GERMAN)):
        Path(name).write_text("\n".join(lines), encoding="utf-8")
    opened = Pairs(path="a.en", parallel="a.de", test="a.en", test_parallel="a.de", tokenizer="bpe:300").open()
    experiment = dataclasses.replace(
        load_config("translate_numbers", [])[0],
        model=small(300, 16, 2, 2),
        objective=Translation(beams=1),
        evaluation=Evaluation(),
    )
    pairs, found = list(zip(ENGLISH, GERMAN, strict=True))[:3], []
    params = jax.jit(experiment.model.init)(jax.random.key(1), jax.tree.map(jnp.asarray, opened.beside(pairs, 1)))[
        "params"
    ]
    for parallel in (Jit(), Pmap(), Mesh(data=4, fsdp=2)):
        trainer = prepare_evaluation(dataclasses.replace(experiment, parallel=parallel), opened)
        found.append(align_words(Trained(trainer, parallel.spread(params), {}), pairs))
    for pair, panel in zip(pairs, found[0], strict=True):
        law_a_matrix_gives_all_weight_to_the_source(*pair, panel)
    for other in found[1:]:
        for panel, same in zip(found[0], other, strict=True):
            np.testing.assert_allclose(panel[2], same[2], rtol=1e-4, atol=1e-6)
    assert np.abs(found[0][0][2] - found[0][1][2]).max() > 1e-4


@pytest.mark.filterwarnings("error")
def test_long_words_leave_room_for_their_matrix() -> None:
    words = ["w" * 400, "short"]
    drawn = to_html(draw_heatmaps([(words, words, np.full((2, 2), 0.5))]))
    assert drawn.count(f">{'w' * 15}…</text>") == 2


def test_words_are_the_tokens_that_spell_them() -> None:
    tokens = Learnt(ENGLISH + GERMAN, 300)
    ids = tokens.encode(["das red Haus, sehr 雪"])[0].tolist()
    names, begins = group_words(tokens, ids)
    assert names == ["das", "red", "Haus,", "sehr", "雪"] or names == ["das", "red", "Haus", ",", "sehr", "雪"]
    assert begins[0] == 0
    assert begins == sorted(set(begins))
    assert [tokens.decode(ids[a:b]).strip() for a, b in zip(begins, [*begins[1:], len(ids)], strict=True)] == names
    assert group_words(Bytes(), list(b"ab")) == (["a", "b"], [0, 1])


@pytest.mark.slow
def test_it_is_the_last_layer_that_is_drawn() -> None:
    model = replace(replace(small(30, 16, 11, 2), "encoder.repeats", 1), "decoder.block.feedforward", None)
    batch = {"tokens": jnp.asarray([[1, 5, 6]]), "source": jnp.asarray([[7, 8, 9, 4]])}
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    weights = jax.jit(lambda params: attention_weights(model, params, batch))(params)
    found = jax.jit(make_cross_attention(model))(params, batch)
    np.testing.assert_allclose(found, weights["decoder.10.cross"].mean(1), rtol=1e-4, atol=1e-6)
    assert np.abs(found - weights["decoder.9.cross"].mean(1)).max() > 1e-3


def test_a_model_without_a_memory_has_nothing_to_draw() -> None:
    model = Transformer(TokenEmbed(30, 16), Stack(Block(), repeats=1), LogitsHead())
    batch = {"tokens": jnp.zeros((2, 4), int)}
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    assert make_cross_attention(model)(params, batch).shape == (2, 0, 0)
