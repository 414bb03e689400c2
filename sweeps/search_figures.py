"""Optuna's own figures of a search: what mattered, how it went, and the front of two objectives."""

import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from optuna.visualization import matplotlib as draw

from sweeps.search_trial import OBJECTIVES


def search_figures(study: optuna.Study) -> dict[str, Figure]:
    """Return the figures that the study's finished trials are enough for, by name."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    two = len(study.directions) == 2
    found: dict[str, Figure] = {}
    plt.switch_backend("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # of matplotlib, on a layout that is set below
        if done and two:
            axes = draw.plot_pareto_front(study, target_names=list(OBJECTIVES))
            front = axes.collections[-1]  # told from the others in black and white, too
            front.set(sizes=[110], edgecolor="black", linewidth=1.5)
            axes.legend()
            found["pareto_front"] = _figure(axes)
        elif done:
            found["optimization_history"] = _figure(draw.plot_optimization_history(study, target_name=OBJECTIVES[0]))
        if len({value for trial in done for value in [trial.values[0]]}) > 1 and _varied(done):
            target = (lambda trial: trial.values[0]) if two else None
            found["param_importances"] = _figure(
                draw.plot_param_importances(study, target=target, target_name=OBJECTIVES[0])
            )
    return found


def _varied(trials: list[optuna.trial.FrozenTrial]) -> bool:
    """Whether a parameter that all trials have took two values; without one there is nothing to rank."""
    common = set.intersection(*(set(trial.params) for trial in trials))
    return len(trials) >= 4 and any(len({str(trial.params[name]) for trial in trials}) > 1 for name in common)


def _figure(axes: Any) -> Figure:  # noqa: ANN401 - one Axes, or an array of them
    figure: Figure = np.ravel(axes)[0].figure
    figure.set_size_inches(8, 5)
    figure.tight_layout()
    plt.close(figure)  # pyplot keeps what is not closed
    return figure
