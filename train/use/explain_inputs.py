"""Inputs of explained answers: an input without content, names of its tokens, and its pictures."""

import re

import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model
from models.embed.features import TrajectoryEmbed
from models.embed.grids import find_tiling
from models.structure import part
from train.contracts import Arrays, Dataset, Tokenised

SPECIAL = re.compile(r"\[[A-Z]+\]|</?[a-z]+>")  # names of tokens that stand for no text
AXES = ("frame", "row", "column")
FOR, AGAINST = np.array([214.0, 39.0, 40.0]), np.array([31.0, 100.0, 200.0])  # red and blue


def empty_input(data: Dataset, arrays: Batch) -> tuple[Batch, str]:
    """The same input without its content, and the words for it: a token that says nothing, or zeros."""
    if isinstance(data, Tokenised) and "tokens" in arrays:
        names = list(data.tokens.names)
        known = next((name for name in ("[MASK]", "<mask>", "[PAD]", "<pad>", " ", "Ġ") if name in names), None)
        index = 0 if known is None else names.index(known)
        special = np.array([bool(SPECIAL.fullmatch(name)) for name in names])
        tokens = jnp.where(jnp.asarray(special)[arrays["tokens"]], arrays["tokens"], index)
        return {**arrays, "tokens": tokens}, f"every token {names[index]!r} but for special ones"
    zeros = {
        name: jnp.zeros_like(value) if jnp.issubdtype(value.dtype, jnp.floating) and name != "weights" else value
        for name, value in arrays.items()
    }
    return zeros, "an input of zeros"


def name_tokens(model: Model, data: Dataset, arrays: Arrays) -> tuple[tuple[str, ...], int, tuple[int, ...]]:
    """Names of the embed's tokens, how many of them are registers, and the grid that the others fill, if they do.

    There are no names if the tokens are neither text nor cells nor steps whose positions are known.
    """
    if isinstance(data, Tokenised) and "tokens" in arrays:
        pieces = any(name.startswith("##") for name in data.tokens.names)
        names: list[str] = []
        for token in arrays["tokens"][0].tolist():
            text = data.tokens.decode([token]) or data.tokens.names[token]
            names.append(text.removeprefix("##") if text.startswith("##") or not pieces else f" {text}")
        return tuple(names), 0, ()
    extents = next((value.shape[1:-1] for value in arrays.values() if value.ndim > 3), None)
    if (tiled := find_tiling(model)) is not None and extents is not None:
        grid, registers = tiled[1].cells(extents), tiled[1].registers
        span = extents[0] // grid[0] if len(grid) > 2 else 1
        cells = (
            ", ".join(
                f"frames {index * span + 1}-{(index + 1) * span}"
                if word == "frame" and span > 1
                else f"{word} {index + 1}"
                for word, index in zip(AXES[-len(grid) :], cell, strict=True)
            )
            for cell in np.ndindex(*grid)
        )
        return (*(f"register {index + 1}" for index in range(registers)), *cells), registers, grid
    if "positions" in arrays and "features" in arrays:
        steps = [int(position) + 1 for position in arrays["positions"][0]]
        if isinstance(part(model, "embed"), TrajectoryEmbed):
            return tuple(f"{kind} {step}" for step in steps for kind in ("return", "observation", "action")), 0, ()
        return tuple(map(str, steps)), 0, ()
    return (), 0, ()


def read_frames(arrays: Arrays) -> np.ndarray | None:
    """Reads the frames of an image or a video of -1 to 1 as bytes (n, rows, columns, 3); None for other channels."""
    value = next((value[0] for value in arrays.values() if value.ndim > 3), None)
    if value is None or value.shape[-1] not in (1, 3):
        return None
    frames = value.reshape(-1, *value.shape[-3:]).astype(np.float32)
    return np.broadcast_to(np.clip((frames + 1) * 127.5, 0, 255).round(), (*frames.shape[:-1], 3)).astype(np.uint8)


def shade_frames(frames: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Shades frames (n, rows, columns, 3), made pale, by cells (times, rows, columns) from -1 to 1: red, blue if below.

    Returns bytes of the shape of the frames.
    """
    for axis, (size, count) in enumerate(zip(frames.shape, cells.shape, strict=False)):
        cells = np.take(cells, np.arange(size) * count // size, axis)
    pale = 255 - (255 - frames.mean(-1, keepdims=True)) * 0.5
    strength = 0.85 * np.abs(cells)[..., None]
    shaded = pale * (1 - strength) + np.where(cells[..., None] > 0, FOR, AGAINST) * strength
    return shaded.round().astype(np.uint8)
