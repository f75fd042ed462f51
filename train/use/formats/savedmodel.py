"""The evaluated model as a SavedModel, which TensorFlow runs without jax."""

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from train.contracts import Arrays
from train.data.sources import import_extra
from train.errors import InputError
from train.use.delivery import Delivery, Program
from train.use.formats import Format
from train.use.formats.stablehlo import trace

SIGNATURE = "serving_default"  # as TensorFlow Serving asks
VERSION = "1.0.0"  # of StableHLO, of 2024: what jax writes by itself is newer than what a release of TensorFlow reads
PASSES = "builtin.module(func.func(stablehlo-legalize-composite-to-call),inline,symbol-dce)"
import_library = functools.partial(import_extra, extra="tf", what="Export to savedmodel")


def write(delivery: Delivery, folder: Path) -> Collection[str]:
    """Writes a SavedModel with one signature: arrays by name in and out, and the weights as variables.

    As many named axes are symbolic as the model traces with.  Raises InputError if TensorFlow is absent, if the model
    traces with no extents, and if its program needs a newer StableHLO.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # otherwise it tells of its kernels
    tf = import_library("tensorflow")
    exported, symbols = trace(delivery)
    with tf.device("CPU"):
        module = tf.Module()
        module.weights = {name: tf.Variable(value, trainable=False) for name, value in delivery.weights.items()}
        call = make_call(exported, module.weights)
        specs = {
            name: tf.TensorSpec(list_extents(shape.shape), shape.dtype, name)
            for name, shape in delivery.shapes(symbols).items()
        }
        signature = tf.function(call, autograph=False).get_concrete_function(**specs)
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: signature})
    return symbols


def make_call(exported: export.Exported, weights: Mapping[str, object]) -> Callable[..., dict[str, object]]:
    """Makes TensorFlow's function of inputs by name from an exported (weights, inputs) -> outputs by name."""
    tf, operations = import_library("tensorflow"), import_library("tensorflow.compiler.tf2xla.python.xla")
    program = serialize(exported)

    def call(**arrays: object) -> dict[str, object]:
        leaves = jax.tree.leaves(((dict(weights), arrays), {}))
        outputs = operations.call_module(
            [leaves[index] for index in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=program,
            Tout=[tf.as_dtype(aval.dtype) for aval in exported.out_avals],
            Sout=[list_extents(aval.shape) for aval in exported.out_avals],
            platforms=[platform.upper() for platform in exported.platforms],
        )
        return jax.tree.unflatten(exported.out_tree, outputs)

    return call


def serialize(exported: export.Exported) -> bytes:
    """Serializes a program in an older StableHLO, without composites, whose extents TensorFlow does not infer."""
    stablehlo.register_stablehlo_passes()
    with mlir.make_ir_context():
        module = ir.Module.parse(exported.mlir_module())
        passmanager.PassManager.parse(PASSES).run(module.operation)
        try:
            return stablehlo.serialize_portable_artifact(module, VERSION)
        except ValueError as error:
            said = f"The model's program has no form in StableHLO {VERSION}, which TensorFlow reads ({error})"
            raise InputError(f"{said}; export it to stablehlo.") from None


def list_extents(shape: Sequence[object]) -> list[int | None]:
    """Lists the extents of a shape, None for a symbolic one."""
    return [size if isinstance(size, int) else None for size in shape]


def load(delivery: Delivery, folder: Path) -> Program:
    """Reads the program back, into TensorFlow on the CPU."""
    tf = import_library("tensorflow")
    with tf.device("CPU"):
        model = tf.saved_model.load(str(folder))

    def program(batch: Arrays) -> dict[str, np.ndarray]:
        with tf.device("CPU"):
            arrays = {name: tf.constant(value) for name, value in delivery.select(batch).items()}
            return {name: value.numpy() for name, value in model.signatures[SIGNATURE](**arrays).items()}

    return program


SAVEDMODEL = Format(
    "savedmodel",
    "saved_model.pb and variables/ are for tf.saved_model.load; the signature serving_default takes arrays by name",
    write,
    load,
    ("int8",),
)
