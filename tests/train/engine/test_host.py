"""The host: it never waits for the device between log lines, and compiles a step once a shape."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

from models import replace
from tests.places import CONFIGS
from train.config import load_config
from train.experiment import Experiment
from train.parallel import Jit
from train.report.console import Console
from train.use.fit import fit

SENTENCES = str(CONFIGS / "sentences.py")


@pytest.fixture(scope="module")
def inside(workshop: Path) -> Iterator[pytest.MonkeyPatch]:
    """The workshop as the working folder and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        yield patch


class Handle:
    """An array on a device: here are its shape and its type, and whoever asks for its values has to wait for the
    device.
    """

    waits: ClassVar[list[int]] = []  # after how many steps somebody waited
    steps: ClassVar[list[int]] = []

    def __init__(self, value: jax.Array) -> None:
        self.value, self.shape, self.dtype = value, value.shape, value.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del dtype, copy
        self.waits.append(len(self.steps))
        return np.asarray(self.value)

    def __float__(self) -> float:
        return float(self.__array__())

    def __int__(self) -> int:
        return int(self.__array__())

    def __bool__(self) -> bool:
        return bool(self.__array__())

    def block_until_ready(self) -> "Handle":
        self.waits.append(len(self.steps))
        return self


def held(tree: Any) -> Any:
    """Arrays as handles."""
    return jax.tree.map(Handle, tree)


def loose(tree: Any) -> Any:
    """Handles as arrays."""
    return jax.tree.map(lambda leaf: leaf.value if isinstance(leaf, Handle) else leaf, tree)


@dataclasses.dataclass(frozen=True)
class Held(Jit):
    """One device, whose state and sums the loop has as handles."""

    def start(self, make: Callable[[], Any]) -> Any:
        return held(super().start(make))

    def compile_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        compiled = super().compile_step(step)

        def noted(state: Any, batch: Any) -> Any:
            Handle.steps.append(len(Handle.steps))
            return held(compiled(loose(state), batch))

        return noted

    def compile_evaluation(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        compiled = super().compile_evaluation(evaluate)
        return lambda params, batch: compiled(loose(params), batch)

    def whole(self, tree: Any) -> Any:
        return loose(tree)

    def spread(self, tree: Any, consume: bool = False) -> Any:
        del consume
        return held(tree)


def sentences(**settings: Any) -> Experiment:
    """The experiment of tests/configs/sentences.py with other settings."""
    return dataclasses.replace(load_config(SENTENCES, [])[0], **settings)


@pytest.mark.slow
def test_between_lines_of_the_log_the_host_never_waits_for_the_device(
    inside: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del inside
    Handle.waits.clear()
    Handle.steps.clear()
    fit(sentences(parallel=Held(), steps=12, log_every=6), tmp_path / "run", SENTENCES, Console(silent=True))
    # The first step, which is timed; the lines of the log; evaluations and checkpoints, which have lines too.
    assert set(Handle.waits) == {1, 6, 9, 10, 12}


@dataclasses.dataclass(frozen=True)
class Counted(Jit):
    """One device; notes for each step the shape of its batch and how much was compiled for it."""

    compiled: ClassVar[list[str]] = []
    steps: ClassVar[list[tuple[tuple[int, ...], int]]] = []

    def compile_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        program = super().compile_step(step)

        def noted(state: Any, batch: Any) -> Any:
            before = len(self.compiled)
            result = program(state, batch)
            self.steps.append((batch["tokens"].shape, len(self.compiled) - before))
            return result

        return noted


@pytest.mark.slow
def test_a_step_is_compiled_once_for_each_shape_of_batch(
    inside: pytest.MonkeyPatch, tmp_path: Path, compilations: list[str]
) -> None:
    inside.setattr(Counted, "compiled", compilations)
    Counted.steps.clear()
    rows = "".join(f"{'a long film ' * (1 + index % 3)},{('bad', 'good')[index % 2]}\n" for index in range(60))
    (tmp_path / "lengths.csv").write_text("text,label\n" + rows, encoding="utf-8")
    data = replace(replace(sentences().data, "pack", False), "path", str(tmp_path / "lengths.csv"))
    fit(sentences(parallel=Counted(), steps=12, data=data), tmp_path / "run", SENTENCES, Console(silent=True))
    shapes = [shape for shape, _ in Counted.steps]
    assert len(Counted.steps) == 12
    assert len(set(shapes)) > 1
    for index, (shape, count) in enumerate(Counted.steps):
        assert count == (shape not in shapes[:index])
