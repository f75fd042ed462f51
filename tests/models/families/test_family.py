"""Families of published weights: ops that are undone bit by bit, rules in both directions, and a family of one file
that is found.
"""

import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import models.families
from models import (
    Attention,
    Block,
    Experts,
    LogitsHead,
    PreNorm,
    RMSNorm,
    RoPE,
    Transformer,
    bert,
    load_hf,
    part,
    replace,
    save_hf,
)
from models import Stack as Layers
from models.embed.tokens import TokenEmbed
from models.families.family import (
    Family,
    Inverse,
    Names,
    Op,
    Permute,
    Reshape,
    Rule,
    Split,
    Stack,
    Transpose,
    families,
    number_blocks,
)
from models.families.folder import read_hf
from models.paths import Layer, select
from models.structure import differences


def build(config: Mapping[str, Any]) -> Transformer:
    """Pre-norm layers of attention with grouped keys, and of experts; one table for embedding and logits."""
    norm = RMSNorm()
    block = Block(
        mixer=Attention(config["heads"], kv_heads=config["kv_heads"], position=RoPE()),
        feedforward=Experts(config["experts"], active=2, expand=2.0, shared=0),
        residual=PreNorm(norm),
    )
    return Transformer(
        TokenEmbed(config["vocab"], config["width"]), Layers(block, config["depth"], norm), LogitsHead(tied=True)
    )


def describe(model: Transformer) -> dict[str, Any]:
    paths = {
        "vocab": "embed.vocab",
        "width": "embed.width",
        "depth": "stack.repeats",
        "heads": "stack.block.mixer.heads",
        "kv_heads": "stack.block.mixer.kv_heads",
        "experts": "stack.block.feedforward.experts",
    }
    try:
        config: dict[str, Any] = {name: part(model, path) for name, path in paths.items()}
    except LookupError as error:
        raise ValueError(f"not of the family: {error}") from None
    if changed := differences(replace(model, "stack.scan", False), build(config)):
        raise ValueError(f"not of the family: {changed[0][0]}")
    return config


def rules(model: Transformer, config: Mapping[str, Any]) -> list[Rule]:
    """The fused kernel holds, for each group of queries, these and then its key and its value, output first, as in
    Falcon or InternLM2.
    """
    d, heads, groups = config["width"], config["heads"], config["kv_heads"]
    k, each = d // heads, heads // groups
    ours = tuple(f"stack/layer_{{}}/mixer/{name}/kernel" for name in ("query", "key", "value"))
    table = [
        Rule("embed.weight", "embed/token"),
        Rule("layers.{}.first_norm.weight", "stack/layer_{}/mixer_residual/norm/scale"),
        Rule(
            "layers.{}.attention.qkv.weight",
            ours,
            Reshape((-1, d), (groups, each + 2, k, d)),
            Permute((3, 0, 1, 2)),
            Split(2, (each, 1, 1)),
            Reshape((d, groups, -1, k), (d, -1)),
        ),
        Rule("layers.{}.attention.out.weight", "stack/layer_{}/mixer/out/kernel", Transpose()),
        Rule("layers.{}.second_norm.weight", "stack/layer_{}/feedforward_residual/norm/scale"),
        Rule("layers.{}.router.weight", "stack/layer_{}/feedforward/router/gate/kernel", Transpose()),
        Rule("norm.weight", "stack/norm/scale"),
    ]
    for name in ("gate", "up", "down"):
        theirs = tuple(f"layers.{{}}.experts.{expert}.{name}.weight" for expert in range(config["experts"]))
        table.append(Rule(theirs, f"stack/layer_{{}}/feedforward/{name}", Stack(), Transpose()))
    return table


FAMILY = Family("fused", build, describe, rules, names=Names(heads=("scores.",)))
CONFIG = {"vocab": 30, "width": 16, "depth": 3, "heads": 4, "kv_heads": 2, "experts": 3}
MODEL = build(CONFIG)
TOKENS = {"tokens": jnp.arange(10).reshape(2, 5)}


