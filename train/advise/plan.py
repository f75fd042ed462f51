"""The recommended model on a device that is not there: memory, time and price of its steps, by the compiler."""

import math

from train.advise.advice import Advice, find_best
from train.advise.models import list_candidates, list_overrides
from train.config import load_config
from train.cost.chips import PRICES
from train.plan.step import plan_step
from train.report.console import format_duration


def describe_plan(advice: Advice, topology: str, price: float | None = None) -> str:
    """Describes memory, least time and price of the best model's training on a topology, in a sentence.

    `price` is in dollars an hour of a chip, by default the public one of its kind.  Raises InputError if the compiler
    of that device is not installed.
    """
    problem = advice.problem
    models = {candidate.name: candidate for candidate in list_candidates(problem)}
    tried = [candidate for candidate in advice.methods if candidate.name in models]
    method = advice.chosen if advice.chosen in tried else find_best(advice, tried)
    if method is None:
        return f"No model was tried, so that none is planned for {topology}; simple methods run on its host."
    overrides = [*list_overrides(problem, models[method.name]), f"steps={method.steps}", "precision=bfloat16"]
    plan = plan_step(load_config(problem.config, overrides)[0], method.name, topology)
    if not plan.fits:
        return f"{method.name} does not fit {topology}: it takes {plan.peak / 2**30:.2f} GiB, of which it has" + (
            f" {plan.available / 2**30:.2f}."
        )
    memory, seconds = (plan.arguments + plan.temporaries) / 2**20, plan.seconds * method.steps
    each = plan.seconds / max(1, plan.rows)
    spent = format_duration(seconds) if seconds >= 1 else f"{seconds:.2g} s"
    said = (
        f"On {topology}, in bfloat16, {method.name} takes {memory:,.0f} MiB and at least {plan.seconds * 1e3:.2g} ms a"
        f" step: {spent} for its {method.steps} steps, by the compiler; an answer takes no longer"
        f" than a row of a step, {each * 1e3:.2g} ms."
    )
    hourly = PRICES.get(topology.partition(":")[0]) if price is None else price
    if hourly is None:
        return f"{said} The price of the chip is not known here; give --price."
    chips = math.prod(map(int, topology.partition(":")[2].split("x")))
    cost = chips * hourly / 3600
    listed = " (a list price of 2025; --price gives today's)" if price is None else ""
    return (
        f"{said} At {hourly:g} dollars an hour of a chip{listed} that is {format_dollars(cost * seconds)} of training,"
        f" and {format_dollars(cost * each * 1e6)} for a million answers."
    )


def format_dollars(amount: float) -> str:
    """Formats an amount with cents, or with two digits if it is below one."""
    return f"{amount:,.2f} dollars" if amount >= 1 else f"{amount:.2g} dollars"
