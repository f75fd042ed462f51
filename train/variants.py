"""Studies and searches as values: a baseline, variants of it, and how they are compared or found."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from models.words import join
from train.errors import Json

Budget = Literal["flops", "parameters", "state", "time", "none"]
BASELINE = "baseline"
FIRST = 3  # seeds before the first look
ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison: the baseline, its variants, and how they are compared.

    `variants` are overrides by name. `grid` are settings that are tried for the baseline and each variant alike, each
    an override, on `tuning_seeds` seeds and the tuning part of the held-out data; the one of the least mean loss is
    kept. `seeds` is the number of paired seeds, or None to go on until each variant is decided, at most `most`.
    `smallest` is the smallest difference of interest, as a share of the baseline's loss. `free` are the fields that
    `budget` may change (see `train.study.match`); `minutes` ends the study after the round in which they are over.
    `files` are Python files whose components overrides may name.  `scales` are more overrides by the name of a larger
    study of the same kind, such as "colab".  `sizes` are those of a ladder, multiples of width and depth.
    """

    config: str
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    budget: Budget = "flops"
    free: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    tuning_seeds: int = 1
    seeds: int | None = None
    most: int = 20
    alpha: float = ALPHA
    smallest: float = 0.005
    minutes: float | None = None
    files: tuple[str, ...] = ()
    scales: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sizes: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if BASELINE in self.variants:
            raise ValueError(f"A variant is called {BASELINE}; give it another name.")
        if (self.seeds is not None and self.seeds < 2) or self.most < FIRST or self.tuning_seeds < 1:
            raise ValueError(
                f"A study has {self.seeds} seeds, at most {self.most}, and {self.tuning_seeds} for tuning; give 2 seeds"
                f" or more, at most {FIRST} or more, and 1 or more for tuning."
            )
        if not 0 < self.alpha < 0.5 or not 0 <= self.smallest < 1:
            raise ValueError(
                f"A study has alpha {self.alpha} and smallest {self.smallest}; give an alpha between 0 and 0.5, and a"
                " share from 0 to 1."
            )

    def enlarge(self, scale: str) -> "Study":
        """Adds the overrides of a scale.  Raises ValueError if the study has none of this name."""
        if scale not in self.scales:
            known = join(self.scales) if self.scales else "none"
            raise ValueError(f"The study has no scale {scale!r}; it has {known}.")
        return dataclasses.replace(self, overrides=(*self.overrides, *self.scales[scale]))

    def record(self) -> dict[str, Json]:
        """Settings that may not change when a study is continued, as JSON values."""
        return {
            "config": self.config,
            "overrides": list(self.overrides),
            "variants": {name: list(settings) for name, settings in self.variants.items()},
            "budget": self.budget,
            "free": list(self.free),
            "grid": list(self.grid),
            "tuning_seeds": self.tuning_seeds,
            "alpha": self.alpha,
            **({"files": list(self.files)} if self.files else {}),
        }


@dataclasses.dataclass(frozen=True)
class Search:
    """An architecture search: edits of the baseline's structure, and how those that are kept are confirmed.

    Edits are of what is at the paths `at` and below, by default of every block.  Each generation has `population`
    candidates, `candidates` in all.  `rungs` are shares of the config's steps: all candidates of a generation are
    trained for the first, and the share `keep` of them for each next one, whose loss is lowest; `probe` names a task
    on which they are trained for `probe_steps` before.  Trials of the search have `seeds` seeds, and the tuning part of
    the held-out data.  `crossover` is the share of candidates that are drawn from two parents, and `seed` decides the
    draws.  The best `winners` are compared with the baseline on fresh seeds and the other part: `most`, `alpha` and
    `smallest` are those of `Study`, as are `budget`, `free` and `files`.  `minutes` ends the search after 60 % of them.
    """

    config: str
    overrides: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    candidates: int = 24
    population: int = 8
    rungs: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)
    keep: float = 1 / 3
    probe: str | None = None
    probe_steps: int = 400
    seeds: int = 1
    crossover: float = 0.25
    seed: int = 0
    winners: int = 2
    budget: Budget = "flops"
    free: tuple[str, ...] = ()
    most: int = 20
    alpha: float = ALPHA
    smallest: float = 0.005
    minutes: float | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = (self.candidates, self.population, self.probe_steps, self.seeds, self.winners)
        if min(counts) < 1:
            raise ValueError(
                f"A search has {self.candidates} candidates, {self.population} in a generation, {self.probe_steps}"
                f" steps of a probe, {self.seeds} seeds and {self.winners} winners; give 1 or more of each."
            )
        rising = all(low < high for low, high in zip(self.rungs, self.rungs[1:], strict=False))
        if not self.rungs or not rising or self.rungs[0] <= 0 or self.rungs[-1] != 1:
            raise ValueError(
                f"The rungs of a search are {self.rungs}; give rising shares of the steps that end in 1, such as"
                " 1/9,1/3,1."
            )
        if not 0 < self.keep <= 1 or not 0 <= self.crossover <= 1 or not 0 <= self.seed < 2**32:
            raise ValueError(
                f"A search keeps {self.keep}, crosses {self.crossover} and has seed {self.seed}; give a share above 0"
                f" up to 1, a share from 0 to 1, and a whole number from 0 to {2**32 - 1}."
            )
        _ = self.study  # whose settings are checked too

    @property
    def study(self) -> Study:
        """The study of the baseline, to which the winners become variants."""
        return Study(
            self.config,
            self.overrides,
            budget=self.budget,
            free=self.free,
            most=self.most,
            alpha=self.alpha,
            smallest=self.smallest,
            files=self.files,
        )

    def record(self) -> dict[str, Json]:
        """Settings that may not change when a search is continued, as JSON values."""
        fields = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if name not in ("minutes", "most", "smallest")
        }
