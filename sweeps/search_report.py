"""What a search leaves with its parent run, and what it prints."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from optuna.visualization import matplotlib as draw

from results.reports.tables import result_text
from results.tracking.logger import TrackingLogger
from sweeps.search import FOLD_SCORES, MANIFEST, OBJECTIVES, OPTIONS, RUN, Search, recipe_text, write
from sweeps.workers import ERROR


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


def trial_table(found: Search) -> pd.DataFrame:
    """Return one row a trial: how it ended, its objectives, its run, its options."""
    rows = []
    for trial in found.trials:
        row = {"trial": trial.number, "state": trial.state.name.lower(), "run_id": trial.user_attrs.get(RUN)}
        row |= dict(zip(("f1_macro", "flops"), trial.values or (), strict=False))
        row |= {"error": trial.user_attrs.get(ERROR, ""), "fold_scores": str(trial.user_attrs.get(FOLD_SCORES, ""))}
        row |= {name: str(value) for name, value in trial.user_attrs.get(OPTIONS, {}).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def keep_search(found: Search, study: optuna.Study, recipe: Path) -> None:
    """Keep trials, figures, the recipe and the winner's scores with the parent run, and write the recipe's file."""
    parent = TrackingLogger(run_id=found.run_id, system_metrics=False)
    text = recipe_text(found.winner, found.plan.name)
    write(recipe, text)
    parent.log_text(text, "recipe.yaml")
    table = trial_table(found)
    parent.log_table(table, "trials")
    parent.log_text(table.to_csv(index=False), "trials.csv")
    for name, figure in search_figures(study).items():
        parent.log_figure(figure, name)
    whole = found.winner.intervals[found.winner.intervals["class"] == ""].set_index("metric")
    parent.log_metrics({f"winner/{name}": float(row["value"]) for name, row in whole.iterrows()})
    parent.log_metrics({"search/f1_macro": float(found.front[0].values[0])})
    parent.set_tags({"winner": found.winner.run_id, "best_trial": found.winner.trial})
    parent.finalize("success")


def search_text(found: Search) -> str:
    """Return what is printed."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(found.counts().items()))
    lines = [f"search {found.plan.name}: {len(found.trials)} trials ({counts})"]
    failed = [trial for trial in found.trials if ERROR in trial.user_attrs]
    lines += [f"  trial {trial.number} failed: {trial.user_attrs[ERROR]}" for trial in failed[:5]]
    if len({trial.user_attrs[MANIFEST] for trial in found.trials if MANIFEST in trial.user_attrs}) > 1:
        lines.append("warning: the trials did not all see the same data, so their scores cannot be compared")
    if len(found.front) > 1:
        lines.append(f"no trial beats these in both {OBJECTIVES[0]} and {OBJECTIVES[1]}:")
        lines += [f"  trial {one.number}: {one.values[0]:.4f}, {one.values[1] / 1e6:.1f} M" for one in found.front]
    best = found.front[0]
    spread = " ".join(f"{score:.3f}" for score in best.user_attrs.get(FOLD_SCORES, []))
    lines.append(
        f"best: trial {best.number}, {OBJECTIVES[0]} {best.values[0]:.4f} (folds {spread}), selected, not reported"
    )
    lines += [f"  {name}: {value}" for name, value in best.user_attrs[OPTIONS].items()]
    lines.append(
        f"\nwinner, trained on all the search saw and scored once on {found.winner.images} images it did not see:"
    )
    lines.append(result_text(found.winner.intervals))
    if found.earlier:
        lines.append(
            f"note: the same images scored {len(found.earlier)} earlier winner{'s' * (len(found.earlier) > 1)} of this "
            f"search (trial {', '.join(map(str, found.earlier))}) before it went on. No trial saw them, but whoever "
            "goes on because of a score, or picks among these, selects on them"
        )
    return "\n".join(lines)
