"""The recommended model on a device that is not there: memory and time of its steps, by the compiler."""

from train.advise.advice import Advice
from train.advise.models import list_candidates
from train.config import load_config
from train.plan.step import plan_step
from train.report.console import format_duration


def describe_plan(advice: Advice, topology: str) -> str:
    """Describes memory and least time of the best model's training on a topology, in a sentence.

    Raises InputError if the compiler of that device is not installed.
    """
    problem = advice.problem
    models = {candidate.name: candidate for candidate in list_candidates(problem)}
    tried = [candidate for candidate in advice.methods if candidate.name in models]
    if not tried:
        return f"No model was tried, so that none is planned for {topology}."
    method = advice.chosen if advice.chosen.name in models else tried[0]
    overrides = [*problem.overrides, *models[method.name].overrides, f"steps={method.steps}", "precision=bfloat16"]
    plan = plan_step(load_config(problem.config, overrides)[0], method.name, topology)
    if not plan.fits:
        return f"{method.name} does not fit {topology}."
    memory = (plan.arguments + plan.temporaries) / 2**20
    time = format_duration(plan.seconds * method.steps)
    each = f"{plan.seconds * 1e3:.2g} ms a step"
    return (
        f"On {topology}, in bfloat16, {method.name} takes {memory:,.0f} MiB and at least {each}: {time} for its"
        f" {method.steps} steps, by the compiler."
    )
