"""The study of the face detector: before and after fine-tuning on pictures of another kind, and what it forgot."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.errors import InputError, invalid
from datamodules.face_boxes import BoxesDataModule
from datamodules.paths import replacing
from lightning_modules.backbones import best_device, describe_device
from lightning_modules.config import Options, RunConfig
from lightning_modules.face_detector.network import (
    FaceDetector,
    ImageMatches,
    average_precision,
    difference,
    intervals,
    permutation,
)
from lightning_modules.face_detector.training import (
    checkpoint_of,
    detection_table,
    detector_config,
    find_faces,
    matched,
)
from lightning_modules.training import train
from results.tracking import store
from results.tracking.logger import TrackingLogger
from results.tracking.runs import children, load_table, run_config
from sweeps.studies.analysis import Circumstances, LeftOut, Outcome, Outcomes, judge, numbers, p_text, shown, signed
from sweeps.studies.report import Block, CellText, Grid, Part, as_html, as_markdown, compose, text
from sweeps.studies.runner import Conduct
from sweeps.studies.schema import Cell, Claim, Entry, Metric, Picture, Scale, Study, Table, Value

NAME = "face-detector"
ABOUT = "a face detector before and after fine-tuning on pictures of another kind, and what it forgot of the first kind"
SOURCE = "a paper on Korean expressions (K-EmotionNet), 3,500 pictures of AI-Hub's Korean set"
TRAINED, TUNED = "original", "fine-tuned"  # the two runs of a seed
NEW, OLD = "new pictures", "first pictures"  # what both are measured on
SHOWN = {"map": "mAP@.5:.95", "map_50": "mAP@.5"}
PUBLISHED = {TRAINED: {"map": 0.8223, "map_50": 0.984}, TUNED: {"map": 0.8672, "map_50": 0.994}}
SHIFT = "dim=1,smallest=0.12,largest=0.35,distractors=4,occlusion=0.5"  # evening, farther away, more in the way

DetectorStudy = dict[str, Value]


@dataclass(frozen=True)
class Setting:
    """What a scale trains: on the first pictures, then on the new ones, with the options of `emotion detector fit`."""

    first: DetectorStudy
    new: DetectorStudy
    seeds: tuple[int, ...]


SETTINGS: dict[Scale, Setting] = {
    "tiny": Setting(
        first={
            "data.source": "scenes:images=150,size=256,smallest=0.3",
            "data.size": 160,
            "data.inner_fraction": 0.15,
            "run.epochs": 5,
        },
        new={
            "data.size": 160,
            "data.source": "scenes:images=120,size=256,seed=1," + SHIFT.replace("smallest=0.12", "smallest=0.2"),
            "data.outer_fraction": 0.35,
            "data.inner_fraction": 0.15,
            "run.epochs": 4,
            "model.learning_rate": 0.0005,
        },
        seeds=(0, 1, 2),
    ),
    "small": Setting(
        first={"data.source": "scenes:images=400,size=320", "data.size": 192, "run.epochs": 12},
        new={
            "data.source": f"scenes:images=400,size=320,seed=1,{SHIFT}",
            "data.size": 192,
            "data.outer_fraction": 0.3,
            "run.epochs": 8,
            "model.learning_rate": 0.0005,
        },
        seeds=(0, 1, 2),
    ),
    "paper": Setting(
        first={
            "data.source": "scenes:images=12880,size=640",
            "data.size": 640,
            "data.batch_size": 16,
            "run.epochs": 30,
        },
        new={
            "data.source": f"scenes:images=3500,size=640,seed=1,{SHIFT}",
            "data.size": 640,
            "data.batch_size": 16,
            "data.outer_fraction": 0.1,
            "data.inner_fraction": 0.1111,
            "model.learning_rate": 0.0005,
            "run.epochs": 30,
        },
        seeds=(0, 1, 2),
    ),
}


def cell_name(model: str, pictures: str) -> str:
    """Return the name of what is measured: a detector on pictures."""
    return f"{model}, {pictures}"


def build(
    scale: Scale, data: str | None = None, boxes: str | None = None, seeds: tuple[int, ...] | None = None
) -> Study:
    """Return the study, whose cells are the measurements; those on new pictures carry the options of their training.

    Args:
        scale: tiny, small or paper.
        data: the new pictures, in place of drawn ones.
        boxes: their table of boxes.
        seeds: in place of the scale's.
    """
    setting = SETTINGS[scale]
    new = dict(setting.new)
    if data is not None:
        new["data.source"] = data
    if boxes is not None:
        new["data.boxes"] = boxes
    # each cell carries the options of the training of its detector
    trained_by = {TRAINED: setting.first, TUNED: new}
    cells = tuple(
        Cell(name=cell_name(model, pictures), recipe="", options=options)
        for model, options in trained_by.items()
        for pictures in (NEW, OLD)
    )
    return Study(
        name=NAME,
        about=ABOUT,
        source=SOURCE,
        cells=cells,
        tables=(
            _table("On the new pictures, held out", NEW, published=True),
            _table("On the first pictures, held out: what fine-tuning forgot", OLD, published=False),
        ),
        claims=(
            *(
                Claim(
                    f"fine-tuning raises {SHOWN[metric]} on the new pictures",
                    (cell_name(TUNED, NEW), metric),
                    (cell_name(TRAINED, NEW), metric),
                    (PUBLISHED[TUNED][metric], PUBLISHED[TRAINED][metric]),
                )
                for metric in SHOWN
            ),
            Claim(
                "fine-tuning forgets: mAP@.5:.95 on the first pictures was higher before",
                (cell_name(TRAINED, OLD), "map"),
                (cell_name(TUNED, OLD), "map"),
            ),
        ),
        pictures=(
            Picture(
                "differences",
                "What fine-tuning changed",
                {cell.name: cell.name for cell in cells},
                tuple(SHOWN),
            ),
        ),
        seeds=setting.seeds if seeds is None else seeds,
        notes=(
            "Each seed trains a detector on the first pictures and fine-tunes it on the new ones. All seeds report on "
            "the same held-out pictures, of which neither training nor the choice of an epoch saw any.",
            "The paper fine-tuned YOLO-FaceV2, trained on faces of the West, on photographs of Koreans; here the first "
            "pictures are drawn by day and the new ones in the evening with smaller faces, more things in front of "
            "them and more posters and statues, unless --data names others.",
        ),
    )


def _table(title: str, pictures: str, *, published: bool) -> Table:
    rows: dict[str, tuple[Entry | None, ...]] = {
        model: tuple(
            Entry(cell_name(model, pictures), metric, PUBLISHED[model][metric] if published else None)
            for metric in SHOWN
        )
        for model in (TRAINED, TUNED)
    }
    return Table(title, tuple(SHOWN.values()), rows)


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
        found = find_faces(FaceDetector.from_checkpoint(checkpoint_of(run_id)), data, data.fold.test.tolist())
        tracker = TrackingLogger(run_id=run_id, system_metrics=False)
        tracker.log_table(detection_table(found, data), ELSEWHERE)
        tracker.finalize("success")


BEGINNING = 15.0  # seconds a run takes besides training: checks, evaluation, tables
FORWARD = 3.0  # a picture that is only looked at costs a third of one that is learnt from


def estimate(conduct: DetectorConduct) -> str:
    """Return the estimate as text; draws and reads the pictures, keeps no run."""
    lines, seconds = [], 0.0
    seeds = len(conduct.study.seeds)
    for model in (TRAINED, TUNED):
        config = conduct.config(model, 0, None)
        fold, epochs = conduct.data(model).fold, int(config.run["epochs"])
        learnt, seen = epochs * len(fold.train), epochs * len(fold.val) + 2 * len(fold.test)
        one = _seconds(config.model, config.data["size"], config.data["batch_size"])
        seconds += seeds * (BEGINNING + one * (learnt + seen / FORWARD))
        lines.append(
            f"{model}: {seeds} runs of {epochs} epochs over {len(fold.train)} pictures; "
            f"{len(fold.val)} to choose the epoch, {len(fold.test)} to report on"
        )
    device = describe_device(best_device())
    lines.append(f"about {seconds / 60:.0f} min, timed with one batch on {device}, as busy as it is now")
    return "\n".join(lines)


def _seconds(options: dict[str, object], size: int, batch: int) -> float:
    """Return the seconds that a training picture takes, from a batch after a first one."""
    device = best_device()
    model = FaceDetector(**{**options, "weights": "none", "size": size}).to(device).train()  # type: ignore[arg-type]
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    face = torch.tensor([[0.3, 0.3, 0.6, 0.7]], device=device) * size
    begun = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        loss = model.objective(model(image), [face] * batch, model.centres, model.scales)["loss"]
        loss.backward()
        float(loss.detach())  # waits for the device
    return (time.perf_counter() - begun) / batch


Tables = Callable[[str, str, int], tuple[pd.DataFrame, pd.DataFrame]]  # model, pictures, seed -> detections, truth


@dataclass(frozen=True)
class Measured(Outcome):
    """One detector on one set of held-out pictures; intervals are over pictures."""

    pictures: tuple[ImageMatches, ...] = ()
    resamples: int = 1000

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """As the tables of a study want them: by metric, of no class."""
        return intervals(list(self.pictures), resamples=self.resamples).assign(**{"class": ""})

    @classmethod
    def left_out(cls, runs: Sequence[Outcome], metrics: Sequence[Metric]) -> LeftOut | None:
        """Return average precisions, one per run, with and without each image; None if the runs' images differ."""
        sets = [list(run.pictures) for run in runs if isinstance(run, Measured)]
        if len({tuple(picture.faces for picture in pictures) for pictures in sets}) > 1:
            return None

        def value(pictures: list[ImageMatches], metric: Metric) -> float:
            found = average_precision(pictures)
            return float(found[0] if metric == "map_50" else found.mean())

        both = list(zip(sets, metrics, strict=True))
        values = np.array([value(pictures, metric) for pictures, metric in both])
        count = len(sets[0])
        without = [[value(pictures[:i] + pictures[i + 1 :], metric) for pictures, metric in both] for i in range(count)]
        return LeftOut(values, np.array(without))


