"""Runs a study's cells stage by stage as a queue that workers share, under one MLflow run, and writes the report."""

import json
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig
from lightning_modules.tracked_run import note_other_code
from lightning_modules.training import prepare
from records import store
from records.runs import find_runs, has_store
from records.tracking import TrackingLogger
from sweeps.gpus import require_one_device
from sweeps.queue import ENQUEUED, ERROR, enqueue, once_each
from sweeps.search import work_together
from sweeps.storage import address, open_storage, quiet, require_one_worker
from sweeps.studies.numbers import Circumstances
from sweeps.studies.outcomes import Outcomes
from sweeps.studies.plan import Protocol, Scale, Study
from sweeps.studies.preflight import cell_configs, check_study, study_key
from sweeps.studies.report import write_report

TASK = "sweeps.studies.run:run_cell"
KEY = "study_key"  # tag of a study's run, by which every worker finds it


class Conduct:
    """One study at one scale, by one protocol, on one data set.

    Notes:
        The same study with the same options and images is one Optuna study and one MLflow run, whoever starts it and
        how often: what has finished is not run again, what failed is tried anew, other options begin another study.
    """

    def __init__(
        self,
        study: Study,
        scale: Scale,
        protocol: Protocol,
        given: Options = Options(),  # noqa: B008 - frozen
        storage: str | None = None,
        only_cells: list[str] | None = None,
        workers: int = 1,
    ) -> None:
        require_one_worker(address(storage), workers)
        self.study, self.scale, self.protocol, self.given = study, scale, protocol, given
        self.configs = self._resolved()
        self._url, self._workers = storage, workers
        self._only_cells = only_cells

    def _resolved(self) -> dict[str, RunConfig]:
        """Return the config of each cell."""
        return cell_configs(self.study, self.given)

    @cached_property
    def key(self) -> str:
        """Name of the study, by which every worker finds it; the images are decoded for it.

        Raises:
            InputError: Options or data that no cell could run with.
        """
        return study_key(self.study, self.scale, self.protocol, self.configs, self._content())

    def _content(self) -> str:
        """Return the hash of the images."""
        data = check_study(self.study, self.configs)
        prepare(data)
        return data.content_hash

    def run(self, *, only_report: bool = False) -> dict[str, str]:
        """Run what has not finished, write the report, and return why which cells failed.

        Raises:
            InputError: Options or data that no cell could run with, nothing to report on.
        """
        for config in self.configs.values():
            require_one_device(config, "a study")
        parent = None
        if only_report:
            parent = self._known()
            if parent is None:
                msg = f"--report: study {self.key} has not begun here with these options; run it without --report first"
                raise InputError(msg)
        else:
            _ = self.key  # wrong options or data make no store
            store.open_client()  # makes the embedded store; of workers that start at once one does, the others wait
        storage = open_storage(self._url)
        with quiet():
            queue = optuna.create_study(
                study_name=self.key, storage=storage, direction=StudyDirection.MAXIMIZE, load_if_exists=True
            )
        if parent is None:
            parent = self._parent()
        chosen: list[str] = []
        wanted = [cell for cell in self.study.cells if self._only_cells is None or cell.name in self._only_cells]
        for stage in self.study.stages:
            cells = [cell.name for cell in wanted if cell.stage == stage]
            if stage and self.study.choice:
                outcomes = Outcomes.of_parent(parent, self._failed(queue))
                made = all(outcomes.of(cell) for cell in self.study.choice.cells.values())
                if made or (not only_report and any(self.study.cell(name).chosen for name in cells)):
                    chosen = outcomes.choose(self.study.choice, self.protocol)
            if only_report or not cells:
                continue
            enqueue(queue, self._todo(queue, parent, cells), retry_failed=True)
            work_together(self.key, address(self._url), TASK, self._settings(parent), self._workers)
        return self._report(queue, parent, chosen)

    def _todo(self, queue: optuna.Study, parent: str, cells: list[str]) -> list[dict[str, Any]]:
        """Return the cells, with each seed, that have no finished run below the study's run.

        It is the runs that count, not the trials: another storage may have been used before, and a run whose trial is
        complete may have been deleted since.
        """
        with quiet():
            complete = Counter(
                (trial.user_attrs[ENQUEUED]["cell"], trial.user_attrs[ENQUEUED]["seed"])
                for trial in once_each(queue)
                if trial.state == TrialState.COMPLETE and trial.user_attrs.get(ENQUEUED, {}).get("parent") == parent
            )
        done = {(run.cell, run.seed) for run in Outcomes.of_parent(parent).runs}
        left = [(name, seed) for seed in self.study.seeds for name in cells if (name, seed) not in done]
        return [{"cell": name, "seed": seed, "parent": parent, "attempt": complete[name, seed]} for name, seed in left]

    def _settings(self, parent: str) -> dict[str, Any]:
        return {
            "study": self.study.name,
            "scale": self.scale,
            "protocol": self.protocol,
            "parent": parent,
            "configs": {name: config.as_dict() for name, config in self.configs.items()},
        }

    def _parent(self) -> str:
        """Return the study's run; of two that were made at the same moment the earlier one counts."""
        if found := self._known():
            note_other_code(found)
            return found
        made = TrackingLogger(
            experiment=self._experiment(),
            run_name=self.key,
            system_metrics=False,
            tags={
                "kind": "study",
                "study": self.study.name,
                "scale": self.scale,
                "protocol": self.protocol,
                KEY: self.key,
                "identity": self.key,
            },
        )
        made.open()
        made.log_text(json.dumps({"key": self.key, "options": self.given.words()}, indent=2), "study.json")
        made.close()
        first = self._known() or str(made.run_id)
        if first != made.run_id:
            store.open_client(store.DIRECTORY, store.tracking_uri(store.DIRECTORY)).delete_run(str(made.run_id))
        return first

    def _known(self) -> str | None:
        if not has_store():
            return None
        found = find_runs(where=f"tags.{KEY} = '{self.key}'")
        return str(found.sort_values(["start", "run_id"]).iloc[0]["run_id"]) if len(found) else None

    def _experiment(self) -> str:
        return str(next(iter(self.configs.values())).run["experiment"])

    def _data(self) -> str:
        """Return the name of the data set; where it lies is nobody's business on a page."""
        config = next(iter(self.configs.values()))
        source = str(config.data["source"])
        return source if source.startswith("drawn") else config.data_name

    def _failed(self, queue: optuna.Study) -> dict[str, str]:
        """Return why which cells failed, unless a later attempt finished."""
        states: dict[tuple[str, int], str | None] = {}
        with quiet():
            trials = once_each(queue)
        for trial in trials:
            wanted = trial.user_attrs.get(ENQUEUED, {})
            if trial.state.is_finished() and wanted:
                failed = trial.state != TrialState.COMPLETE
                key = wanted["cell"], wanted["seed"]
                states[key] = trial.user_attrs.get(ERROR, trial.state.name) if failed else None
        return {name: reason for (name, _), reason in states.items() if reason is not None}

    def _report(self, queue: optuna.Study, parent: str, chosen: list[str]) -> dict[str, str]:
        failed = self._failed(queue)
        outcomes = Outcomes.of_parent(parent, failed)
        client = store.open_client(store.DIRECTORY, store.tracking_uri(store.DIRECTORY), only_reading=True)
        now = Circumstances(
            self.scale,
            self.protocol,
            self._data(),
            tuple(self.given.words()),
            str(client.get_run(parent).info.experiment_id),
            parent,
            tuple(chosen),
        )
        folder = Path(store.DIRECTORY, "reports", self.key)
        paths = write_report(self.study, outcomes, now, folder)
        tracker = TrackingLogger(run_id=parent, system_metrics=False)
        for path in paths:
            tracker.log_file(path, f"report/{path.parent.relative_to(folder)}".rstrip("./"))
        tracker.finalize("failed" if failed else "success")
        for path in paths[:3]:
            print(path)
        print(f"the study's run: {parent} (to view it: emotion ui)")
        return failed
