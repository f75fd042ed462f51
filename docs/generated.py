"""Parts of pages that are written from the source: tables of classes, contracts, and docstrings as reStructuredText.

A fenced block is replaced by what it names while a page is read:

    {contract} Norm     the source of a contract
    {laws} RMSNorm      the laws for a class of models/, and what to do if one is broken
    {classes} Norm      the classes that conform to it, and the laws of those of models/
    {api} Norm          these classes with their docstrings, fields and methods
    {names} models      everything that a module exports, with its docstring
    {catalogue}         models/README.md
    {studies}           studies of configs/: their docstrings, and figures of the trials in _static/studies/
"""

import csv
import dataclasses
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
BLOCK = re.compile(r"^```\{(contract|classes|laws|api|names|catalogue|studies)\}[ ]?([\w.]*)\n```$", re.MULTILINE)
FILE = re.compile(r"^```([a-z]+) ([\w./-]+)$", re.MULTILINE)  # a block that is a file: the name is its caption
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def expand(text: str) -> str:
    """A page with its generated parts, and with the names of files above their blocks."""
    text = BLOCK.sub(lambda match: WRITERS[match[1]](match[2]), text)
    return FILE.sub(r"```{code-block} \1\n:caption: \2", text)


def catalogue(name: str = "") -> str:
    """models/README.md without its title, or a kind's section without its heading; links lead to the repository."""
    text = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(([\w/]+\.py)\)", rf"]({REPOSITORY}/blob/main/models/\1)", text)
    if not name:
        return text.partition("\n")[2]
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        raise LookupError(f"models/README.md has no section {name}.")
    return section[1].strip().partition("\n")[2].strip()  # the first line is that of the contract


def contracts() -> dict[str, type]:
    """The contracts of models and of experiments, by name."""
    from models.contracts import KINDS
    from train import contracts, events, findings

    modules = contracts, events, findings
    classes = [value for module in modules for value in vars(module).values() if inspect.isclass(value)]
    found = dict.fromkeys(value for value in classes if value.__module__ in {module.__name__ for module in modules})
    return {kind.__name__: kind for kind in (*found, *KINDS)}


def contract(name: str) -> str:
    """The source of a contract."""
    return f"```{{code-block}} python\n{inspect.getsource(contracts()[name]).rstrip()}\n```"


def conforming(name: str) -> list[type]:
    """Classes of the project that conform to a contract, by name."""
    from models.contracts import KINDS, conforms
    from train.spec.parts import list_project_parts

    kind = contracts()[name]
    classes = [value for value in list_project_parts().values() if isinstance(value, type)]
    ours = {part.__name__: part for part in classes if conforms(part, kind) and (kind in KINDS or not _layer(part))}
    return [ours[part] for part in sorted(ours, key=str.lower)]


def _layer(part: type) -> bool:
    return part.__module__.startswith("models.")


def classes(name: str) -> str:
    """A table of the classes of a contract; for one of models/ the section of the catalogue, with laws."""
    from models.contracts import KINDS

    if name in {kind.__name__ for kind in KINDS}:
        return catalogue(name)
    rows = [f"| [`{part.__name__}`]({source(part)}) | {summary(part)} |" for part in conforming(name)]
    return "\n".join(["| class | what it is |", "| --- | --- |", *rows])


def laws(name: str) -> str:
    """A table of the laws for a component by its defaults, and what to do if one is broken."""
    import models
    from models.laws.applying import laws_of

    rows = [f"| {law.name} | {law.remedy} |" for law in laws_of(getattr(models, name)())]
    return "\n".join(["| law | what to do |", "| --- | --- |", *rows])


def summary(part: Any) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    text = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    return re.split(r"(?<!\.)\.(?:\s+(?=[A-Z(`])|$)", text, maxsplit=1)[0].replace("|", "\\|")


def source(part: Any) -> str:
    """The address of a class or a function in the repository."""
    return f"{REPOSITORY}/blob/main/{part.__module__.replace('.', '/')}.py"


