"""BERTs of transformers with random weights, and ours beside them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from models import Transformer, bert

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}
Folder = Path


def tiny(owner: Any, **changes: Any) -> Any:
    """A random PyTorch model in which no parameter is zero or one by design."""
    torch.manual_seed(0)
    model = owner(transformers.BertConfig(**{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(model: Any, folder: Folder) -> Folder:
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def ragged(seed: int = 0) -> dict[str, np.ndarray]:
    """Three examples of 9, 4 and 6 tokens, padded."""
    draw = np.random.default_rng(seed)
    mask = (np.arange(9)[None] < np.array([9, 4, 6])[:, None]).astype(np.int64)
    return {
        "input_ids": draw.integers(1, SHAPE["vocab_size"], (3, 9)) * mask,
        "attention_mask": mask,
        "token_type_ids": draw.integers(0, 2, (3, 9)) * mask,
    }


def theirs_on(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in inputs.items()})[0].numpy()


def ours_on(model: Transformer, params: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    batch = {name: jnp.asarray(inputs[key]) for name, key in names.items()}
    return np.asarray(jax.jit(model.apply)({"params": params}, batch))


def rewritten(folder: Path, target: Path, change: Any) -> Path:
    """The folder with its tensors changed."""
    target.mkdir()
    save_file(change(load_file(folder / "model.safetensors")), target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((folder / "config.json").read_text())
    return target


def random_params(model: Transformer) -> Any:
    """Random parameters of ours, all different."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"tokens": jax.ShapeDtypeStruct((1, 2), jnp.int32)})[
        "params"
    ]
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), jnp.float32), shapes)


BODY = bert.transformer(vocab=50, width=24, depth=2, heads=4, hidden=40, length=20)
