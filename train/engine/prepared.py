"""Preparation of a run: shapes, optimizer, step and evaluation, traced and checked before anything is compiled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.backend.platform import compile_for
from models.contracts import Batch, Tree
from models.parametrization import initialised, roles
from models.structure import part
from models.words import join
from train.contracts import (
    Dataset,
    Ends,
    Metric,
    Parallel,
    Params,
    Roles,
    Scheduled,
    Searches,
    Start,
    Steps,
    WeighsClasses,
)
from train.cost.traced import count_flops
from train.data.balance import add_emphasis, compute_class_weights, require_once
from train.data.poisson import Sampled, make_poisson
from train.engine.groups import Groups, read_groups
from train.engine.privacy import draw_key, require_apart, require_private
from train.engine.requirements import require
from train.engine.step import (
    TrainState,
    combine_batches,
    initialise,
    make_evaluation,
    make_loss,
    make_outputs,
    make_search,
    make_step,
    make_sums,
)
from train.errors import InputError, convert_errors
from train.experiment import Experiment
from train.optimizers import Constant
from train.optimizers.averaged import Interpolates
from train.optimizers.private import Guarantee, Protects
from train.optimizers.transforms import build
from train.parallel import Jit
from train.sums import Moments, Sum, Sums

Shapes = Tree  # of a batch: a ShapeDtypeStruct for each of its arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Inference:
    """A model on its data: shapes of a batch and of the parameters, and programs, compiled when first called.

    `uncertain` names the metrics of the objective without a confidence interval; it is empty for a batch without
    targets.
    """

    experiment: Experiment
    data: Dataset
    batch: Shapes
    shapes: Params
    metrics: tuple[Metric, ...] = ()  # measured at each evaluation beside the objective's
    uncertain: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    @property
    def parallel(self) -> Parallel:
        """The parallelism that programs are compiled with."""
        return self.experiment.parallel

    @functools.cached_property
    def evaluation(self) -> Callable[[Params, Batch], dict[str, Tree]]:
        """(params, batch) -> moments of each metric of the objective."""
        experiment = self.experiment
        evaluate = make_evaluation(experiment.model, experiment.objective, experiment.precision)
        return self.parallel.compile_evaluation(evaluate)

    @functools.cached_property
    def outputs(self) -> Callable[[Params, Batch], Tree]:
        """(params, batch) -> outputs of the model."""
        return self.parallel.compile_outputs(make_outputs(self.experiment.model, self.experiment.precision))

    @functools.cached_property
    def search(self) -> Callable[[Params, Batch], jax.Array]:
        """(params, batch) -> the tokens that the objective's search finds, padded with the `end` of the data."""
        experiment = self.experiment
        if not isinstance(self.data, Ends):
            name = type(experiment.data).__name__
            said = f"The objective searches for texts, and {name} has no token that ends one"
            raise InputError(f"{said}; change one of both.")
        assert isinstance(experiment.objective, Searches)
        search = make_search(experiment.model, experiment.objective, self.data.end, experiment.precision)
        return self.parallel.compile_outputs(search)

    def evaluate(self, params: Params, stop: Callable[[], bool] = lambda: False) -> dict[str, list[Moments]] | None:
        """Evaluates the test split: moments by metric and batch; None if `stop` becomes true on the way."""
        batches = self.data.batches("test", self.experiment.evaluation.batch_size, self.parallel.size(), None)
        results: list[dict[str, Tree]] = []
        for batch in batches.stream(0, len(batches)):
            if stop():
                return None
            results.append(self.evaluation(params, self.parallel.put(batch)))
        return combine_batches(jax.device_get(results))


