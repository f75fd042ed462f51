"""What a run needs to compute, made and checked before anything is compiled: data, state, step, evaluation."""

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.backend import compiling_for
from models.contracts import Batch
from models.parametrization import initialised, roles
from models.structure import part
from models.words import listed
from train.contracts import Dataset, Scheduled, Searches, Start, Steps, WeighsClasses
from train.data.balance import class_weights, emphasised
from train.errors import InputError
from train.experiment import Experiment
from train.optimizer import Constant, in_mup, routed
from train.step import TrainState, initialise, make_evaluation, make_loss, make_outputs, make_search, make_step, over_batches
from train.study.cost import flops
from train.sums import Moments


@contextlib.contextmanager
def refused(before: str = "", after: str = "") -> Iterator[None]:
    """Turns what the user's input makes a library raise into one sentence, with words before and after where it needs them."""
    try:
        yield
    except (InputError, KeyError):
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, OSError, re.error) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{before}{said.rstrip('.') if after else said}{after}") from None


@dataclasses.dataclass
class Trainer:
    """An experiment made ready on its data.  `fresh` names the parameters that no weights were loaded for, `unused` weights left out."""

    experiment: Experiment
    data: Dataset
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        experiment = self.experiment
        with refused():
            _ = self.data.names  # whether they can be read
            self.parallel = experiment.parallel
            self.multiple = self.parallel.size() * experiment.accumulate
        vocab = _field(experiment, "model.embed.vocab")
        if vocab is not None and vocab < self.data.vocab:
            raise InputError(
                f"The tokenizer has {self.data.vocab} tokens and model.embed.vocab is {vocab}; set model.embed.vocab={self.data.vocab}."
            )
        places, length = _field(experiment, "model.embed.position.length"), _field(experiment, "data.length")
        if places is not None and length is not None and length > places:
            raise InputError(
                f"data.length is {length} and model.embed.position.length holds {places} places; set data.length={places} or"
                f" model.embed.position.length={length}."
            )
        classes = _field(experiment, "model.head.classes")
        labels = len(self.data.classes)
        if classes is not None and labels and labels != classes:
            known = listed(self.data.classes)
            raise InputError(
                f"The data has {labels} classes ({known}) and model.head.classes is {classes}; set model.head.classes={labels}."
            )
        values, actions = _field(experiment, "model.head.values"), getattr(self.data, "actions", None)
        if values is not None and actions and values != actions:
            raise InputError(f"The data has {actions} actions a step and model.head.values is {values}; set model.head.values={actions}.")
        longest = getattr(self.data, "longest", 0)
        if places is not None and longest > places:
            raise InputError(
                f"The data has trajectories of {longest} steps and model.embed.position.length holds {places} places;"
                f" set model.embed.position.length={longest}."
            )

    @property
    def train(self) -> Steps:
        """Batches to train on."""
        batches = self.data.batches("train", self.experiment.batch_size, self.multiple, self.experiment.seed)
        return emphasised(batches, self.class_weights)

    @functools.cached_property
    def class_weights(self) -> np.ndarray | None:
        """The weight of each class in the loss, (k,), if asked for.  Raises InputError for data without classes."""
        objective = self.experiment.objective
        return class_weights(objective.class_weights, self.data) if isinstance(objective, WeighsClasses) else None

    def example(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The shapes of a batch."""
        return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}

    def shapes(self, batch: dict[str, np.ndarray]) -> Any:
        """The shapes of the parameters, traced on a batch's.  Raises InputError where the model does not fit the data."""
        try:
            with refused():
                return jax.eval_shape(lambda: self.experiment.model.init(jax.random.key(0), _zeros(self.example(batch))))["params"]
        except KeyError as error:
            raise InputError(f"The model needs {error} in a batch, and the data gives {listed(batch)}; change model or data.") from None

    def check(self, batch: dict[str, np.ndarray]) -> Any:
        """As `shapes`, and traces the objective, on a batch with targets."""
        params, batch_shapes = self.shapes(batch), self.example(batch)
        name = type(self.experiment.objective).__name__
        loss = make_loss(self.experiment.model, self.experiment.objective, self.experiment.precision)
        try:
            with refused(
                f"The objective {name} does not fit what the model's head gives or the data asks: ",
                "; change one of objective, model.head and data.",
            ):
                _, sums = jax.eval_shape(loss, params, batch_shapes)
            if isinstance(self.experiment.objective, Searches):
                with refused(f"The objective {name} searches with a model that decodes: "):
                    search = make_search(self.experiment.model, self.experiment.objective, 0, self.experiment.precision)
                    jax.eval_shape(search, params, batch_shapes)
        except KeyError as error:
            raise InputError(
                f"The objective {name} needs {error} in a batch, and the data gives {listed(batch)}; change one of objective and data."
            ) from None
        watched = self.experiment.evaluation.metric
        if watched not in sums:
            raise InputError(f"evaluation.metric is {watched!r} and the objective measures {listed(sums, room=300)}; choose one of these.")
        return params

    def optimise(self, shapes: Any, batch: dict[str, np.ndarray], steps: int) -> None:
        """Makes the optimizer ready for so many steps and counts a step's products (`work`); nothing is compiled.

        Raises InputError where the optimizer does not fit the model, and for what the model computes while it is trained only.
        """
        experiment, abstract = self.experiment, self.example(batch)
        with refused(f"The optimizer {type(experiment.optimizer).__name__} cannot take a step: ", "; change its settings."):
            found, build = roles(experiment.model, abstract), experiment.optimizer.build
            if in_mup(found) and not _takes_roles(build):
                raise ValueError("its build takes no roles, which hold muP's rates")
            self.roles = found
            self.optimizer: optax.GradientTransformation = (
                build(steps, shapes, roles=found) if _takes_roles(build) else routed(build(steps, shapes), shapes, found)
            )
            rate = experiment.optimizer.rate if isinstance(experiment.optimizer, Scheduled) else Constant(0.0)
            self.rate = rate.build(steps)
            state = jax.eval_shape(lambda params: initialise(params, self.optimizer, experiment.seed), shapes)
            jax.eval_shape(self.optimizer.update, shapes, state.opt_state, shapes)
        with refused("The model cannot take a training step: ", "; change it, or the objective."):
            self.work = flops(self.step(), state, abstract)  # traced
        self.traced = shapes, abstract

    @functools.cached_property
    def model_work(self) -> int:
        """Three times the products of the forward pass, what causal attention hides left out: the work that the model itself asks for.

        arXiv:2204.02311.  Traced when first read, after `optimise`.
        """
        loss = make_loss(self.experiment.model, self.experiment.objective, self.experiment.precision)
        with compiling_for("cpu"):  # where attention is the plain one, whose products are all there to count
            return 3 * flops(lambda params, batch: loss(params, batch)[0], *self.traced, seen=True)

    def start(self, shapes: Any, batch: dict[str, np.ndarray], steps: int) -> TrainState:
        """Step one, initialise: parameters from chance or from weights, and the optimizer's state."""
        self.optimise(shapes, batch, steps)
        return self.begin()

    def logical(self) -> TrainState:
        """The shapes of one logical copy of the state, placed to read a checkpoint into.  After `optimise`; nothing is drawn or read."""
        state = jax.eval_shape(lambda params: initialise(params, self.optimizer, self.experiment.seed), self.traced[0])
        return self.parallel.logical(state)

    def begin(self) -> TrainState:
        """The state before the first step.  After `optimise`."""
        experiment, (shapes, abstract) = self.experiment, self.traced
        key = jax.random.key(experiment.seed)
        with refused():
            if experiment.initial is None:
                return self.parallel.start(
                    lambda: initialise(initialised(experiment.model, key, _zeros(abstract))["params"], self.optimizer, experiment.seed)
                )
            params, self.fresh, self.unused = Start(*experiment.initial.load(experiment.model, key))
            if jax.tree.map(jnp.shape, params) != jax.tree.map(lambda leaf: leaf.shape, shapes):
                raise InputError(
                    "The initial weights have other names or shapes than the model's parameters; give weights of the same structure."
                )
        return self.parallel.spread(jax.jit(lambda params: initialise(params, self.optimizer, experiment.seed))(params))

    def step(self) -> Any:
        """The pure step, before compilation."""
        experiment = self.experiment
        settings = experiment.precision, experiment.accumulate, self.roles
        return make_step(experiment.model, experiment.objective, self.optimizer, *settings)

    def compiled_step(self) -> Any:
        """(state, batch) -> (state, sums), compiled when first called."""
        return self.parallel.compile_step(self.step())

    def compiled_evaluation(self) -> Any:
        """(params, batch) -> sums, compiled when first called."""
        return self.parallel.compile_evaluation(
            make_evaluation(self.experiment.model, self.experiment.objective, self.experiment.precision)
        )

    def compiled_outputs(self) -> Any:
        """(params, batch) -> what the model gives, compiled when first called."""
        return self.parallel.compile_outputs(make_outputs(self.experiment.model, self.experiment.precision))

    def compiled_search(self, end: int) -> Any:
        """(params, batch) -> the tokens that the objective's search finds, compiled when first called."""
        experiment = self.experiment
        return self.parallel.compile_outputs(make_search(experiment.model, experiment.objective, end, experiment.precision))

    def evaluate(self, evaluation: Any, params: Any, stop: Any = lambda: False) -> dict[str, list[Moments]] | None:
        """The test split, batch by batch, as moments by metric; None if `stop` said so.  Nothing is updated."""
        batches = self.data.batches("test", self.experiment.evaluation.batch_size, self.parallel.size(), None)
        results: list[dict[str, Any]] = []
        for batch in batches.stream(0, len(batches)):
            if stop():
                return None
            results.append(evaluation(params, self.parallel.put(batch)))
        return over_batches(jax.device_get(results))


def _field(experiment: Experiment, path: str) -> Any:
    try:
        return part(experiment, path)
    except LookupError:
        return None


def _takes_roles(build: Any) -> bool:
    taken = inspect.signature(build).parameters
    return "roles" in taken or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())


def _zeros(shapes: dict[str, Any]) -> Batch:
    return {name: jnp.zeros(value.shape, value.dtype) for name, value in shapes.items()}
