"""How much each parameter of a search decides about its outcome."""

import warnings
from collections.abc import Sequence
from typing import Any

from tune.space import Choice, Parameter, Range, Setting

LEAST_FOR_IMPORTANCE = 8
"""Trials."""


def importance_of(points: Sequence[tuple[Setting, float]], parameters: Sequence[Parameter]) -> dict[str, float]:
    """How much each parameter decides about being among the best, by PED-ANOVA (Watanabe et al., IJCAI 2023) as Optuna computes it; they
    add up to 1. Empty where there are too few trials, or one parameter."""
    import optuna

    if len(points) < LEAST_FOR_IMPORTANCE or len(parameters) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    distributions = {one.name: distribution_of(one.range) for one in parameters}
    for setting, score in points:
        used = {name: distributions[name] for name in setting}
        study.add_trial(optuna.trial.create_trial(params=dict(setting), distributions=used, value=score))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is new
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}


def distribution_of(of: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(of, Choice):
        return CategoricalDistribution(of.values)
    return IntDistribution(int(of.low), int(of.high), log=of.log) if of.whole else FloatDistribution(of.low, of.high, log=of.log)