class Beginning(NamedTuple):
    """The state before the first step; paths of parameters that loaded weights lack (`fresh`), and unused weights."""

    state: TrainState
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prepared(Inference):
    """An experiment ready to train for `steps` steps, in shapes only: nothing is initialised, read or compiled.

    `work` counts the FLOPs of a training step, `rate` maps a step, from 0, to its learning rate, `roles` has a Role for
    each parameter, and `guarantee` is that of a private run.
    """

    batches: Steps
    steps: int
    roles: Roles
    optimizer: optax.GradientTransformation
    rate: optax.Schedule
    work: int
    guarantee: Guarantee | None = None

    pure_step: Callable[..., tuple[TrainState, Sums]]  # before compilation
    step: Callable[[TrainState, Batch], tuple[TrainState, Sums]]  # (state, batch) -> (state, sums); consumes the state

    @functools.cached_property
    def state(self) -> TrainState:
        """Shapes of the training state."""
        return _trace_state(self.shapes, self.optimizer, self.experiment)

    @functools.cached_property
    def model_work(self) -> int:
        """Three times the matmul FLOPs of the forward pass, without masked causal attention.  arXiv:2204.02311.

        Traced when first read.
        """
        loss = make_loss(self.experiment.model, self.experiment.objective, self.experiment.precision)
        with compile_for("cpu"):  # attention without a kernel, so that all its matmuls are counted
            return 3 * count_flops(lambda params, batch: loss(params, batch)[0], self.shapes, self.batch, seen=True)

    def logical(self) -> TrainState:
        """Shapes of one logical copy of the state, with the shardings to restore a checkpoint into."""
        return self.parallel.logical(self.state)

    def begin(self) -> Beginning:
        """Initialises parameters, at random or from pretrained weights, and the optimizer's state: step one."""
        beginning = self._begin()
        optimizer = self.experiment.optimizer
        if not (isinstance(optimizer, Protects) and optimizer.secret):
            return beginning
        rng = self.parallel.spread({"rng": jnp.asarray(draw_key(self.state.rng))})["rng"]
        return beginning._replace(state=dataclasses.replace(beginning.state, rng=rng))

    def _begin(self) -> Beginning:
        experiment = self.experiment
        key = jax.random.key(experiment.seed)
        with convert_errors():
            if experiment.initial is None:
                state = self.parallel.start(
                    lambda: initialise(
                        initialised(experiment.model, key, _make_zeros(self.batch))["params"],
                        self.optimizer,
                        experiment.seed,
                    )
                )
                return Beginning(state)
            params, fresh, unused = Start(*experiment.initial.load(experiment.model, key))
            if jax.tree.map(jnp.shape, params) != jax.tree.map(lambda leaf: leaf.shape, self.shapes):
                other = "The initial weights have other names or shapes than the model's parameters"
                raise InputError(f"{other}; give weights of the same structure.")
        state = jax.jit(lambda params: initialise(params, self.optimizer, experiment.seed))(params)
        return Beginning(self.parallel.spread(state), tuple(fresh), tuple(unused))


def prepare(experiment: Experiment, data: Dataset) -> Prepared:
    """Traces an experiment on its data, and counts the FLOPs of a step.

    Raises InputError if model, objective, optimizer and data do not fit each other, or if the model cannot take a
    training step.
    """
    _require_fit(experiment, data)
    groups = _read_groups(experiment, data)
    batches = _batch_training(experiment, data, groups)
    first = batches[0]
    traced = _trace_objective(experiment, data, first)
    steps = experiment.count_steps(len(batches))
    with convert_errors(
        f"The optimizer {type(experiment.optimizer).__name__} cannot take a step: ", "; change its settings."
    ):
        parameter_roles = roles(experiment.model, traced.batch)
        require_apart(experiment, traced.uncertain, parameter_roles)
        guarantee = None
        if isinstance(experiment.optimizer, Protects) and isinstance(batches, Sampled):
            guarantee = experiment.optimizer.protect(len(batches.poisson), experiment.batch_size, steps)
        optimizer = build(experiment.optimizer, steps, traced.shapes, parameter_roles)
        rate = experiment.optimizer.rate if isinstance(experiment.optimizer, Scheduled) else Constant(0.0)
        schedule = rate.build(steps)
        optimizer = optimizer if groups is None else groups.carry(optimizer)
        state = _trace_state(traced.shapes, optimizer, experiment)
        jax.eval_shape(optimizer.update, traced.shapes, state.opt_state, traced.shapes)
    pure = _build_step(experiment, optimizer, parameter_roles, groups, guarantee)
    step = experiment.parallel.compile_step(pure)
    # jit keeps the trace that is counted, for the first call
    kept = isinstance(experiment.parallel, Jit) and isinstance(step, jax.stages.Wrapped)
    with convert_errors("The model cannot take a training step: ", "; change it, or the objective."):
        work = count_flops(step if kept else pure, state, traced.batch)
    return Prepared(
        experiment,
        data,
        traced.batch,
        traced.shapes,
        traced.metrics,
        batches=batches,
        steps=steps,
        roles=parameter_roles,
        optimizer=optimizer,
        pure_step=pure,
        step=step,
        rate=schedule,
        work=work,
        guarantee=guarantee,
        uncertain=traced.uncertain,
    )


