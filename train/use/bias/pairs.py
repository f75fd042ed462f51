"""Pairs of texts that differ in a term: made by substitution, or read from files shaped as StereoSet or WinoBias."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from models.words import join
from train.data.sources import read
from train.data.sources.text_files import read_lines, read_text
from train.errors import InputError

SHIPPED = Path(__file__).with_name("terms.csv")
WAYS = ("both", "forward")
NUMBERED = re.compile(r"\d+\s+")


@dataclasses.dataclass(frozen=True)
class Term:
    """A substitution of `first` by `second`, and of `second` by `first` too if `both`; `kind` names its group."""

    kind: str
    first: str
    second: str
    both: bool = True


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts that differ in a term; `origin` numbers the example that they are made of.

    `unrelated` is a text that says something else, if there is one (StereoSet).
    """

    kind: str
    first: str
    second: str
    origin: int
    unrelated: str = ""


def read_terms(path: str | None) -> list[Term]:
    """Reads terms from a table with the columns `kind`, `first`, `second`, and perhaps `way` (both or forward).

    None is the shipped table: pronouns and nouns of gender as in the Word Embedding Association Test (Caliskan et al.,
    arXiv:1608.07187), the names of Bertrand and Mullainathan, American Economic Review 94(4), 2004, and nationalities.
    A text with `second` of a term that goes forward alone is not changed, such as "her", which may be "him" or "his".
    Raises InputError for a table without these columns, or with an empty or repeated term.
    """
    split = read(str(SHIPPED) if path is None else path)
    rows = [split.examples[index] for index in range(len(split.examples))]
    for column in ("kind", "first", "second"):
        if column not in rows[0]:
            raise InputError(
                f"{split.origin} has no column {column!r}; it has {join(rows[0])}: a table of terms has kind, first and"
                " second."
            )
    terms: list[Term] = []
    for index, row in enumerate(rows):
        kind, first, second = (str(row.get(column) or "").strip() for column in ("kind", "first", "second"))
        way = str(row.get("way") or "both").strip()
        if not kind or not first or not second or first == second or way not in WAYS:
            raise InputError(
                f"{split.where(index)}, has kind {kind!r}, first {first!r}, second {second!r} and way {way!r}; give"
                " three texts, the last two unlike, and both or forward."
            )
        terms.append(Term(kind, first, second, way == "both"))
    for kind in {term.kind for term in terms}:
        firsts = [term.first for term in terms if term.kind == kind]
        seconds = [term.second for term in terms if term.kind == kind and term.both]
        twice = [name for names in (firsts, seconds) for name in names if names.count(name) > 1]
        if twice or (twice := sorted({*firsts} & {*seconds})):
            raise InputError(
                f"{split.origin} has {twice[0]!r} of the kind {kind!r} twice; give one of them another kind, or the way"
                " forward."
            )
    return terms


def swap_terms(texts: Sequence[str], terms: Sequence[Term]) -> Iterator[Pair]:
    """Makes a pair of each text and kind that it has terms of: all of them are substituted.

    A text with terms of both sides of a kind is left out, since no side is its own.  Terms in lower case are found at
    the beginning of sentences and in capitals too.
    """
    kinds: dict[str, list[Term]] = {}
    for term in terms:
        kinds.setdefault(term.kind, []).append(term)
    for kind, several in kinds.items():
        there = {term.first: term.second for term in several}
        back = {term.second: term.first for term in several if term.both}
        first, second = _compile(there), _compile([term.second for term in several])
        for origin, text in enumerate(texts):
            ahead, behind = bool(first.search(text)), bool(second.search(text))
            if ahead and not behind:
                yield Pair(kind, text, _substitute(text, first, there), origin)
            elif behind and not ahead:
                originals = {_find(match.group(), back) for match in second.finditer(text)}
                if None not in originals:
                    yield Pair(kind, _substitute(text, second, back), text, origin)


def _compile(names: Sequence[str] | Mapping[str, str]) -> re.Pattern[str]:
    forms = {form for name in names for form in ({name, name.capitalize(), name.upper()} if name.islower() else {name})}
    return re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(form) for form in sorted(forms, key=len, reverse=True))})(?!\w)")


def _find(word: str, known: Mapping[str, str]) -> str | None:
    return known.get(word) or known.get(word.lower())


def _substitute(text: str, pattern: re.Pattern[str], known: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        word = match.group()
        new = _find(word, known) or word
        if word in known:
            return new
        return new.upper() if word.isupper() and len(word) > 1 else new[:1].upper() + new[1:]

    return pattern.sub(replace, text)


def read_pairs(paths: Sequence[str]) -> list[Pair]:
    """Reads pairs of texts: of one JSON file shaped as StereoSet, or of two files of lines shaped as WinoBias.

    StereoSet (arXiv:2004.09456) has `data` with the lists `intrasentence` and `intersentence` of clusters: `bias_type`,
    `context`, and `sentences` with `sentence` and `gold_label`; a pair is the anti-stereotype and the stereotype, after
    the context if that is another sentence.  WinoBias (arXiv:1804.06876) has numbered lines with the entity and the
    pronoun in brackets; give the file of anti-stereotypes first, then that of stereotypes.  Raises InputError for
    another shape.
    """
    if len(paths) == 1:
        return list(_read_stereoset(paths[0]))
    if len(paths) != 2:
        raise InputError(f"--pairs has {len(paths)} files; give one shaped as StereoSet or two shaped as WinoBias.")
    anti, pro = (read_lines(path) for path in paths)
    if len(anti) != len(pro):
        raise InputError(
            f"{paths[0]} has {len(anti)} lines and {paths[1]} has {len(pro)}; give files whose lines are pairs."
        )
    pairs = [
        Pair("WinoBias", _strip_marks(first), _strip_marks(second), origin)
        for origin, (first, second) in enumerate(zip(anti, pro, strict=True))
        if first and second
    ]
    return [pair for pair in pairs if pair.first != pair.second]


def _strip_marks(line: str) -> str:
    """The sentence of a line of WinoBias, without its number and brackets."""
    match = NUMBERED.match(line)
    return line[match.end() if match else 0 :].replace("[", "").replace("]", "")


def _read_stereoset(path: str) -> Iterator[Pair]:
    said = f"{path} is not shaped as StereoSet: it needs data with intrasentence or intersentence"
    try:
        data = json.loads(read_text(path))["data"]
        clusters = [(name, cluster) for name in ("intrasentence", "intersentence") for cluster in data.get(name, [])]
        for origin, (name, cluster) in enumerate(clusters):
            texts = {each["gold_label"]: str(each["sentence"]).strip() for each in cluster["sentences"]}
            before = f"{str(cluster['context']).strip()} " if name == "intersentence" else ""
            first, second = (before + texts[label] for label in ("anti-stereotype", "stereotype"))
            unrelated = before + texts["unrelated"] if "unrelated" in texts else ""
            yield Pair(str(cluster["bias_type"]), first, second, origin, unrelated)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{said} ({type(error).__name__}: {error}); give such a file, or two of WinoBias.") from None
    if not clusters:
        raise InputError(f"{said}; it has neither.")
