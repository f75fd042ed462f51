"""A small GPT-2 read by TransformerLens and by ours: attention, the logit lens, parts of logits, heads taken away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from models import (
    MLP,
    Attention,
    Block,
    LayerNorm,
    LearnedPosition,
    LogitsHead,
    PreNorm,
    Stack,
    TokenEmbed,
    Transformer,
    gelu_tanh,
    load_hf,
)
from models.families.family import Family, Names, Rule, Split
from models.inspect.attention import attention_weights
from models.inspect.causal import ablate, subtract_logits
from models.inspect.lens import attribute_logits, logit_lens
from models.inspect.tuned_lens import tune_lens
from tests.parity.weights import saved

SHAPE: dict[str, Any] = {"vocab_size": 50, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 20}
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 9))
BATCH = {"tokens": jnp.asarray(TOKENS)}
AT, RIGHT, WRONG = np.array([8, 8, 8]), np.array([1, 4, 7]), np.array([2, 30, 9])
HEADS, LAYERS = 4, 3


def build(config: Mapping[str, object]) -> Transformer:
    del config
    norm = LayerNorm(epsilon=1e-5)
    block = Block(Attention(HEADS, bias=True, causal=True), MLP(4, gelu_tanh, bias=True), PreNorm(norm))
    embed = TokenEmbed(50, 24, position=LearnedPosition(20))
    return Transformer(embed, Stack(block, repeats=LAYERS, norm=norm), LogitsHead())


def rules(model: Transformer, config: Mapping[str, object]) -> list[Rule]:
    del model, config
    block, names = "stack/layer_{}", ("query", "key", "value")
    both = [("bias", "bias"), ("weight", "kernel")]
    dense = {"attn.c_proj": "mixer/out", "mlp.c_fc": "feedforward/up", "mlp.c_proj": "feedforward/down"}
    norms = {"h.{}.ln_1": f"{block}/mixer_residual/norm", "h.{}.ln_2": f"{block}/feedforward_residual/norm"}
    return [
        Rule("wte.weight", "embed/token"),
        Rule("wpe.weight", "embed/position/table"),
        *(
            Rule(f"h.{{}}.attn.c_attn.{theirs}", tuple(f"{block}/mixer/{name}/{ours}" for name in names),
                 Split(-1, (24, 24, 24)))
            for theirs, ours in both
        ),
        *(Rule(f"h.{{}}.{a}.{theirs}", f"{block}/{b}/{ours}") for a, b in dense.items() for theirs, ours in both),
        *(
            Rule(f"{a}.{theirs}", f"{b}/{ours}")
            for a, b in (norms | {"ln_f": "stack/norm"}).items()
            for theirs, ours in [("weight", "scale"), ("bias", "bias")]
        ),
    ]  # fmt: skip


GPT2 = Family("gpt2", build, lambda model: {}, rules, Names(prefix="transformer.", heads=("lm_head.",)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, of which none is zero or one by design."""
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return saved(theirs, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> tuple[Any, Any]:
    return load_hf(folder, family=GPT2)


def read(folder: Path, folded: bool = False) -> Any:
    """TransformerLens' model, with norms folded into the weights after them if `folded`."""
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=model, device="cpu")
    if folded:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


def test_attention_and_the_logit_lens_are_transformer_lens(folder: Path, ours: tuple[Any, Any]) -> None:
    model, params = ours
    theirs = read(folder)
    logits, cache = theirs.run_with_cache(torch.tensor(TOKENS))
    weights, lens = jax.jit(lambda params: (attention_weights(model, params, BATCH), logit_lens(model, params, BATCH)))(
        params
    )
    for layer in range(LAYERS):
        np.testing.assert_allclose(weights[f"stack.{layer}.mixer"], cache["pattern", layer].numpy(), atol=1e-4)
    states = cache.accumulated_resid(layer=-1)
    with torch.no_grad():
        read_states = theirs.unembed(theirs.ln_final(states)).numpy()
    for number, path in enumerate(["stack.0:input", *(f"stack.{layer}" for layer in range(LAYERS))]):
        np.testing.assert_allclose(lens[path], read_states[number], atol=1e-4)
    np.testing.assert_allclose(lens[f"stack.{LAYERS - 1}"], logits.detach().numpy(), atol=1e-4)