def reseed(prepared: Prepared, seed: int) -> Prepared:
    """Gives the same structure another seed: other batches and another beginning; nothing is traced again."""
    experiment = dataclasses.replace(prepared.experiment, seed=seed)
    groups = _read_groups(experiment, prepared.data)
    batches = _batch_training(experiment, prepared.data, groups)
    return dataclasses.replace(prepared, experiment=experiment, batches=batches)


def _read_groups(experiment: Experiment, data: Dataset) -> Groups | None:
    if experiment.groups is not None and (power := _get_balance(experiment)):
        raise InputError(
            f"groups weighs groups by their numbers of examples, which data.balance={power:g} changes; leave one out."
        )
    return None if experiment.groups is None else read_groups(experiment.groups, data)


def _batch_training(experiment: Experiment, data: Dataset, groups: Groups | None) -> Steps:
    multiple = experiment.parallel.size() * experiment.accumulate
    if isinstance(experiment.optimizer, Protects):
        examples = make_poisson(data, experiment.batch_size, multiple * experiment.optimizer.chunk, experiment.seed)
        require_private(experiment, data, examples.alone[0])
        return examples.draw((experiment.seed,))
    batches = data.batches("train", experiment.batch_size, multiple, experiment.seed)
    batches = batches if groups is None else groups.add_members(batches)
    objective = experiment.objective
    if not isinstance(objective, WeighsClasses):
        return batches
    weights = compute_class_weights(objective.class_weights, data)
    require_once(objective.class_weights, _get_balance(experiment))
    return add_emphasis(batches, weights)


def prepare_evaluation(experiment: Experiment, data: Dataset) -> Inference:
    """Traces an experiment's model and objective on the test split.  Raises InputError if one does not fit the data."""
    _require_fit(experiment, data)
    batches = data.batches("test", experiment.evaluation.batch_size, experiment.parallel.size(), None)
    return _trace_objective(experiment, data, batches[0])


def prepare_inference(experiment: Experiment, data: Dataset, batch: Mapping[str, np.ndarray]) -> Inference:
    """Traces an experiment's model on a batch without targets.  Raises InputError if it does not fit the data."""
    _require_fit(experiment, data)
    return _trace(experiment, data, batch)


def _trace(experiment: Experiment, data: Dataset, batch: Mapping[str, np.ndarray]) -> Inference:
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
    try:
        with convert_errors():
            params = jax.eval_shape(lambda: experiment.model.init(jax.random.key(0), _make_zeros(shapes)))["params"]
    except KeyError as error:
        both = f"{error} in a batch, and the data gives {join(batch)}"
        raise InputError(f"The model needs {both}; change model or data.") from None
    return Inference(experiment, data, shapes, params)


def _trace_objective(experiment: Experiment, data: Dataset, batch: Mapping[str, np.ndarray]) -> Inference:
    """Traces model and objective on a batch with targets."""
    traced = _trace(experiment, data, batch)
    name = type(experiment.objective).__name__
    measure = make_sums(experiment.model, experiment.objective, experiment.precision)
    try:
        with convert_errors(
            f"The objective {name} does not fit what the model's head gives or the data asks: ",
            "; change one of objective, model.head and data.",
        ):
            sums, sown = jax.eval_shape(measure, traced.shapes, traced.batch)
        uncertain = _find_uncertain(name, sums)
        if isinstance(experiment.objective, Searches):
            with convert_errors(f"The objective {name} searches with a model that decodes: "):
                search = make_search(experiment.model, experiment.objective, 0, experiment.precision)
                jax.eval_shape(search, traced.shapes, traced.batch)
    except KeyError as error:
        both = f"{error} in a batch, and the data gives {join(batch)}"
        raise InputError(f"The objective {name} needs {both}; change one of objective and data.") from None
    return dataclasses.replace(
        traced, uncertain=uncertain, metrics=_select_metrics(experiment, data, tuple(sums | sown))
    )


