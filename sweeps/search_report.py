"""Report of a search: trials, figures, recipe and scores of the winner for the parent run, and text for a terminal."""

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

from results.reports.figures import svg_of
from results.reports.pages import Image, Section
from results.reports.run_page import REPORT, result_page, run_description, score_sections
from results.reports.tables import number, result_text
from results.tracking.logger import TrackingLogger
from sweeps.search import FOLD_SCORES, MANIFEST, OBJECTIVES, OPTIONS, RUN, Search, recipe_text, write
from sweeps.workers import ERROR

MOST_SHOWN = 20  # trials in the report


def search_figures(study: optuna.Study) -> dict[str, Figure]:
    """Return the figures by name, as far as there are enough finished trials."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    two = len(study.directions) == 2
    figures: dict[str, Figure] = {}
    plt.switch_backend("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # of matplotlib, on a layout that is set below
        if done and two:
            axes = draw.plot_pareto_front(study, target_names=list(OBJECTIVES))
            front = axes.collections[-1]  # visible in black and white, too
            front.set(sizes=[110], edgecolor="black", linewidth=1.5)
            axes.legend()
            figures["pareto_front"] = _figure(axes)
        elif done:
            figures["optimization_history"] = _figure(draw.plot_optimization_history(study, target_name=OBJECTIVES[0]))
        if len({value for trial in done for value in [trial.values[0]]}) > 1 and _varied(done):
            target = (lambda trial: trial.values[0]) if two else None
            figures["param_importances"] = _figure(
                draw.plot_param_importances(study, target=target, target_name=OBJECTIVES[0])
            )
    return figures


def _varied(trials: list[optuna.trial.FrozenTrial]) -> bool:
    """Whether a common parameter of the trials has several values; otherwise there is nothing to rank."""
    common = set.intersection(*(set(trial.params) for trial in trials))
    return len(trials) >= 4 and any(len({str(trial.params[name]) for trial in trials}) > 1 for name in common)


def _figure(axes: Any) -> Figure:  # noqa: ANN401 - one Axes, or an array of them
    figure: Figure = np.ravel(axes)[0].figure
    figure.set_size_inches(8, 5)
    figure.tight_layout()
    plt.close(figure)  # pyplot keeps what is not closed
    return figure


def trial_table(search: Search) -> pd.DataFrame:
    """Return one row per trial: how it ended, its objectives, its run, its options."""
    rows = []
    for trial in search.trials:
        row = {"trial": trial.number, "state": trial.state.name.lower(), "run_id": trial.user_attrs.get(RUN)}
        row |= dict(zip(("f1_macro", "flops"), trial.values or (), strict=False))
        row |= {"error": trial.user_attrs.get(ERROR, ""), "fold_scores": str(trial.user_attrs.get(FOLD_SCORES, ""))}
        row |= {name: str(value) for name, value in trial.user_attrs.get(OPTIONS, {}).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def keep_search(search: Search, study: optuna.Study, recipe: Path) -> None:
    """Log trials, figures, the recipe and the winner's scores to the parent run, and write the recipe's file."""
    parent = TrackingLogger(run_id=search.run_id, system_metrics=False)
    text = recipe_text(search.winner, search.plan.name)
    write(recipe, text)
    parent.log_text(text, "recipe.yaml")
    table = trial_table(search)
    parent.log_table(table, "trials")
    parent.log_text(table.to_csv(index=False), "trials.csv")
    figures = search_figures(study)
    for name, figure in figures.items():
        parent.log_figure(figure, name)
    whole = search.winner.intervals[search.winner.intervals["class"] == ""].set_index("metric")
    parent.log_metrics({f"winner/{name}": float(row["value"]) for name, row in whole.iterrows()})
    parent.log_metrics({"search/f1_macro": float(search.front[0].values[0])})
    parent.set_tags({"winner": search.winner.run_id, "best_trial": search.winner.trial})
    commands = [
        ("Train the winner again, or with other data", f"emotion fit --config {recipe.name}"),
        ("Classify new images with the winner", f"emotion predict {search.winner.run_id[:8]} IMAGES"),
        ("See the trials in Optuna's page", "emotion dashboard"),
    ]
    lead = (
        f"Best of {len(search.trials)} trials, trained on all data of the search and scored once on "
        f"{search.winner.images} other images."
    )
    parent.set_tags({"mlflow.note.content": run_description(search.winner.intervals, None, commands, lead)})
    parent.log_text(_page(search, figures, commands, lead), REPORT)
    parent.finalize("success")


def _page(search: Search, figures: dict[str, Figure], commands: list[tuple[str, str]], lead: str) -> str:
    """Return the report of the search: the scores of the winner, the best trials, and the figures."""
    plan = search.plan
    complete = [trial for trial in search.trials if trial.state == TrialState.COMPLETE]  # a pruned one saw fewer folds
    done = sorted(complete, key=lambda trial: -trial.values[0])[:MOST_SHOWN]
    rows = [
        {
            "trial": str(trial.number),
            **{name: number(value) for name, value in zip(OBJECTIVES, trial.values, strict=False)},
            "options": ", ".join(f"{name} {value}" for name, value in trial.user_attrs.get(OPTIONS, {}).items()),
        }
        for trial in done
    ]
    whole, every = len(complete), len(search.trials)
    about = f"The best {len(done)} of {whole} complete trials ({every} in all); used for selection only."
    sections = [
        *score_sections(search.winner.intervals),
        Section("Trials", table=pd.DataFrame(rows), below=(about,)),
        Section("Figures", images=tuple(Image("", name, svg=svg_of(figure)) for name, figure in figures.items())),
    ]
    tags = {"recipe": str(plan.config.run["recipe"]), "data": plan.data.manifest.name, "folds": str(plan.folds)}
    return result_page(plan.name, tags, sections, commands, [lead])


def search_text(search: Search) -> str:
    """Return the report for a terminal."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(search.counts().items()))
    lines = [f"search {search.plan.name}: {len(search.trials)} trials ({counts})"]
    failed = [trial for trial in search.trials if ERROR in trial.user_attrs]
    lines += [f"  trial {trial.number} failed: {trial.user_attrs[ERROR]}" for trial in failed[:5]]
    if len({trial.user_attrs[MANIFEST] for trial in search.trials if MANIFEST in trial.user_attrs}) > 1:
        lines.append("warning: the trials did not all use the same data, so their scores cannot be compared")
    if len(search.front) > 1:
        lines.append(f"no trial beats these in both {OBJECTIVES[0]} and {OBJECTIVES[1]}:")
        for trial in search.front:
            lines.append(f"  trial {trial.number}: {trial.values[0]:.4f}, {trial.values[1] / 1e6:.1f} M")
    best = search.front[0]
    spread = " ".join(f"{score:.3f}" for score in best.user_attrs.get(FOLD_SCORES, []))
    lines.append(
        f"best: trial {best.number}, {OBJECTIVES[0]} {best.values[0]:.4f} (folds {spread}); used for selection only"
    )
    lines += [f"  {name}: {value}" for name, value in best.user_attrs[OPTIONS].items()]
    lines.append(f"\nwinner, trained on all data of the search and scored once on {search.winner.images} other images:")
    lines.append(result_text(search.winner.intervals))
    if search.earlier:
        lines.append(
            "note: earlier winners of this search were scored on the same images before it was resumed (trial "
            f"{', '.join(map(str, search.earlier))}). No trial used these images, but resuming because of a score, or "
            "choosing between these winners, selects on them"
        )
    return "\n".join(lines)