def api(name: str) -> str:
    """Classes of a contract with docstrings and fields."""
    return _documented((f"{part.__module__}.{part.__qualname__}", part) for part in conforming(name))


def names(module: str) -> str:
    """Names that a module exports, or defines if it has no `__all__`, with docstrings."""
    owner = importlib.import_module(module)
    own = {name: value for name, value in vars(owner).items() if getattr(value, "__module__", "") == module}
    public = [name for name, value in own.items() if name[0] != "_" and callable(value)]
    known = getattr(owner, "__all__", None) or public
    values = ((name, getattr(owner, name)) for name in sorted(known, key=str.lower))
    return _documented((f"{module}.{name}", value) for name, value in values if not inspect.ismodule(value))


def _documented(parts: Iterator[tuple[str, Any]]) -> str:
    lines: list[str] = []
    for path, value in parts:
        if inspect.isclass(value):
            lines += [f".. autoclass:: {path}", "   :no-index:", *_members(value), ""]
        elif callable(value):
            lines += [f".. autofunction:: {path}", "   :no-index:", ""]
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```"


def _members(owner: type) -> list[str]:
    """The option that lists the methods of a class with a docstring; components of models/ show their fields alone."""
    public = {name: value for name, value in vars(owner).items() if name[0] != "_" and inspect.isfunction(value)}
    own = [name for name, value in public.items() if value.__doc__]
    return [f"   :members: {', '.join(own)}"] if own and not _layer(owner) else []


def studies(name: str = "") -> str:
    """Sections of the studies and searches of configs/: docstrings, and figures if the trials are kept here."""
    from train.config import list_searches, list_studies

    return "\n\n".join(map(study, sorted([*list_studies(), *list_searches()])))


def study(name: str) -> str:
    """The section of a study; commands and indented notes of its docstring are blocks of code."""
    module = importlib.import_module(f"configs.{name}")
    title, *paragraphs = re.split(r"\n\s*\n", inspect.getdoc(module) or name)
    lines = [f"## {name}", " ".join(title.split())]
    lines += [f"```text\n{text}\n```" if text.startswith("morphax ") else text for text in paragraphs]
    return "\n\n".join([*lines, f"[`configs/{name}.py`]({REPOSITORY}/blob/main/configs/{name}.py)", *figures(name)])


def figures(name: str) -> Iterator[str]:
    """Figures of the trials in _static/studies/NAME.csv: of runs of several sizes the laws of their losses, otherwise
    differences from the baseline by seed, a figure a variant.
    """
    from train.page import add_caption
    from train.report.style import DARK, format_properties

    path = ROOT / "docs" / "_static" / "studies" / f"{name}.csv"
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    draw = _draw_laws if "flops" in rows[0] else _draw_sequences
    dark = format_properties(DARK)
    themes = f'body[data-theme="dark"] .morphax {{ {dark} }} @media (prefers-color-scheme: dark) {{'
    themes += f' body:not([data-theme="light"]) .morphax {{ {dark} }} }}'
    caption, shown = draw(name, rows)
    shown = add_caption(f"{name}: {caption}", shown)
    yield f'```{{raw}} html\n<div class="morphax"><style>{themes}</style>{shown}</div>\n```'


def _draw_sequences(name: str, rows: list[dict[str, str]]) -> tuple[str, Any]:
    from train.page import Panels
    from train.study.figures import draw_sequence
    from train.variants import BASELINE

    losses: dict[str, dict[str, float]] = {}
    for row in rows:
        losses.setdefault(row["variant"], {})[row["seed"]] = float(row["loss"])
    base = losses.pop(BASELINE)
    module = importlib.import_module(f"configs.{name}")
    settings = module.study() if hasattr(module, "study") else module.search()
    plots = []
    for variant, by_seed in losses.items():
        differences = [by_seed[seed] - base[seed] for seed in by_seed]
        mean = sum(base.values()) / len(base)
        plot = draw_sequence(differences, mean, settings.alpha / len(losses), settings.smallest)
        if plot is not None:
            plots.append(dataclasses.replace(plot, title=variant))
    return "difference from the baseline's loss by seed, with its confidence sequence", Panels(tuple(plots))


def _draw_laws(name: str, rows: list[dict[str, str]]) -> tuple[str, Any]:
    from train.study.ladder import Run, find_trends
    from train.study.ladder_page import draw_laws

    runs: dict[str, list[Run]] = {}
    for row in rows:
        run = Run(float(row["flops"]), int(row["parameters"]), int(row["tokens"]), float(row["loss"]))
        runs.setdefault(row["variant"], []).append(run)
    return "loss over training FLOPs, runs as points, laws with their 95 % intervals", draw_laws(
        runs, find_trends(runs)
    )


WRITERS: dict[str, Callable[[str], str]] = {
    "contract": contract,
    "classes": classes,
    "laws": laws,
    "api": api,
    "names": names,
    "catalogue": catalogue,
    "studies": studies,
}


def restructured(docstring: list[str]) -> list[str]:
    """A docstring of this project, plain text with `code`, as reStructuredText.

    Paragraphs that are indented are literal; in a paragraph whose lines begin with `name: ` each name is an item.
    """
    text = inspect.cleandoc("\n".join(docstring))
    return [line for paragraph in re.split(r"\n\s*\n", text) for line in (*_paragraph(paragraph.split("\n")), "")]


def _paragraph(lines: list[str]) -> list[str]:
    if lines[0].startswith("    "):
        return ["::", "", *lines]
    item = re.compile(r"([a-z_]\w*(?:\([\w, ]*\))?(?:, [a-z_]\w*(?:\([\w, ]*\))?)*)(?: \(([^)]*)\))?: (?=\S)")
    if not item.match(lines[0]):
        return [*map(_escaped, lines)]
    done: list[str] = []
    for line in lines:
        match = item.match(line)
        done.append(f"* ``{match[1]}``: {_escaped(line[match.end() :])}" if match else f"  {_escaped(line.strip())}")
    return done


def _escaped(line: str) -> str:
    pieces = re.split(r"(`[^`]+`)", line)
    return "".join(f"`{piece}`" if piece[0] == "`" else _plain(piece) for piece in pieces if piece)


