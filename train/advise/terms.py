"""Terms that a method is taken on: what it keeps of its training examples, and how its answers are explained."""

import dataclasses
from typing import Protocol, runtime_checkable

from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Terms:
    """Terms of a method: what it keeps of its training examples (`kept`), how its answers are explained (`explained`).

    It is `private` if it keeps no example and nothing that is read off single ones, which is no bound on what its
    weights tell: only (epsilon, delta)-differential privacy has one.  `explains` is False if nothing gives an account
    of an answer.
    """

    kept: str
    explained: str
    private: bool = True
    explains: bool = True


@dataclasses.dataclass(frozen=True)
class Limits:
    """Methods that are not tried: those that are not private, for `epsilon`, and those that do not explain answers."""

    epsilon: float | None = None
    must_explain: bool = False

    def refuse(self, terms: Terms) -> str | None:
        """The reason why a method is not tried, None if it is."""
        if self.epsilon is not None and not terms.private:
            return f"not private: it keeps {terms.kept}"
        if self.must_explain and not terms.explains:
            return f"not explained: {terms.explained}"
        return None


@runtime_checkable
class Rule(Protocol):
    """An estimator that answers by a `formula` and learns nothing."""

    @property
    def formula(self) -> str: ...


NOTHING = Terms("nothing: it learns nothing", "its formula")
MODEL = Terms("weights, with no bound on what they tell", "morphax explain", private=False)
FEATURES = Terms("weights alone, with no bound on what they tell", "its features have no names", explains=False)
GRAMS = Terms("counts of runs of tokens in the examples", "counts of what followed the same tokens", private=False)
COUNTS = Terms("how often each token is in all examples", "counts of tokens")
NEAREST = Terms("the examples", "the nearest examples", private=False)
TREES = Terms("thresholds and leaves of few examples", "importances of columns by permutation", private=False)
WORDS = Terms("a vocabulary with words of single examples", "a weight for each word", private=False)
CONSTANT = Terms("one number or class of all examples", "one answer for all")
LINEAR = Terms("weights alone, with no bound on what they tell", "a weight for each input")
KNOWN = {
    KNeighborsClassifier: NEAREST,
    KNeighborsRegressor: NEAREST,
    HistGradientBoostingClassifier: TREES,
    HistGradientBoostingRegressor: TREES,
    DummyClassifier: CONSTANT,
    DummyRegressor: CONSTANT,
    TfidfVectorizer: WORDS,
}


def find_terms(estimator: BaseEstimator) -> Terms:
    """Finds the terms of an estimator by its last step, or by its first if that keeps words of the examples."""
    if isinstance(estimator, Rule):
        return NOTHING
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    known = [KNOWN[type(step)] for step in reversed(steps) if type(step) in KNOWN]
    return known[0] if known else LINEAR


def protect(epsilon: float, delta: float) -> Terms:
    """The terms of a model that is trained with differential privacy."""
    return dataclasses.replace(MODEL, kept=f"weights, ({epsilon:g}, {delta:g})-differentially private", private=True)
