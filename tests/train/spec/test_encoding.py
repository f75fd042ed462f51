"""Experiments as text: written and read back, changed by overrides, and nothing in a value ever run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from models import GLU, Attention, Block, PreNorm, RMSNorm, RoPE, bert, part, relu
from train.config import list_configs, load_config
from train.data.tasks.corpus import Corpus, Masking
from train.data.tasks.text import Text
from train.errors import InputError
from train.experiment import Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import (
    SGD,
    SOAP,
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    Lion,
    Muon,
    Optax,
    ScheduleFreeAdamW,
    WarmupStableDecay,
)
from train.parallel import Mesh, Pmap
from train.spec.encoding import build, decode, encode
from train.spec.overrides import list_changes, override, write_value
from train.spec.parts import list_project_parts

NAMES = list_project_parts()


@pytest.fixture
def experiment() -> Experiment:
    return load_config("sentiment_bert", [])[0]


def again(value: Any) -> Any:
    """Through JSON and back."""
    return decode(json.loads(json.dumps(encode(value))), NAMES)


OVERRIDES = {
    "plain": [],
    "numbers": ["batch_size=64", "optimizer.rate.peak=3e-5", "seed=7", "evaluation.patience=3"],
    "none": ["optimizer.clip=none", "initial=none"],
    "steps": ["steps=100", "precision=bfloat16", "accumulate=4"],
    "optimizer": [
        "optimizer=Optax('lion', Cosine(1e-4, warmup=0.1), {'b1': 0.95, 'weight_decay': 0.1}, freeze=('embed/',))"
    ],
    "mesh": ["parallel=Mesh(data=4, fsdp=2, rules=(('kernel$', ('fsdp', None)), ('scale$', (None,))))"],
    "pmap": ["parallel=Pmap()"],
    "data": ["data=Corpus(length=32, masking=Masking(0.2))", "objective=MaskedLM()"],
    "text": ["data=Text(path='a, b.csv', labels=('x', 'y'), buckets=(8, 16, 128), truncate=True)"],
    "stack": [
        "model.stack=Stack((Block(GLU(), None), Block(residual=Sandwich(RMSNorm()))), 3, RMSNorm(), scan=True,"
        " remat='full')"
    ],
    "decay": [
        "optimizer.no_decay=('bias$',)",
        "optimizer.layer_decay=0.75",
        "optimizer.rate=WarmupStableDecay(2e-4, warmup=100)",
    ],
}


@pytest.mark.parametrize("config", list_configs())
@pytest.mark.parametrize("overrides", OVERRIDES)
def test_an_experiment_is_read_back_as_it_was_written(config: str, overrides: str) -> None:
    plain = load_config(config, [])[0]
    if not isinstance(plain.optimizer, AdamW):
        plain = dataclasses.replace(plain, optimizer=AdamW())
    stack = "model.stack" if hasattr(plain.model, "stack") else "model.encoder"
    plain = override(plain, [text.replace("model.stack", stack) for text in OVERRIDES[overrides]], NAMES)
    assert again(plain) == plain
    assert encode(again(plain)) == encode(plain)


@pytest.mark.represented_by("tiny_lm")
@pytest.mark.parametrize("config", list_configs())
def test_a_value_that_is_written_as_an_override_is_read_as_it_was(config: str) -> None:
    experiment = load_config(config, [])[0]
    for path in ("model", "optimizer", "data", "evaluation"):
        value = getattr(experiment, path)
        assert override(experiment, [f"{path}={write_value(value)}"], NAMES) == experiment
    assert write_value(GLU(activation=relu, bias=True)) == "GLU(activation=relu, bias=true)"
    assert write_value((1, "a", None, {"b": -0.5}, (2.0,))) == "(1, 'a', none, {'b': -0.5}, (2.0,))"
    with pytest.raises(InputError, match="cannot be written as an override"):
        write_value(object())


SETTINGS: list[tuple[str, str, Any]] = [
    ("batch_size=64", "batch_size", 64),
    ("batch_size=64.0", "batch_size", 64),
    ("batch_size=1e2", "batch_size", 100),
    ("optimizer.rate.peak=1", "optimizer.rate.peak", 1.0),
    ("optimizer.rate.peak=1e-3", "optimizer.rate.peak", 1e-3),
    ("model.stack.block.feedforward.expand=8/3", "model.stack.block.feedforward.expand", 8 / 3),
    ("optimizer.clip=none", "optimizer.clip", None),
    ("optimizer.clip=None", "optimizer.clip", None),
    ("evaluation.greater=false", "evaluation.greater", False),
    ("evaluation.greater=True", "evaluation.greater", True),
    ("evaluation.metric=loss", "evaluation.metric", "loss"),
    ("evaluation.metric='loss'", "evaluation.metric", "loss"),
    ("evaluation.metric=none", "evaluation.metric", "none"),
    ("data.path=none", "data.path", None),
    ("data.path=a=b, c.csv", "data.path", "a=b, c.csv"),
    ("data.path=__import__('os')", "data.path", "__import__('os')"),  # a string it is, and stays
    ("data.kind=value", "data.kind", "value"),
    ("data.buckets=(8, 16.0)", "data.buckets", (8, 16)),
    ("data.buckets=[8, 16]", "data.buckets", (8, 16)),
    ("data.labels=('a', 'b')", "data.labels", ("a", "b")),
    ("optimizer.freeze=()", "optimizer.freeze", ()),
    ("precision=bfloat16", "precision", "bfloat16"),
    ("model.stack.block.feedforward.activation=relu", "model.stack.block.feedforward.activation", relu),
    ("optimizer=SGD", "optimizer", SGD()),
    ("optimizer=SGD(Constant(1), momentum=0.9)", "optimizer", SGD(Constant(1.0), momentum=0.9)),
    ("evaluation=Evaluation(every=10)", "evaluation", Evaluation(every=10)),
    ("parallel=Pmap()", "parallel", Pmap()),
]


@pytest.mark.parametrize(("text", "path", "value"), SETTINGS, ids=[text for text, _, _ in SETTINGS])
def test_an_override_has_the_type_of_its_field(experiment: Experiment, text: str, path: str, value: Any) -> None:
    found = part(override(experiment, [text], NAMES), path)
    assert found == value
    assert type(found) is type(value)


def test_an_override_changes_its_path_and_nothing_else(experiment: Experiment) -> None:
    changed = override(experiment, ["model.stack.block.mixer.heads=6"], NAMES)
    assert list_changes(experiment, changed) == ["model.stack.block.mixer.heads: 12 -> 6"]
    assert list_changes(experiment, experiment) == []
    assert part(experiment, "model.stack.block.mixer.heads") == 12


STRUCTURES: list[tuple[str, Any]] = [
    ("Attention(4)", Attention(4)),
    ("Attention(heads=4, causal=True, position=RoPE(500))", Attention(4, causal=True, position=RoPE(500.0))),
    ("Attention(qk_norm=RMSNorm)", Attention(qk_norm=RMSNorm())),
    ("Attention(4, causal=true, window=none, bias=False)", Attention(4, causal=True)),
    ("GLU(expand=8/3, activation=relu)", GLU(8 / 3, relu)),
    (" Attention( 4 ) ", Attention(4)),
]


@pytest.mark.parametrize(("text", "value"), STRUCTURES)
def test_a_structure_is_written_as_a_call(experiment: Experiment, text: str, value: Any) -> None:
    assert part(override(experiment, [f"model.stack.block.mixer={text}"], NAMES), "model.stack.block.mixer") == value


def test_a_place_in_a_tuple_is_part_of_a_path(experiment: Experiment) -> None:
    two = override(
        experiment, ["model.stack.block=(Block(Attention(2)), Block(GLU(), None, PreNorm(RMSNorm())))"], NAMES
    )
    assert part(two, "model.stack.block") == (Block(Attention(2)), Block(GLU(), None, PreNorm(RMSNorm())))
    third = override(two, ["model.stack.block.0.mixer.heads=1"], NAMES)
    assert list_changes(two, third) == ["model.stack.block.0.mixer.heads: 2 -> 1"]
    lion = dataclasses.replace(experiment, optimizer=Optax("lion", arguments={"b1": 0.9}))
    mapped = override(lion, ["optimizer.arguments.b1=0.5"], NAMES)
    assert part(mapped, "optimizer.arguments") == {"b1": 0.5}


WRONG: list[tuple[str, str]] = [
    ("batch_sise=4", "did you mean 'batch_size'"),
    ("model.stack.block.mixr.heads=4", "did you mean 'mixer'"),
    ("model.stack.block.mixer.head=4", "did you mean 'heads'"),
    ("model.stack.block.mixer=Atention(4)", "did you mean 'Attention'"),
    ("model.stack.block.mixer=Attention(head=4)", "Attention has no field 'head'; did you mean 'heads'"),
    ("model.stack.block.feedforward.activation=rellu", "did you mean 'relu'"),
    ("model.stack.block.0=Block()", "a value|has no field '0'"),
    ("batch_size=6.5", "batch_size takes a whole number; 6.5 was given"),
    ("batch_size=true", "batch_size takes a whole number"),
    ("batch_size=True", "batch_size takes a whole number; True was given"),
    ("model.stack.block.mixer=Attention(heads=true)", "Attention.heads takes a whole number; True was given"),
    ("batch_size=none", "batch_size takes a whole number"),
    ("batch_size='8'", "batch_size takes a whole number; '8' was given"),
    ("batch_size=0", "batch_size is 0; it must be a number above 0"),
    ("optimizer.rate.peak=fast", "takes a number"),
    ("evaluation.greater=1", "takes true or false"),
    ("data.kind=number", "takes 'class' or 'value'"),
    ("precision=float16", "takes 'float32' or 'bfloat16'"),
    ("data.buckets=8", "data.buckets takes"),
    ("data.buckets=(8, 'a')", "data.buckets takes"),
    ("model.stack.block.mixer=RMSNorm()", "takes a Layer; 'RMSNorm' was given"),
    ("model.stack.block.residual=Attention()", "takes a Residual"),
    ("optimizer=Constant()", "optimizer takes a Optimizer"),
    ("model.stack.block.mixer=Attention(8, 3)", "kv_heads must divide heads"),
    ("model.stack.block.mixer=PartialRoPE(0.5, 100.0, 1)", "takes at most 2 arguments; 3"),
    ("model.stack.block.mixer=Attention(4, heads=4)", "'heads' twice"),
    ("model.stack.block.feedforward.activation=relu()", "relu is a function and is given by its name alone"),
    ("optimizer=Optax('lyon')", "did you mean 'lion'"),
    ("batch_size", "is no override; write path=value"),
    ("=4", "is no override"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_override_is_refused_with_the_nearest_right_one(
    experiment: Experiment, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        override(experiment, [text], NAMES)
    assert "\n" not in str(caught.value)


CODE = [
    "Attention.heads",
    "Attention().heads",
    "[head for head in (1, 2)]",
    "(head for head in (1, 2))",
    "{head for head in (1, 2)}",
    "lambda: 4",
    "f'{4}'",
    "__import__('os').abort()",
    "Attention.__class__()",
    "Attention.__init__.__globals__",
    "Attention(heads=__import__('os').abort())",
    "Attention(*(4,))",
    "Attention(**{'heads': 4})",
    "{**{'heads': 4}}",
    "(4, *(4,))",
    "2 ** 9",
    "2 + 2",
    "1 / 0",
    "4 if True else 8",
    "True and 4",
    "not 4",
    "4 < 8",
    "(heads := 4)",
    "(4, 8)[0]",
    "eval('4')",
    "exec",
    "print('x')",
    "'a' 'b'.join(())",
    "b'4'",
    "4j",
    "...",
    "{1, 2}",
    "import os",
    "heads = 4",
    "-" * 5000 + "4",
    "(" * 5000 + "4" + ")" * 5000,
]


@pytest.mark.parametrize("path", ["batch_size", "model.stack.block.mixer", "optimizer", "data.buckets"])
def test_nothing_is_evaluated(experiment: Experiment, capsys: pytest.CaptureFixture[str], path: str) -> None:
    for text in CODE:
        with pytest.raises(InputError) as caught:
            override(experiment, [f"{path}={text}"], NAMES)
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_known_class_is_no_way_to_another(experiment: Experiment) -> None:
    with pytest.raises(InputError, match="No component is called 'InputError'"):
        override(experiment, ["optimizer=InputError('x')"], NAMES)
    assert not {name for name in NAMES if name.startswith("_")}
    assert all(dataclasses.is_dataclass(value) or value.__module__ == "models.activation" for value in NAMES.values())


def test_reading_refuses_what_is_not_known_and_checks_every_field() -> None:
    for data, message in (
        ({"class": "Atention"}, "did you mean 'Attention'"),
        ({"class": "Attention", "head": 4}, "did you mean 'heads'"),
        ({"class": "Attention", "heads": "4"}, "Attention.heads takes a whole number"),
        ({"class": "Attention", "heads": 0}, "Attention"),
        ({"function": "os.system"}, "No component is called 'os.system'"),
        ({"class": ["Attention"]}, "No component is called"),
    ):
        with pytest.raises(InputError, match=message):
            decode(data, NAMES)


def test_writing_refuses_what_could_not_be_read_back() -> None:
    for value in (object(), Attention, b"bytes", {1, 2}, Optax("adamw", arguments={"mask": lambda params: params})):
        with pytest.raises(InputError):
            encode(value)


def test_a_component_is_built_with_checked_arguments() -> None:
    assert build(Attention, {"heads": 4.0}) == Attention(4)
    assert type(build(Attention, {"heads": 4.0}).heads) is int
    assert build(Corpus, {"masking": Masking(0.3)}) == Corpus(masking=Masking(0.3))
    with pytest.raises(InputError, match="needs a"):
        build(Experiment, {"objective": NextToken()})


@pytest.mark.parametrize(
    "value",
    [
        bert.classifier(3, bert.minilm()),
        bert.masked_lm(bert.transformer(width=16, heads=2)),
        Mesh(2, 4),
        Text(labels=("a",), buckets=(8, 128)),
        SGD(Cosine(1e-3, 0.1), momentum=0.9, clip=1.0, freeze=("embed",)),
        AdamW(WarmupStableDecay(), layer_decay=0.9),
        Optax("lion", arguments={"b1": 0.9, "weight_decay": 0.1}),
        Lion(Cosine(1e-4), no_decay=("scale$",), momentum="bfloat16"),
        Adafactor(bound=None, relative=False),
        Muon(rms=None, adam=("router/",), layer_decay=0.9),
        ScheduleFreeAdamW(b1=0.95, freeze=("embed",)),
        SOAP(every=20, adam=("token",), largest=4096),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_part_is_read_back_as_it_was_written(value: Any) -> None:
    assert again(value) == value


SHARED = """
import dataclasses
from configs import tiny_lm
from models import Attention, Block, LogitsHead, RMSNorm, Stack, TokenEmbed, Transformer

def experiment():
    norm = RMSNorm()
    model = Transformer(TokenEmbed(256, 8, norm=norm), Stack(Block(Attention(2)), repeats=1, norm=norm), LogitsHead())
    return dataclasses.replace(tiny_lm.experiment(), model=model)
"""


def test_one_norm_given_in_two_places_has_parameters_of_its_own_in_each(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED, encoding="utf-8")
    experiment = load_config(str(tmp_path / "shared.py"), [])[0]
    trained, restored = (
        jax.eval_shape(one.model.init, jax.random.key(0), {"tokens": jnp.zeros((1, 4), int)})
        for one in (experiment, again(experiment))
    )
    assert jax.tree.structure(trained) == jax.tree.structure(restored)
    assert "norm" in trained["params"]["embed"]
    assert "norm" in trained["params"]["stack"]