def write_detector_report(
    study: Study,
    runs: dict[tuple[str, int], str],
    tables: Tables,
    now: Circumstances,
    folder: Path,
    *,
    resamples: int = 1000,
) -> list[Path]:
    """Write report.md, report.html, report.csv and the figures; return their paths.

    Args:
        study: of the detector.
        runs: of each step and seed that has finished.
        tables: gives what a detector found in held-out pictures, and the truth.
        now: how it came about.
        folder: where to.
        resamples: of the intervals, and swaps of the tests.
    """
    seeds = [seed for seed in study.seeds if all((model, seed) in runs for model in (TRAINED, TUNED))]
    found = [
        Measured(
            cell_name(model, kind), seed, runs[model, seed], {}, tuple(matched(*tables(model, kind, seed))), resamples
        )
        for seed in seeds
        for model in (TRAINED, TUNED)
        for kind in (NEW, OLD)
    ]
    outcomes = Outcomes(found)
    judged = judge(study.claims, outcomes)
    page = compose(study, outcomes, judged, now)
    changes = changed(found, seeds)
    said = f"{len(seeds)} of {len(study.seeds)} seeds finished, each a run that trains and one that fine-tunes."
    lead = tuple(said if "cells finished" in one else one for one in page.lead)
    place = len(study.tables)
    blocks = (*page.blocks[:place], *([_block(changes)] if len(changes) else []), *page.blocks[place:])
    page = replace(page, lead=lead, blocks=blocks)
    table = pd.concat([numbers(study, outcomes, judged, now), _rows(changes, now)], ignore_index=True)
    files: dict[str, bytes] = {
        "report.md": as_markdown(page).encode(),
        "report.html": as_html(page).encode(),
        "report.csv": table.to_csv(index=False).encode(),
    }
    files |= {f"figures/{block.figure.file}": block.figure.png for block in page.blocks if block.figure}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return [folder / name for name in files]