def _plain(text: str) -> str:
    text = re.sub(r"([\\*|_`])", r"\\\1", text)
    return PAPER.sub(r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", text)


def setup(app: Any) -> dict[str, bool]:
    """Connects the functions above to Sphinx."""

    def read(app: Any, page: str, content: list[str]) -> None:
        content[0] = expand(content[0])

    def document(app: Any, what: str, name: str, owner: Any, options: Any, lines: list[str]) -> None:
        lines[:] = restructured(lines)

    def sign(app: Any, what: str, name: str, owner: Any, options: Any, signature: Any, returned: Any) -> Any:
        if what == "class" and getattr(owner, "_is_protocol", False):
            return "", None
        if what != "class" or not dataclasses.is_dataclass(owner):
            return signature, returned
        fields = [field for field in dataclasses.fields(owner) if field.init and field.name not in ("parent", "name")]
        return f"({', '.join(map(_field, fields))})", None

    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", document)
    app.connect("autodoc-process-signature", sign)
    return {"parallel_read_safe": True}


def _field(field: Any) -> str:
    missing = dataclasses.MISSING
    if field.default is missing and field.default_factory is missing:
        return field.name
    default = field.default if field.default is not missing else field.default_factory()
    text = getattr(default, "__name__", None) or re.sub(r"\s+", " ", _written(default))
    return f"{field.name}={text if len(text) <= 40 else '...'}"


def _written(value: Any) -> str:
    """A default as it is called in a config: a component without its defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}(...)" if _changed(value) else f"{type(value).__name__}()"
    return repr(value)


def _changed(value: Any) -> bool:
    try:
        return value != type(value)()
    except TypeError:
        return True
