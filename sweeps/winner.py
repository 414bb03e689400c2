"""The winner of a search: trained on all the search saw, predicted once on what it did not see, kept as a recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from optuna.trial import FrozenTrial

from datamodules.errors import InputError
from datamodules.places import replacing
from lightning_modules.cli import run_cli
from records.runs import find_runs, load_table, run_config
from records.tracking import TrackingLogger
from sweeps.search_trial import OPTIONS
from sweeps.spaces import words

NO_BAR = "--trainer.enable_progress_bar=false"  # the trials have a bar of their own
_NOT_IN_A_RECIPE = ("parent", "name", "resume", "evaluate", "experiment")


@dataclass(frozen=True)
class Winner:
    """The scored winner."""

    trial: int
    run_id: str
    intervals: pd.DataFrame

    @property
    def images(self) -> int:
        """Images it was scored on."""
        return len(load_table(self.run_id, "predictions"))


def score_winner(study: str, args: list[str], trial: FrozenTrial, parent: str) -> Winner:
    """Train the winner with a usual inner split of all that the search selected on, and predict the rest once."""
    place = ["--run.parent", parent, "--run.name", f"{study} winner", "--run.recipe", study]
    done = run_cli(["fit", *args, *words(trial.user_attrs[OPTIONS]), *place])
    assert done.tracker is not None  # of fit
    run_id = str(done.tracker.run_id)
    tags = TrackingLogger(run_id=run_id, system_metrics=False)
    tags.set_tags({"kind": "winner", "study": study, "trial": str(trial.number)})
    tags.finalize("success")
    return Winner(trial.number, run_id, load_table(run_id, "intervals"))


def known_winner(scored: list[dict[str, Any]]) -> Winner | None:
    """Return the winner that was scored before, None if there is none or its run is gone."""
    for known in scored:
        found = find_runs(where=f"attributes.run_id = '{known['run_id']}'", limit=1)
        if not found.empty and found.iloc[0]["status"] == "FINISHED":
            return Winner(int(known["trial"]), known["run_id"], load_table(known["run_id"], "intervals"))
    return None


def recipe_text(winner: Winner, study: str) -> str:
    """Return the winner's config as `emotion fit --config` takes it."""
    config = run_config(winner.run_id)
    config.pop("ckpt_path", None)
    config.pop("weights_only", None)
    config["run"] = {key: value for key, value in config["run"].items() if key not in _NOT_IN_A_RECIPE}
    config["run"]["recipe"] = study
    head = (
        f"# Best of search {study}: trial {winner.trial}. Its held-out part selected nothing, and was predicted once.\n"
    )
    return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path.absolute()) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"--write: {path} cannot be written ({error.strerror}); name a file in a folder that can"
        raise InputError(msg) from error
