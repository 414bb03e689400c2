"""Runs the face detector's study: each seed trains, fine-tunes and measures both detectors; then the report."""

import hashlib
from functools import partial
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError, invalid
from datamodules.faces.boxes_data import BoxesDataModule
from lightning_modules.config import Options, RunConfig
from lightning_modules.detector.module import FaceDetector
from lightning_modules.detector.run import checkpoint_of, detector_config, find_faces
from lightning_modules.detector.tables import detection_table
from lightning_modules.training import train
from records import store
from records.runs import children, load_table, run_config
from records.tracking import TrackingLogger
from sweeps.studies.conduct import Conduct
from sweeps.studies.face_detector import NEW, OLD, TRAINED, TUNED, build, cell_name
from sweeps.studies.numbers import Circumstances
from sweeps.studies.plan import Scale

TRUTH, DETECTIONS, ELSEWHERE = "truth", "detections", "detections_elsewhere"  # tables; the last of the other pictures

Runs = dict[tuple[str, int], str]  # step and seed -> run id


def run_detector_study(
    given: Options,
    *,
    scale: Scale,
    data: str | None = None,
    seeds: tuple[int, ...] | None = None,
    protocol: str = "honest",
    storage: str | None = None,
    dry_run: bool = False,
    only_report: bool = False,
    workers: int = 1,
) -> int:
    """Run the study behind `emotion study face-detector`; return the exit status.

    Raises:
        InputError: an option that this study does not take, or one that `emotion detector fit` refuses.
    """
    if storage or protocol != "honest":
        name, value = ("--storage", storage) if storage else ("--protocol", protocol)
        msg = f"{name}: study face-detector runs in one process by the honest protocol, got {value}; leave {name} out"
        raise InputError(msg)
    if workers != 1:
        raise invalid("--workers", "must be 1, since study face-detector runs in one process", workers)
    study = build(scale, data, given.values.get("data.boxes"), seeds)
    # the table of boxes belongs to the new images alone
    left = {name: value for name, value in given.values.items() if name != "data.boxes"}
    conduct = DetectorConduct(study, scale, "honest", Options(given.recipe, given.files, left))
    if dry_run:
        from sweeps.studies.face_detector_estimate import estimate

        print(estimate(conduct))
        return 0
    conduct.run(only_report=only_report)
    return 0


class DetectorConduct(Conduct):
    """One study of the detector at one scale, on one pair of picture sets.

    Notes:
        Its runs are found by their tags: what has finished is not run again, a training that was stopped goes on.
    """

    def _resolved(self) -> dict[str, RunConfig]:
        return {cell.name: self._config(cell.name) for cell in self.study.cells}

    def _config(self, cell: str) -> RunConfig:
        """Return the config of the training behind a cell, without what a seed sets."""
        options = {**self.study.cell(cell).options, **self.given.values}
        options.setdefault("run.experiment", "emotion")
        return detector_config(Options(self.given.recipe, self.given.files, options))

    def run(self, *, only_report: bool = False) -> dict[str, str]:
        """Run what has not finished and write the report.

        Raises:
            InputError: data or options that no training could use, or nothing to report on.
        """
        if only_report:
            parent = self._known()
            if parent is None:
                msg = f"--report: study {self.key} has not begun here with these options; run it without --report first"
                raise InputError(msg)
        else:
            _ = self.key  # wrong options or data make no store
            store.open_client()
            parent = self._parent()
            for seed in self.study.seeds:
                self._seed(parent, seed)
        self._write(parent)
        return {}

    def config(self, model: str, seed: int, parent: str | None, start: str | None = None) -> RunConfig:
        """Return the config of one of the two runs of a seed."""
        experiment = self.configs[cell_name(model, NEW)].run["experiment"]
        changes = {"parent": parent, "resume": "auto", "name": f"{model} seed {seed}", "start_from": start}
        values = {**self.study.cell(cell_name(model, NEW)).options, **self.given.values, "seed_everything": seed}
        values |= {"run.experiment": experiment} | {f"run.{name}": v for name, v in changes.items()}
        return detector_config(Options(self.given.recipe, self.given.files, values))

    def data(self, model: str) -> BoxesDataModule:
        """Return the images that a detector is trained on, as its training divides them."""
        return BoxesDataModule(**self.configs[cell_name(model, NEW)].data)

    def finished(self, parent: str) -> Runs:
        """Return the runs that have finished."""
        runs = children(parent)
        rows = runs[runs["status"] == "FINISHED"].to_dict("records") if len(runs) else []
        return {(str(row["name"]).rpartition(" seed ")[0], int(row["tags.seed"])): row["run_id"] for row in rows}

    def _content(self) -> str:
        """Return the hash of both sets of images, once they are seen to be usable."""
        both = ""
        for model in (TRAINED, TUNED):
            data = self.data(model)
            data.prepare_data()
            data.setup("fit")
            both += data.content_hash
        return hashlib.sha256(both.encode()).hexdigest()

    def _seed(self, parent: str, seed: int) -> None:
        """Train, fine-tune, and measure each of the two detectors on the pictures of the other one, too."""
        start: str | None = None
        for model in (TRAINED, TUNED):
            run_id = self.finished(parent).get((model, seed))
            if run_id is None:
                done = train(self.config(model, seed, parent, start))
                assert done is not None  # one device
                run_id = done.run_id
            start = start or run_id
        runs = self.finished(parent)
        for model, other in ((TRAINED, TUNED), (TUNED, TRAINED)):
            _measure_elsewhere(runs[model, seed], runs[other, seed])

    def _data(self) -> str:
        source = str(self.study.cell(cell_name(TUNED, NEW)).options["data.source"])
        return source if source.startswith("scenes") else Path(source).stem

    def _write(self, parent: str) -> None:
        from sweeps.studies.face_detector_report import write_detector_report

        client = store.open_client(store.DIRECTORY, store.tracking_uri(store.DIRECTORY), only_reading=True)
        experiment = str(client.get_run(parent).info.experiment_id)
        now = Circumstances(self.scale, self.protocol, self._data(), tuple(self.given.words()), experiment, parent)
        folder = Path(store.DIRECTORY, "reports", self.key)
        runs = self.finished(parent)
        paths = write_detector_report(self.study, runs, partial(_tables, runs), now, folder)
        tracker = TrackingLogger(run_id=parent, system_metrics=False)
        for path in paths:
            tracker.log_file(path, f"report/{path.parent.relative_to(folder)}".rstrip("./"))
        tracker.finalize("success")
        for path in paths[:3]:
            print(path)
        print(f"the study's run: {parent} (to view it: emotion ui)")


def _tables(runs: Runs, model: str, pictures: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what a detector found in the held-out pictures of one kind, and the truth."""
    home = TRAINED if pictures == OLD else TUNED
    found = load_table(runs[model, seed], DETECTIONS if model == home else ELSEWHERE)
    return found, load_table(runs[home, seed], TRUTH)


def _measure_elsewhere(run_id: str, other: str) -> None:
    """Keep what a run's detector finds in the held-out pictures of another run."""
    try:
        load_table(run_id, ELSEWHERE)
    except InputError:
        data = BoxesDataModule(**run_config(other)["data"])
        found = find_faces(FaceDetector.from_checkpoint(checkpoint_of(run_id)), data, data.fold.outer.tolist())
        tracker = TrackingLogger(run_id=run_id, system_metrics=False)
        tracker.log_table(detection_table(found, data), ELSEWHERE)
        tracker.finalize("success")