def test_parts_of_a_difference_of_logits_are_transformer_lens(folder: Path, ours: tuple[Any, Any]) -> None:
    model, params = ours
    theirs = read(folder, folded=True)
    _, cache = theirs.run_with_cache(torch.tensor(TOKENS))
    parts = jax.jit(lambda params: attribute_logits(model, params, BATCH, subtract_logits(AT, RIGHT, WRONG)))(params)
    stack, labels = cache.decompose_resid(layer=-1, mode="full", return_labels=True)
    with torch.no_grad():
        found = cache.logit_attrs(stack, torch.tensor(RIGHT), torch.tensor(WRONG))[..., AT[0]].numpy()
    named = dict(zip(labels, found, strict=True))
    np.testing.assert_allclose(parts["stack.0:input"], named["embed"] + named["pos_embed"], atol=1e-4)
    for layer in range(LAYERS):
        np.testing.assert_allclose(parts[f"stack.{layer}.mixer"], named[f"{layer}_attn_out"], atol=1e-4)
        np.testing.assert_allclose(parts[f"stack.{layer}.feedforward"], named[f"{layer}_mlp_out"], atol=1e-4)
    assert np.abs(found).max() > 0.1


def test_heads_that_are_taken_away_are_transformer_lens(folder: Path, ours: tuple[Any, Any]) -> None:
    model, params = ours
    theirs, differ = read(folder), subtract_logits(AT, RIGHT, WRONG)
    lost = jax.jit(lambda params: ablate(model, params, BATCH, differ, ["**.weigh"], axis=1))(params)
    with torch.no_grad():
        plain = differ(theirs(torch.tensor(TOKENS)).numpy())
        for layer in range(LAYERS):
            for head in range(HEADS):

                def silence(pattern: torch.Tensor, hook: object, head: int = head) -> torch.Tensor:
                    del hook
                    pattern[:, head] = 0
                    return pattern

                hooks = [(f"blocks.{layer}.attn.hook_pattern", silence)]
                without = differ(theirs.run_with_hooks(torch.tensor(TOKENS), fwd_hooks=hooks).numpy())
                np.testing.assert_allclose(lost[f"stack.{layer}.mixer.weigh"][head], plain - without, atol=1e-4)


def test_the_tuned_lens_is_that_of_the_released_training(folder: Path, ours: tuple[Any, Any]) -> None:
    """Its loss and its optimizer in PyTorch: SGD with decay, clipped, at a rate that falls linearly."""
    model, params = ours
    steps = 8
    rows = [np.random.default_rng(step).integers(0, 50, (4, 9)) for step in range(steps)]
    tuned, history = tune_lens(model, params, [{"tokens": jnp.asarray(each)} for each in rows])
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval().requires_grad_(False)
    lenses = [torch.nn.Linear(24, 24) for _ in range(LAYERS)]
    weights = [parameter for lens in lenses for parameter in lens.parameters()]
    for parameter in weights:
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    losses = []
    for each in rows:
        outputs = theirs(torch.tensor(each), output_hidden_states=True)
        target = outputs.logits.log_softmax(-1)
        divergences = []
        for lens, state in zip(lenses, outputs.hidden_states[:LAYERS], strict=True):
            logits = theirs.lm_head(theirs.transformer.ln_f(state + lens(state)))
            divergences.append((target.exp() * (target - logits.log_softmax(-1))).sum(-1).mean())
        losses.append([float(value.detach()) for value in divergences])
        optimizer.zero_grad()
        torch.stack(divergences).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(np.stack(list(history.values()), 1), losses, atol=1e-4)
    for lens, translator in zip(lenses, tuned.values(), strict=True):
        np.testing.assert_allclose(translator["kernel"], lens.weight.detach().numpy().T, atol=1e-4)
        np.testing.assert_allclose(translator["bias"], lens.bias.detach().numpy(), atol=1e-4)
    assert np.abs(tuned["stack.0"]["kernel"]).max() > 1e-2
