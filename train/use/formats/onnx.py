"""The evaluated model as an ONNX graph with its weights, by jax2onnx."""

import contextlib
import functools
import io
import logging
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from train.contracts import Arrays
from train.data.sources import import_extra
from train.errors import InputError
from train.use.delivery import Delivery, Program
from train.use.formats import Format

FLOAT, DOUBLE = 1, 11  # ONNX's numbers of the types
import_library = functools.partial(import_extra, extra="onnx", what="Export to ONNX")


def write(delivery: Delivery, folder: Path) -> Collection[str]:
    """Writes model.onnx.

    As many named axes are symbolic as jax2onnx converts and onnxruntime computes.  Raises InputError if one is not
    installed, and with the reason if they do not take fixed extents either.
    """
    for name in ("jax2onnx", "onnx_ir"):  # they tell at length what they skip
        logging.getLogger(name).setLevel(logging.CRITICAL)
    reason = ""
    for symbols in delivery.list_symbolic():
        try:
            graph = convert(delivery, symbols)
            if delivery.method == "dynamic":
                graph = quantize(graph)
            start(delivery, graph)(delivery.shown)
        except InputError:
            raise
        except Exception as error:  # what the two libraries do not know raises anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(graph)
        return symbols
    raise InputError(
        f"The model cannot be converted by jax2onnx for onnxruntime ({reason[:300]}); export it to stablehlo."
    )


def convert(delivery: Delivery, symbols: Collection[str]) -> bytes:
    """Converts the model, with its weights, to a serialized graph; these axes of the inputs are symbolic."""
    converter, _ = map(import_library, ("jax2onnx", "onnx"))
    shapes = delivery.shapes(symbols)
    names = sorted(jax.eval_shape(delivery.function(symbols), delivery.weights, shapes))
    call = make_call(delivery, symbols, names)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it converts where --json goes
        graph = converter.to_onnx(call, list(shapes.values()), input_names=list(shapes), output_names=names)
    if not jax.config.read("jax_enable_x64"):  # jax2onnx writes some constants in float64, as no value of the run is
        numpy = import_library("onnx.numpy_helper")
        for constant in graph.graph.initializer:
            if constant.data_type == DOUBLE:
                constant.CopyFrom(numpy.from_array(numpy.to_array(constant).astype(np.float32), constant.name))
        for value in graph.graph.value_info:
            if value.type.tensor_type.elem_type == DOUBLE:
                value.type.tensor_type.elem_type = FLOAT
    return graph.SerializeToString()


def quantize(graph: bytes) -> bytes:
    """Quantises the matrices of a graph to int8, one scale an output, and what meets them as it runs, to uint8."""
    quantization = import_library("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:  # the library reads and writes files
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(graph)
        logging.disable(logging.WARNING)  # it advises steps that jax2onnx has taken
        try:
            quantization.quantize_dynamic(before, after, per_channel=True, weight_type=quantization.QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return after.read_bytes()


def make_call(delivery: Delivery, symbols: Collection[str], names: list[str]) -> Callable[..., tuple[jax.Array, ...]]:
    """Makes a function of the inputs, in their order, that holds the weights and returns these outputs."""
    function = delivery.function(symbols)
    weights = {name: jnp.asarray(value) for name, value in delivery.weights.items()}

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        outputs = function(weights, dict(zip(delivery.inputs, arrays, strict=True)))
        return tuple(outputs[name] for name in names)

    return call


def start(delivery: Delivery, graph: bytes) -> Program:
    """Starts a serialized graph in onnxruntime, on the CPU."""
    runtime = import_library("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised too
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def program(batch: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, delivery.select(batch)), strict=True))

    return program


def load(delivery: Delivery, folder: Path) -> Program:
    """Reads the graph back."""
    return start(delivery, (folder / "model.onnx").read_bytes())


ONNX = Format("onnx", "model.onnx holds the program and its weights, for onnxruntime", write, load, ("int8", "dynamic"))