def _find_uncertain(objective: str, sums: Mapping[str, object]) -> tuple[str, ...]:
    """Names the Sums without `each`.  Raises InputError if an objective returns no loss, or anything but Sums."""
    if "loss" not in sums:
        raise InputError(f"The objective {objective} gives {join(sums)} and no loss; name what is minimised 'loss'.")
    uncertain: list[str] = []
    for name, total in sums.items():
        if not isinstance(total, Sum):
            said = f"The objective {objective} gives {name} as {type(total).__name__}"
            raise InputError(f"{said} and not as a Sum; make it by train.sums.sum_weighted(values, weights).")
        if total.each is None:
            uncertain.append(name)
    return tuple(uncertain)


def _select_metrics(experiment: Experiment, data: Dataset, summed: tuple[str, ...]) -> tuple[Metric, ...]:
    """Selects metrics to measure beside the objective's: `metrics`, and the review if it has `evaluation.metric`.

    Raises InputError if nothing measures `evaluation.metric`, or two metrics have one name.
    """
    watched = experiment.evaluation.metric
    review = experiment.review
    known = dict.fromkeys(summed, "the objective")
    for metric in experiment.metrics:
        owner = type(metric).__name__
        with convert_errors(f"metrics has {owner}, and it cannot be measured: "):
            names = metric.names(data)
        if twice := [name for name in names if known.get(name, "the objective") != "the objective"]:
            both = f"{known[twice[0]]} and {owner}, which both measure {twice[0]}"
            raise InputError(f"metrics has {both}; leave one out.")
        known |= {name: owner for name in names if name not in known}
    if watched in known:
        return experiment.metrics
    reviewed: tuple[str, ...] = ()
    if isinstance(review, Metric):
        with convert_errors("review cannot be measured: "):
            reviewed = review.names(data)
    if isinstance(review, Metric) and watched in reviewed:
        return (*experiment.metrics, review)
    added = [name for name in known if name not in summed]
    more = [name for name in reviewed if name not in known]
    parts = (("the objective measures", summed), ("metrics measure", added), ("the review measures", more))
    said = ", ".join(f"{owner} {join(names, room=300)}" for owner, names in parts if names)
    raise InputError(f"evaluation.metric is {watched!r} and {said}; choose one of these.")


def _trace_state(shapes: Params, optimizer: optax.GradientTransformation, experiment: Experiment) -> TrainState:
    return jax.eval_shape(lambda params: initialise(params, optimizer, experiment.seed), shapes)


def _build_step(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    parameter_roles: Roles,
    groups: Groups | None,
    guarantee: Guarantee | None,
) -> Callable[..., tuple[TrainState, Sums]]:
    rule = experiment.optimizer.rule if isinstance(experiment.optimizer, Protects) else experiment.optimizer
    interpolate = rule.interpolate if isinstance(rule, Interpolates) else None
    settings = experiment.precision, experiment.accumulate, parameter_roles, interpolate, groups, guarantee
    return make_step(experiment.model, experiment.objective, optimizer, *settings)


def _require_fit(experiment: Experiment, data: Dataset) -> None:
    """Raises InputError if the model does not fit the data, or if devices that the experiment needs are absent."""
    with convert_errors():
        _ = data.names  # raises if they cannot be read
        experiment.parallel.size()
        require(experiment, data)


def _get_balance(experiment: Experiment) -> float | None:
    try:
        return part(experiment, "data.balance")
    except LookupError:
        return None


def _make_zeros(shapes: Shapes) -> Batch:
    return {name: jnp.zeros(value.shape, value.dtype) for name, value in shapes.items()}
