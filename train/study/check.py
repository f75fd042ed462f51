"""Checks of a user's components, from files and calls, by the laws."""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.table
import rich.text

from models.backend.platform import compile_for
from models.context import Context
from models.contracts import KINDS, Layer, Tree, kind_of
from models.laws.applying import laws_of, verdict
from models.laws.carrier import apply_to, layer_of, parameters_of
from models.laws.devices import DEVICES
from models.laws.inputs import WIDTH, parameters
from models.laws.layer import usable_length
from models.laws.verdict import Law, NotTestedError, Verdict, name_of, require
from models.structure import fields
from train.config import load_file
from train.cost.traced import count_parameters
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError
from train.plan.topology import find_devices
from train.spec.encoding import decode, encode
from train.spec.overrides import parse
from train.spec.parts import Names, list_components, list_project_parts
from train.study.catalogue import LENGTH, measure_layer
from train.study.catalogue import WIDTH as STANDARD_WIDTH

TOPOLOGY = "v5e:1x1"


def prepare() -> None:
    """Prepares a process that has computed nothing yet: emulated devices on a CPU, and a compilation cache."""
    enable_compilation_cache()
    # the number of devices is fixed once something is computed
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", DEVICES)


@contextlib.contextmanager
def compile_quickly() -> Iterator[None]:
    """Skips compiler passes that only make programs fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def make_components(targets: Sequence[str], known: Names | None = None) -> list[Any]:
    """Makes the components of a command line: those of calls if there are any, otherwise those that files define.

    Classes of a file are made with their defaults; `known` are further classes that calls may name.  Raises
    InputError for a file without any, a class that needs arguments, and a call that cannot be read.
    """
    files = [target for target in targets if target.endswith(".py")]
    calls = [target for target in targets if not target.endswith(".py")]
    modules = {file: load_file(file) for file in files}
    names: Names = (
        list_project_parts()
        | (known or {})
        | {name: value for module in modules.values() for name, value in list_components(module).items()}
    )
    if calls:
        return [parse_call(call, names) for call in calls]
    return [component for file, module in modules.items() for component in make_defined(file, module)]


def parse_call(call: str, names: Names) -> Any:
    """Parses the component of a call such as `MyMixer(heads=4)` without evaluating it."""
    try:
        component = parse(ast.parse(call.strip(), mode="eval").body, names)
    except SyntaxError:
        raise InputError(
            f"{call!r} cannot be read; give a file that ends with .py, or a call such as MyMixer(heads=4)."
        ) from None
    return require_component(component, call)


def make_defined(file: str, module: ModuleType) -> list[Any]:
    """Makes every component class that a file defines itself, with the defaults of its fields."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and issubclass(value, nn.Module)
        and not value.__name__.startswith("_")
    ]
    kinds = [owner for owner in classes if kind_of(owner) is not None]
    if not kinds:
        others = f" ({', '.join(owner.__name__ for owner in classes)} have arguments of no kind)" if classes else ""
        listed = "; ".join(
            f"{kind.__name__}{inspect.signature(kind.__call__)}".replace("self, ", "") for kind in KINDS[:3]
        )
        raise InputError(
            f"{file} defines no component{others}: a class of flax.linen with the arguments of a kind, such as"
            f" {listed}."
        )
    for owner in kinds:
        for field in fields(owner):
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                example = f'morphax check {file} "{owner.__name__}({field.name}=...)"'
                raise InputError(
                    f"{owner.__name__} has no default for {field.name}: give it one, or a call: {example}."
                )
    return [require_component(owner(), owner.__name__) for owner in kinds]


def require_component(component: Any, words: str) -> Any:
    """Returns the component.  Raises InputError unless it is hashable and of a kind."""
    if kind_of(component) is None:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise InputError(
            f"{words} is no component of a kind ({kinds}): its __call__ has other arguments; see models/contracts.py."
        )
    try:
        hash(component)
    except TypeError as error:
        raise InputError(
            f"{words} has a field whose value cannot be hashed ({error}); use tuples in place of lists."
        ) from None
    return component


def law_json_gives_the_same_component(component: Any, names: Names) -> None:
    """A component decoded from its JSON equals it."""
    again = decode(encode(component), names)
    require(again == component, f"{component} came back as {again}")


