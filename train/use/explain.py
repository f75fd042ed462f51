"""Explanations of a trained run's answer to one question: what it read, over depth, by heads, and what it resembles."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model, Tree
from models.head.chunked import compute_logits
from models.inspect.attention import attention_weights, roll_out_attention
from models.inspect.causal import ablate
from models.inspect.intermediates import by_depth, capture, observe
from models.inspect.lens import logit_lens
from models.inspect.saliency import gradient_times_input, integrated_gradients, occlude, occlude_groups
from models.inspect.watch import INPUT
from train.contracts import Arrays, Params, Restores, Scores, Searches
from train.engine.folder import Recorded
from train.engine.prepared import prepare_inference
from train.errors import InputError, convert_errors
from train.use.evaluate import format_output, restore_params
from train.use.explain_inputs import empty_input, name_tokens, read_frames
from train.use.questions import QuestionBatches
from train.use.training_examples import Examples, find_influential, find_neighbours, open_training

EMBED, ROLLOUT = "embed", "rollout over all layers"
OBSERVED = (f"embed.in{INPUT}", f"embed.features{INPUT}")  # features as they enter an embed
STEPS, MOST_STEPS = 32, 512  # of integrated gradients, doubled until they are complete
COMPLETE = 1e-3  # of the difference of the scores that attributions have to sum to
HEADS = 256  # heads that are ablated at most


@dataclasses.dataclass(frozen=True)
class Explanation:
    """An explained answer.

    The score that is explained, in `words`, is `score`, and `baseline` for an input that says nothing, which
    `emptied` describes.  `methods` have a number for each of the tokens `names`, of which the first `registers` are of
    no part of the input and the others fill a `grid`, if there is one.  `error` is the difference between the sum of
    integrated gradients and that of the scores.  `depth` has the score and the answer after each block, `attention`
    the mean weights (t, s) of each layer's heads, and their rollout, `heads` what the score loses without each head
    (h,), by the layer's path.  `missing` says what could not be computed and why, by its name.  `pictures` are the
    frames of an image or a video as the model reads them (n, rows, columns, channels), `frames` what the score loses
    without the cells of each time (n,), and `observations` the integrated gradients of the features of each step
    (t, k).
    """

    question: str
    answer: Mapping[str, object]
    words: str
    score: float
    baseline: float
    emptied: str
    names: tuple[str, ...]
    methods: Mapping[str, np.ndarray]
    error: float
    registers: int = 0
    grid: tuple[int, ...] = ()
    depth: Mapping[str, tuple[float, Mapping[str, object]]] = dataclasses.field(default_factory=dict)
    attention: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    neighbours: Examples = Examples()
    influential: Examples = Examples()
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pictures: np.ndarray | None = None
    frames: np.ndarray | None = None
    observations: np.ndarray | None = None

    @property
    def span(self) -> int:
        """The frames of a cell of a video."""
        return 1 if self.pictures is None or len(self.grid) < 3 else len(self.pictures) // self.grid[0]


def explain(
    folder: Path,
    run: Recorded,
    inputs: Sequence[str],
    best: bool = False,
    nearest: int = 5,
    among: int = 1000,
    number: int | None = None,
) -> Explanation:
    """Explains the answer to a question by a run's last checkpoint (or its best), in float32.

    `number`, from 1, chooses one of several questions that the inputs make.  Raises InputError for an objective without
    a score to explain, for several questions without a choice, and for a question that cannot be read.
    """
    experiment = dataclasses.replace(run.experiment, precision="float32")
    objective, model = experiment.objective, experiment.model
    if isinstance(objective, Searches) or not isinstance(objective, Scores):
        kind = "its answers are found by a search" if isinstance(objective, Searches) else "it has no score"
        raise InputError(
            f"Answers of the objective {type(objective).__name__} cannot be explained: {kind}; use morphax predict."
        )
    data = experiment.data.reader(run.classes)
    with convert_errors():
        asked = QuestionBatches(data, inputs, 1)
        question, first = pick_question(asked, number)
    inference = prepare_inference(experiment, data, first)
    params = inference.parallel.whole(restore_params(folder, inference, best)[1])
    arrays = {name: jnp.asarray(value) for name, value in first.items()}
    outputs = compute_logits(jax.jit(model.apply)({"params": params}, arrays))
    if not isinstance(outputs, jax.Array):
        raise InputError(f"The model gives {type(outputs).__name__}, of which no score can be explained.")
    count = int((first["segments"][0] > 0).sum()) if "segments" in first else None
    example = {name: value[0] for name, value in first.items()}

    def restore(output: Tree) -> Tree:
        return data.restored(output, example) if isinstance(data, Restores) else output

    with convert_errors("The answer has no score: "):
        output = np.asarray(outputs[0], np.float32)
        pick, words = objective.pick_score(restore(output if outputs.ndim < 3 else output[:count]), data.names)

    def score(outputs: Tree) -> jax.Array:
        return jax.vmap(lambda output: pick(restore(output)))(outputs)

    def answer(outputs: Tree) -> Mapping[str, object]:
        return format_output(objective, data, jax.tree.map(np.asarray, outputs), first, 0)

    empty, emptied = empty_input(data, arrays)
    missing: dict[str, str] = {}
    names, registers, grid = name_tokens(model, data, first)
    frames = grid[0] if len(grid) > 2 else 0
    state = _Explained(model, params, arrays, score, missing, registers, frames)
    methods, error, ends = state.attribute(empty)
    neighbours = influential = Examples(missing="none were asked for")
    if nearest:
        training = open_training(run, among)
        if isinstance(training, str):
            neighbours = influential = Examples(missing=training)
        else:
            neighbours = find_neighbours(training, model, params, arrays, nearest)
            influential = find_influential(folder, inference, training, arrays, score, nearest)
    names = names or tuple(str(index + 1) for index in range(len(methods["occlusion"])))
    return Explanation(
        question,
        answer(outputs),
        words,
        *ends,
        emptied,
        names[:count],
        {name: values[:count] for name, values in methods.items()},
        error,
        registers,
        grid,
        {path: (float(score(row)[0]), answer(row)) for path, row in state.read_depth()},
        {path: weights[:count, :count] for path, weights in state.read_attention()},
        state.ablate_heads(),
        neighbours,
        influential,
        missing,
        read_frames(first) if grid else None,
        state.occlude_frames(empty) if frames else None,
        state.attribute_observations(empty),
    )


def pick_question(asked: QuestionBatches, number: int | None) -> tuple[str, Arrays]:
    """Picks one of several questions, and its batch.  Raises InputError without a choice or for another number."""
    count = len(asked.texts)
    if not 1 <= (number or 1) <= count or (number is None and count > 1):
        chosen = "" if number is None else f" and --number is {number}"
        raise InputError(f"The input makes {count} questions{chosen}; give --number from 1 to {count}.")
    index = (number or 1) - 1
    for indices, batch in asked.batches():
        if indices == [index]:
            return asked.texts[index], batch
    raise InputError(asked.reasons[index])


@dataclasses.dataclass(frozen=True)
class _Explained:
    """A model on one question with a score of its outputs; what cannot be computed is noted in `missing`."""

    model: Model
    params: Params
    batch: Batch
    score: Callable[[Tree], jax.Array]
    missing: dict[str, str]
    registers: int = 0
    times: int = 0  # of the grid of a video

    def attribute(self, empty: Batch) -> tuple[dict[str, np.ndarray], float, tuple[float, float]]:
        """Attributions to tokens by method, the error of integrated gradients, and the scores of both inputs."""
        with convert_errors("The answer cannot be attributed to its input: "):
            start = self.run(
                lambda params, batch: next(iter(capture(self.model, params, batch, EMBED).values())), empty
            )
            ends = [float(self.run(self.compute_score, batch)[0]) for batch in (self.batch, empty)]
            steps = STEPS
            while True:
                method = functools.partial(integrated_gradients, baseline=start, steps=steps)
                integrated = np.asarray(self.run(self.bind(method)), np.float64)[0]
                error = float(integrated.sum() - (ends[0] - ends[1]))
                if abs(error) <= COMPLETE * abs(ends[0] - ends[1]) or steps >= MOST_STEPS:
                    break
                steps *= 2
            gradient = self.run(self.bind(gradient_times_input))
            dropped = self.run(self.bind(functools.partial(occlude, baseline=start)))
        methods = {
            "integrated gradients": integrated.sum(-1),
            "gradient x input": np.asarray(gradient, np.float64)[0].sum(-1),
            "occlusion": np.asarray(dropped, np.float64)[0],
        }
        return methods, error, (ends[0], ends[1])

    def occlude_frames(self, empty: Batch) -> np.ndarray:
        """Measures what the score loses without all cells of each time, (times,)."""

        def measure(params: Params, batch: Batch, start: jax.Array) -> jax.Array:
            cells = start.shape[1] - self.registers
            owner = jnp.repeat(jnp.arange(self.times), cells // self.times)
            groups = jnp.pad(owner == jnp.arange(self.times)[:, None], ((0, 0), (self.registers, 0)))
            return occlude_groups(self.model, params, batch, self.score, groups, baseline=start)[0]

        start = self.run(lambda params, batch: next(iter(capture(self.model, params, batch, EMBED).values())), empty)
        return np.asarray(self.run(lambda params, batch: measure(params, batch, start)), np.float64)

    def attribute_observations(self, empty: Batch) -> np.ndarray | None:
        """Attributes the score to the features of each step (t, k), if a map of them is an embed's first input."""
        if "features" not in self.batch:
            return None
        paths = jax.eval_shape(lambda params: observe(self.model, {"params": params}, (self.batch,)), self.params)
        path = next((path for path in OBSERVED if path in paths), None)
        if path is None:
            return None
        method = functools.partial(integrated_gradients, path=path, baseline=empty["features"], steps=STEPS)
        return np.asarray(self.run(self.bind(method)), np.float64)[0]

    def run(self, function: Callable[[Params, Batch], Tree], batch: Batch | None = None) -> Tree:
        """Compiles a function of the parameters and a batch, by default the question's, and computes it."""
        return jax.jit(function)(self.params, self.batch if batch is None else batch)

    def bind(self, method: Callable[..., jax.Array]) -> Callable[[Params, Batch], jax.Array]:
        """An attribution of the score as a function of the parameters and a batch."""
        return lambda params, batch: method(self.model, params, batch, self.score)

    def compute_score(self, params: Params, batch: Batch) -> jax.Array:
        """Computes the score of each example."""
        return self.score(compute_logits(self.model.apply({"params": params}, batch)))

    def read_depth(self) -> Iterator[tuple[str, Tree]]:
        """Iterates over the outputs that the model would have after each block."""
        try:
            outputs = self.run(lambda params, batch: logit_lens(self.model, params, batch))
        except (LookupError, ValueError, TypeError) as error:
            self.missing["depth"] = str(error)
            return
        yield from sorted(outputs.items(), key=lambda pair: (not pair[0].endswith(INPUT), by_depth(pair[0])))

    def read_attention(self) -> Iterator[tuple[str, np.ndarray]]:
        """Iterates over the weights of layers whose tokens see all others, (t, t), the mean over heads."""
        weights = self.run(lambda params, batch: attention_weights(self.model, params, batch))
        if not weights:
            self.missing["attention"] = "the model has no attention weights"
        square: list[jax.Array] = []
        for path, layer in sorted(weights.items(), key=lambda pair: by_depth(pair[0])):
            if layer.ndim == 4 and layer.shape[0] == 1 and layer.shape[2] == layer.shape[3]:
                square.append(layer)
                yield path, np.asarray(layer[0].mean(0), np.float64)
            else:
                self.missing[f"attention of {path}"] = f"its weights are {layer.shape}, of parts of the row"
        if len(square) == len(weights) > 1:
            yield ROLLOUT, np.asarray(roll_out_attention(square)[0], np.float64)

    def ablate_heads(self) -> dict[str, np.ndarray]:
        """Measures what the score loses without the weights of each head in turn, (h,), by path."""
        weights = jax.eval_shape(lambda params: attention_weights(self.model, params, self.batch), self.params)
        total = sum(layer.shape[1] for layer in weights.values())
        if not 0 < total <= HEADS:
            if total:
                self.missing["heads"] = f"{total} heads are more than the {HEADS} that are tried"
            return {}
        try:
            lost = self.run(lambda params, batch: ablate(self.model, params, batch, self.score, ["**.weigh"], axis=1))
        except (LookupError, ValueError, TypeError) as error:
            self.missing["heads"] = str(error)
            return {}
        return {
            path.removesuffix(".weigh"): np.asarray(values, np.float64).reshape(len(values))
            for path, values in sorted(lost.items(), key=lambda pair: by_depth(pair[0]))
        }