def changed(found: list[Measured], seeds: list[int]) -> pd.DataFrame:
    """Return what fine-tuning changed in each seed, on both kinds of pictures: the same pictures before and after.

    Columns: pictures (which), seed, metric, held_out (how many), faces, before, after, difference, low, high, p, and
    the runs before and after.
    """
    by = {(one.cell, one.seed): one for one in found}
    rows = []
    for kind in (NEW, OLD):
        for seed in seeds:
            one, other = by[cell_name(TRAINED, kind), seed], by[cell_name(TUNED, kind), seed]
            before, after = list(one.pictures), list(other.pictures)
            table, p_values = (
                difference(before, after, resamples=one.resamples),
                permutation(before, after, resamples=one.resamples),
            )
            for line, p_value in zip(table.itertuples(), p_values.tolist(), strict=True):
                rows.append(
                    {
                        "pictures": kind,
                        "seed": seed,
                        "metric": line.metric,
                        "held_out": len(before),
                        "faces": sum(picture.faces for picture in before),
                        "before": one.number(str(line.metric))[0],
                        "after": other.number(str(line.metric))[0],
                        "difference": line.value,
                        "low": line.low,
                        "high": line.high,
                        "p": p_value,
                        "run_before": one.run_id,
                        "run_after": other.run_id,
                    }
                )
    return pd.DataFrame(rows)


def _block(changes: pd.DataFrame) -> Block:
    names = ("", "metric", "held-out pictures", "faces", "before", "after", "difference", "95 % interval", "p")
    rows: list[tuple[CellText, ...]] = [
        (
            text(f"{row.pictures}, seed {row.seed}"),
            text(SHOWN[row.metric]),
            text(str(row.held_out)),
            text(str(row.faces)),
            (Part(shown(row.before), row.run_before),),
            (Part(shown(row.after), row.run_after),),
            text(signed(row.difference)),
            text(f"{signed(row.low)} to {signed(row.high)}"),
            text(p_text(row.p)),
        )
        for row in changes.itertuples()
    ]
    note = (
        "Intervals: held-out pictures drawn anew 1,000 times, the same ones before and after. p: at random, pictures "
        "swap what was found before and after, 1,000 times; not corrected for the number of lines."
    )
    return Block("Each seed, the same pictures before and after", (note,), Grid(names, tuple(rows)))


def _rows(changes: pd.DataFrame, now: Circumstances) -> pd.DataFrame:
    if changes.empty:
        return changes
    named = changes.assign(
        part="after - before",
        row=changes["pictures"] + ", seed " + changes["seed"].astype(str),
        value=changes["difference"],
        runs=changes["run_before"] + " " + changes["run_after"],
        scale=now.scale,
        protocol=now.protocol,
        data=now.data,
    )
    kept = ["part", "row", "metric", "value", "low", "high", "p", "runs", "scale", "protocol", "data"]
    return named[[*kept, "before", "after", "held_out", "faces"]]