def law_compiles_for_a_tpu(component: Any) -> None:
    """The gradient in bfloat16 compiles for a TPU v5e, by the TPU's own compiler."""
    if importlib.util.find_spec("libtpu") is None:
        raise NotTestedError("not run: install morphax[tpu]")
    layer = layer_of(component)
    if layer is None:
        raise NotTestedError("for layers, and parts of layers, alone")
    devices = find_devices(TOPOLOGY)
    mesh = jax.sharding.Mesh(devices, ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    t = usable_length(layer)[0]

    def abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=replicated)

    def total(params: Tree, x: jax.Array) -> jax.Array:
        ctx = Context(positions=jnp.arange(t)[None], segments=jnp.ones((1, t), jnp.int32))
        return apply_to(layer, x, ctx, params).astype(jnp.float32).sum()

    params = jax.tree.map(abstract, parameters_of(layer))
    with compile_for(devices):
        jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, abstract(jnp.zeros((1, t, WIDTH)))).compile()


def print_costs(checked: Sequence[Any], as_json: bool = False) -> int:
    """Prints the figures of models/README.md for components; returns the exit code."""
    columns = ("parameters", "FLOPs a token", "decoding keeps, bytes", "decoding FLOPs")
    rows = []
    for component in checked:
        if kind_of(component) is Layer:
            cells = measure_layer(component)
        else:
            cells = (f"{count_parameters(parameters(component)):,} at width {WIDTH}", "", "", "")
        rows.append((format_call(component), *cells))
    if as_json:
        print(json.dumps([dict(zip(("component", *columns), row, strict=True)) for row in rows], indent=1))
        return 0
    shown = rich.table.Table(
        "component", *columns, title=f"width {STANDARD_WIDTH}, {LENGTH:,} tokens", box=rich.box.SIMPLE
    )
    for row in rows:
        shown.add_row(*map(rich.text.Text, row))
    rich.console.Console().print(shown)
    return 0


def format_call(component: Any) -> str:
    """Formats the call that makes a component, with the settings that are not defaults."""
    changed = [field for field in fields(component) if getattr(component, field.name) != field.default]
    settings = (f"{field.name}={getattr(component, field.name)!r}" for field in changed)
    return f"{type(component).__name__}({', '.join(settings)})"


REMEDIES = {
    law_json_gives_the_same_component: "let fields be what was given, and of numbers, strings, tuples, components"
    " and named functions",
    law_compiles_for_a_tpu: "use shapes that are known when the program is traced, and operations that a TPU has",
}


class Report:
    """The verdicts of the laws on a component, tested on construction; `words` choose laws by their names."""

    def __init__(self, component: Any, words: Sequence[str] = ()) -> None:
        self.component = component
        names = list_project_parts() | list_components(sys.modules[type(component).__module__])
        laws = [
            *laws_of(component),
            *(
                Law(name_of(law), functools.partial(law, component, *arguments), REMEDIES[law])
                for law, arguments in ((law_json_gives_the_same_component, (names,)), (law_compiles_for_a_tpu, ()))
            ),
        ]
        chosen = [law for law in laws if not words or any(word in law.name for word in words)]
        with compile_quickly():
            self.verdicts = [verdict(law) for law in chosen]

    @property
    def broken(self) -> list[Verdict]:
        """The verdicts of laws that do not hold."""
        return [result for result in self.verdicts if result.verdict == "broken"]

    def __getitem__(self, law: str) -> Verdict:
        """The verdict of a law by its name."""
        return next(result for result in self.verdicts if result.law == law)

    @property
    def title(self) -> str:
        """The name and the kind of the component, and the length of its test rows."""
        kind = kind_of(self.component)
        layer = layer_of(self.component)
        length = ""
        if layer is not None:
            with contextlib.suppress(Exception):
                t, reason = usable_length(layer)
                length = f", rows of {t} tokens" + (f" ({reason})" if reason else "")
        return f"{type(self.component).__name__}, a {'' if kind is None else kind.__name__.lower()}{length}"

    def data(self) -> dict[str, Any]:
        """The component, encoded if it can be and otherwise as a call, and its verdicts, as JSON values."""
        try:
            component = encode(self.component)
        except InputError:
            component = format_call(self.component)
        return {
            "component": component,
            "laws": [result._asdict() for result in self.verdicts],
            "broken": len(self.broken),
        }

    def table(self) -> rich.table.Table:
        """The verdicts as a table."""
        shown = rich.table.Table(
            "law", "verdict", "where", "what to do", title=self.title, title_justify="left", box=rich.box.SIMPLE
        )
        for result in sorted(self.verdicts, key=lambda result: result.verdict != "broken"):
            style = {"broken": "bold red", "not tested": "dim"}.get(result.verdict)
            shown.add_row(*map(rich.text.Text, result[:4]), style=style)
        return shown

    def show(self) -> None:
        """Prints the table and one line of counts."""
        console = rich.console.Console()
        console.print(self.table())
        count = {
            name: sum(result.verdict == name for result in self.verdicts) for name in ("holds", "broken", "not tested")
        }
        console.print(
            f"{count['holds']} laws hold, {count['broken']} broken, {count['not tested']} not tested", highlight=False
        )