def drawn(model: Transformer, seed: int = 0) -> Any:
    """Parameters that differ everywhere."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_same(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


OPS: dict[str, Callable[[np.random.Generator], tuple[Op, list[tuple[int, ...]]]]] = {
    "transpose": lambda draw: (Transpose(), [sizes(draw, 2), sizes(draw, 4)]),
    "permute": lambda draw: (
        Permute(tuple(int(axis) for axis in draw.permutation(4))),
        [sizes(draw, 4), sizes(draw, 4)],
    ),
    "reshape": lambda draw: reshape(draw),
    "split": lambda draw: cut(draw, int(draw.integers(-3, 3))),
    "stack": lambda draw: (Stack(int(draw.integers(-4, 4))), [sizes(draw, 3)] * 4),
}


def sizes(draw: np.random.Generator, axes: int) -> tuple[int, ...]:
    return tuple(int(size) for size in draw.integers(1, 5, axes))


def reshape(draw: np.random.Generator) -> tuple[Op, list[tuple[int, ...]]]:
    a, b, c, d = sizes(draw, 4)
    forms = [
        Reshape((a * b, c * d), (a, b, c, d)),
        Reshape((-1, c * d), (a, -1, c * d)),
        Reshape((a * b, -1), (a, b, -1, d)),
    ]
    return forms[draw.integers(3)], [(a * b, c * d)] * 2


def cut(draw: np.random.Generator, axis: int) -> tuple[Op, list[tuple[int, ...]]]:
    parts, shape = sizes(draw, 3), list(sizes(draw, 3))
    shape[axis] = sum(parts)
    return Split(axis, parts), [tuple(shape)]


@pytest.mark.parametrize("kind", OPS)
def test_every_op_and_its_inverse_are_undone_bit_by_bit_on_random_shapes(kind: str) -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        op, shapes = OPS[kind](draw)
        arrays = tuple(draw.standard_normal(shape).astype(np.float32) for shape in shapes)
        made = op.apply(arrays)
        assert_same(op.undo(made), arrays)
        assert_same(Inverse(op).apply(made), arrays)
        assert_same(Inverse(op).undo(arrays), made)
        assert sorted(np.concatenate([array.ravel() for array in made])) == sorted(
            np.concatenate([array.ravel() for array in arrays])
        )
        traced = jax.eval_shape(lambda arrays, op=op: op.apply(arrays), arrays)  # shapes are known without values
        assert [leaf.shape for leaf in traced] == [array.shape for array in made]


def test_an_op_that_does_not_undo_itself_is_seen_by_that_law() -> None:
    """Permute by its own axes again is no inverse of an order that turns three axes."""
    arrays = (np.arange(24.0).reshape(2, 3, 4),)
    op = Permute((1, 2, 0))
    assert op.apply(op.apply(arrays))[0].shape != arrays[0].shape


@pytest.mark.parametrize(
    ("op", "shapes", "words"),
    [
        (Transpose(), [(3,)], r"two axes or more, not one of shape \(3,\)"),
        (Permute((1, 0)), [(2, 3, 4)], r"arrays of 2 axes, not one of shape \(2, 3, 4\)"),
        (Reshape((6, -1), (2, 3, -1)), [(5, 4)], r"\(6, -1\) to \(2, 3, -1\), not one of shape \(5, 4\)"),
        (Reshape((-1,), (4, 4)), [(15,)], r"not one of shape \(15,\)"),
        (Split(0, (4, 2)), [(7, 3)], r"one array of 6 along axis 0, not \(7, 3\)"),
        (Split(2, (4, 2)), [(6, 3)], r"along axis 2, not \(6, 3\)"),
        (
            Inverse(Split(0, (4, 2))),
            [(4, 3), (3, 3)],
            r"joins arrays of 4 and 2 along axis 0, not \(4, 3\) and \(3, 3\)",
        ),
        (Inverse(Split(0, (4, 2))), [(4, 3), (2, 5)], "joins"),
        (Stack(), [(2, 3), (3, 2)], r"arrays of one shape, not \(2, 3\) and \(3, 2\)"),
        (Inverse(Stack(2)), [(2, 3)], r"with an axis 2, not \(2, 3\)"),
    ],
)
def test_an_op_refuses_other_shapes_in_a_sentence(op: Op, shapes: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        op.apply(tuple(np.zeros(shape) for shape in shapes))


def test_ops_and_rules_that_cannot_be_are_refused() -> None:
    for make, words in (
        (lambda: Permute((0, 2)), "each of the axes from 0 to 1 once"),
        (lambda: Reshape((2, 3), (7,)), "changes the number of values"),
        (lambda: Reshape((-1, -1), (6,)), "one of them -1 at most"),
        (lambda: Rule("layers.{}.weight", "embed/token"), "in some of its names"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(ValueError, match="2 arrays for 1 names"):
        Rule("a", "b", Split(0, (1, 1))).read((np.zeros((2, 2)),))


@pytest.mark.represented_by("scan")
@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
def test_a_fused_kernel_and_stacked_experts_go_out_and_come_back_bit_by_bit(scan: bool, tmp_path: Path) -> None:
    model = replace(MODEL, "stack.scan", scan)
    params = drawn(model)
    save_hf(model, params, tmp_path / "first", family=FAMILY)
    tensors = load_file(tmp_path / "first" / "model.safetensors")
    assert tensors["layers.2.attention.qkv.weight"].shape == (16 + 2 * 8, 16)
    assert tensors["layers.1.experts.2.down.weight"].shape == (16, 32)
    loaded = read_hf(tmp_path / "first", model, family=FAMILY)
    assert (loaded.fresh, loaded.unused) == ((), ())
    assert_same(loaded.params, params)
    assert read_hf(tmp_path / "first", family=FAMILY).model == MODEL
    save_hf(loaded.model, loaded.params, tmp_path / "second", family=FAMILY)
    again = load_file(tmp_path / "second" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert_same(again, tensors)
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == CONFIG | {"model_type": "fused"}


def test_the_fused_kernel_is_cut_by_groups_of_queries(tmp_path: Path) -> None:
    params = drawn(MODEL)
    save_hf(MODEL, params, tmp_path, family=FAMILY)
    fused = load_file(tmp_path / "model.safetensors")["layers.0.attention.qkv.weight"]
    mixer = params["stack"]["layer_0"]["mixer"]
    for group in range(2):  # two queries, a key and a value of 4 rows each
        rows, queries = fused[group * 16 :], np.asarray(mixer["query"]["kernel"]).T
        np.testing.assert_array_equal(rows[:8], queries[group * 8 : group * 8 + 8])
        np.testing.assert_array_equal(rows[8:12], np.asarray(mixer["key"]["kernel"]).T[group * 4 : group * 4 + 4])
        np.testing.assert_array_equal(rows[12:16], np.asarray(mixer["value"]["kernel"]).T[group * 4 : group * 4 + 4])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_hf(MODEL, drawn(MODEL), tmp_path / "fused", family=FAMILY)
    return tmp_path / "fused"


def changed(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
    return folder


def test_what_does_not_fit_a_fused_kernel_or_an_expert_is_named(folder: Path) -> None:
    kernel = "layers.0.attention.qkv.weight"
    changed(folder, lambda tensors: tensors | {kernel: np.zeros((30, 16), np.float32)})
    with pytest.raises(ValueError, match=rf"3 misshapen: {kernel} of shape \(30, 16\): Reshape takes arrays of shape"):
        read_hf(folder, family=FAMILY)
    fit = read_hf(folder, family=FAMILY, fit=True)
    assert set(fit.fresh) == {f"stack/layer_0/mixer/{name}/kernel" for name in ("query", "key", "value")}
    assert fit.unused == (kernel,)


def test_an_expert_that_lacks_leaves_its_stack_without_a_source(folder: Path) -> None:
    lost = "layers.1.experts.2.up.weight"
    changed(folder, lambda tensors: {name: value for name, value in tensors.items() if name != lost})
    left = r"2 unexpected: layers.1.experts.0.up.weight, layers.1.experts.1.up.weight"
    with pytest.raises(ValueError, match=rf"1 missing: stack/layer_1/feedforward/up; {left}"):
        read_hf(folder, family=FAMILY)


def test_a_part_of_what_is_fused_is_loaded_only_on_request(folder: Path) -> None:
    """Of a mixer with queries under another name the keys and values have a source, and the queries of the file no
    place.
    """
    fused = rules(MODEL, CONFIG)
    other = [
        Rule(rule.theirs, tuple(name.replace("query", "asked") for name in rule.ours), *rule.ops)
        if len(rule.ours) == 3
        else rule
        for rule in fused
    ]
    family = Family("fused", build, describe, lambda model, config: other)
    with pytest.raises(
        ValueError,
        match=r"3 missing: stack/layer_0-2/mixer/query/kernel; 3 unexpected: layers.0-2.attention.qkv.weight",
    ):
        read_hf(folder, family=family)
    loaded = read_hf(folder, family=family, fit=True)
    assert set(loaded.fresh) == {f"stack/layer_{layer}/mixer/query/kernel" for layer in range(3)}
    with pytest.raises(
        ValueError,
        match=r"No rule of the family fused writes .*stack/layer_0-2/mixer/key/kernel.*; add one to its file",
    ):
        save_hf(MODEL, drawn(MODEL), folder, family=family)


def test_a_family_is_found_by_its_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [family.model_type for family in families()] == ["bert"]
    with pytest.raises(ValueError, match="has model_type 'fused'; known are bert"):
        load_hf(folder)
    head = "from models import *\nfrom models.embed.tokens import TokenEmbed\nfrom models.families.family import *\n"
    head += "from models.depth.stack import Stack as Layers\nfrom models.structure import differences\n"
    head += "from typing import Any\nfrom collections.abc import Mapping\n"
    source = (
        head
        + "\n".join(map(inspect.getsource, (build, describe, rules)))
        + '\nFAMILY = Family("fused", build, describe, rules)\n'
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "fused.py").write_text(source)
    monkeypatch.setattr(models.families, "__path__", [*models.families.__path__, str(tmp_path / "own")])
    try:
        assert [family.model_type for family in families()] == ["bert", "fused"]
        model, params = load_hf(folder)
        assert model == MODEL
        save_hf(model, params, tmp_path / "again")
        assert_same(load_file(tmp_path / "again" / "model.safetensors"), load_file(folder / "model.safetensors"))
        (tmp_path / "own" / "twice.py").write_text(
            'from models.families.fused import *\nFAMILY = Family("bert", build, describe, rules)'
        )
        with pytest.raises(
            ValueError, match=r"called 'bert': in models\.families\.bert and in models\.families\.twice; rename one"
        ):
            families()
    finally:
        for name in ("fused", "twice"):
            sys.modules.pop(f"models.families.{name}", None)
            if hasattr(models.families, name):
                delattr(models.families, name)


def test_a_scanned_bert_is_written_as_its_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bert.masked_lm(bert.transformer(vocab=20, width=8, depth=2, heads=2, hidden=16, length=6))
    params = drawn(replace(model, "stack.scan", True))
    save_hf(replace(model, "stack.scan", True), params, tmp_path)
    with caplog.at_level(logging.WARNING, "morphax"):
        scanned, again = load_hf(tmp_path, replace(model, "stack.scan", True))
    assert_same(again, params)
    assert scanned.stack.scan
    assert not caplog.text


@pytest.mark.parametrize(
    ("path", "kind", "index", "within"),
    [
        ("stack/first_2/mixer/norm", "prefix", 2, "mixer/norm"),
        ("layer_11", "loop", 11, ""),
        ("decoder/blocks/block_1/cross/out", "scan", 1, "cross/out"),
        ("a/tied/block_0/b/layer_3/c", "tied", 0, "b/layer_3/c"),
    ],
)
def test_a_layer_and_its_path_are_one(path: str, kind: str, index: int, within: str) -> None:
    layer = Layer.of(path)
    assert layer is not None
    assert (layer.kind, layer.index, layer.within, layer.path) == (kind, index, within, path)


def test_blocks_are_counted_from_the_first_of_the_prefix_as_rules_count_them() -> None:
    paths = ("stack/first_1/x", "stack/layer_1/x", "stack/blocks/block_1/x", "stack/tied/block_0/x", "stack/norm/scale")
    assert [number_blocks(path, 2) for path in paths] == [
        "stack/layer_1/x",
        "stack/layer_3/x",
        "stack/layer_3/x",
        "stack/layer_2/x",
        paths[-1],
    ]


def test_paths_are_selected_by_the_first_pattern() -> None:
    assert Layer.of("player_1/x") is None
    chosen = select(("cross$", "layer_1"))
    assert [chosen(path) for path in ("a/cross", "a/layer_1/x", "b")] == ["cross$", "layer_1", None]
