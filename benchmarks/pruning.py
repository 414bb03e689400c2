"""How many images a search trains on, against every cell of its grid, and whether it finds as good a model."""

from pathlib import Path

import yaml

from benchmarks.commands import run, small
from benchmarks.report import Figure, say

SHARE, FOUND = "hyperband_image_passes", "hyperband_interval_holds_grid_best"
SPACE = {
    "model.learning_rate": {"choice": [0.0003, 0.001, 0.003, 0.01]},
    "model.dropout": {"choice": [0.0, 0.2, 0.4]},
}


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return the share of image passes, and whether the grid's best is inside the interval of the search's."""
    largest, folds, epochs, trials = (24, 2, 1, 1) if toy else (100, 3, 3, 6)
    space = {"model.dropout": {"choice": [0.0, 0.2]}} if toy else SPACE
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(space), encoding="utf-8")
    shared = ["search", "--space", str(file), "--folds", str(folds), *small(largest, epochs)]
    say("every cell of a grid, in full")
    whole = run([*shared, "--name", "grid", "--sampler", "grid"], apart=not toy)
    say(f"a search of {trials} trials with Hyperband in the same space")
    part = run([*shared, "--name", "hyperband", "--trials", str(trials)], apart=not toy)

    from benchmarks.searches import finished, image_passes, opened, winner_score

    with opened("grid") as study:
        cells = finished(study)
        inner = study.best_value
    with opened("hyperband") as study:
        tried = finished(study)
        ours_inner = study.best_value
    best, ours = winner_score("grid"), winner_score("hyperband")
    all_passes, passes = image_passes(cells), image_passes(tried)
    detail = {
        "grid_image_passes": all_passes,
        "hyperband_image_passes": passes,
        "grid_cells": len(cells),
        "hyperband_trials": len(tried),
        "of_which_ended_early": sum(trial.state.name == "PRUNED" for trial in tried),
        "grid_seconds": round(whole, 1),
        "hyperband_seconds": round(part, 1),
        "setting": f"test_resnet at 32 px on drawn faces, largest class {largest}, {folds} folds of {epochs} epochs; "
        "sampler TPE, as by default, with half as many trials as the grid has cells; the final "
        "training of each winner is left out on both sides",
    }
    scores = {
        "grid_best_macro_f1": round(best.value, 4),
        "hyperband_best_macro_f1": round(ours.value, 4),
        "hyperband_interval": [round(ours.low, 4), round(ours.high, 4)],
        "grid_best_inner_macro_f1": round(inner, 4),
        "hyperband_best_inner_macro_f1": round(ours_inner, 4),
        "setting": "macro F1 of each winner on the same held-out part, which neither search saw; 95 % interval",
    }
    about = f"images trained on by {len(tried)} trials with Hyperband over those of all {len(cells)} cells of the grid"
    held = "1: the grid's best macro F1 is inside the interval of the search's best; 0: it is not"
    return [
        Figure(SHARE, passes / all_passes, about, at_most=0.4, detail=detail),
        Figure(FOUND, float(ours.holds(best.value)), held, at_least=1, at_most=1, detail=scores),
    ]
