"""Evaluation of a trained model on another labelled data set, as a tracked run with both tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from datamodules.duplicates import join, near_pairs
from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.files.images import PIXEL_LIMIT, default_pixel_limit
from datamodules.files.paths import path_text
from datamodules.labels import canonical
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read
from datamodules.readers.face_crops import SOURCE, list_crops
from datamodules.unlabelled import photographs
from lightning_modules.predictor import DECODED_SMALLER, Input, Predictor
from results.predictions import HONEST, check_predictions, flag_protocol, join_clusterings, protocol_of
from results.run_images import EVALUATED, DataOptions
from results.selective import decided_table
from results.statistics import paired_difference, whole_scores
from results.tracking.logger import TrackingLogger
from results.tracking.runs import MODEL_RUNS

SEED = 0  # of what is drawn to degrade images


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)


def _occluded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    covered, side = image.copy(), max(1, round(0.4 * min(image.shape[:2])))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    covered[top : top + side, left : left + side] = 128
    return covered


def _small(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    size = (max(1, round(width / 4)), max(1, round(height / 4)))
    return cv2.resize(cv2.resize(image, size, interpolation=cv2.INTER_AREA), (width, height))


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(0.3, 0.03 * min(image.shape[:2])))


def _dark(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.round(image * 0.3).astype(np.uint8)


DEGRADE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "blur": _blur,  # Gaussian, standard deviation 3 % of the shorter side
    "dark": _dark,  # 30 % of the light
    "small": _small,  # a quarter of the width and height, enlarged again
    "occluded": _occluded,  # a grey square of 40 % of the shorter side
    "noise": _noise,  # Gaussian, standard deviation 20 of 255
}


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a labelled data set.

    Attributes:
        run_id: MLflow's id of the run that keeps the tables.
        data: Name of the data set.
        classes: The classes that model and data share, which are scored.
        predictions: Prediction table.
        decided: Table of decisions, where the model has some; else None.
        text: The result as it is printed.
        left_out: Lines that say what was left out, and why.
        degraded: One row a kind of damage and score: metric, as_they_are, value, difference, low, high, degraded.
    """

    run_id: str
    data: str
    classes: tuple[str, ...]
    predictions: pd.DataFrame
    decided: pd.DataFrame | None
    text: str
    left_out: tuple[str, ...]
    degraded: pd.DataFrame

    @property
    def scores(self) -> dict[str, float]:
        """Macro F1, accuracy and balanced accuracy over all images."""
        return whole_scores(self.predictions, self.classes)


def evaluate_on(
    predictor: Predictor,
    source: str,
    read_options: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    *,
    part: str | None = None,
    allow_seen: bool = False,
    degrade: Sequence[str] = (),
    resamples: int = 2000,
    batch_size: int = 64,
    experiment: str = "emotion",
) -> Evaluation:
    """Score a model on all images of a labelled data set, or on one part of it, and track the result.

    Classes are joined by name and alias. Images of a class that the model does not know are left out and counted; of
    the model's classes that the data set does not have, the probability is spread over the others.

    Scores are those of the raw probabilities, as in a run; those of the model's decisions are reported beside them.

    Args:
        predictor: The model.
        source: A data set as `emotion fit` takes it.
        read_options: How it is read.
        part: Only rows of this part of the data set's own split, such as test.
        allow_seen: Score images that the model was trained or selected on, too; column ``seen`` marks them.
        degrade: Names of `DEGRADE`: score damaged copies of all images as well.
        resamples: Bootstrap resamples of the intervals.
        batch_size: Images that go through a network at a time.
        experiment: MLflow experiment of the new run.

    Raises:
        InputError: There are no such images, fewer than two classes are shared, or the model has seen some images.
    """
    source = path_text(source)  # what is tracked must be text
    for name in degrade:
        if name not in DEGRADE:
            hint = did_you_mean(name, DEGRADE)
            raise invalid("--degrade", f"must be some of {', '.join(DEGRADE)}", name, hint)
    manifest = read(source, read_options)
    columns, classes, left_out = _shared_classes(predictor.classes, manifest, predictor.name, source)
    left_out[:0] = manifest.notes
    rows = _rows(manifest, part, set(columns))
    inputs = prepared_rows(predictor, manifest, rows, source, batch_size)
    answered = [number for number, one in enumerate(inputs) if one.squares is not None]
    for reason in ("no face found", "error: "):
        missing = [one.row for one in inputs if one.squares is None and str(one.row["note"]).startswith(reason)]
        if missing:
            first = str(missing[0]["note"]).removeprefix("error: ")
            left_out.append(f"{len(missing)} of {len(rows)} images left out, the first {missing[0]['path']}: {first}")
    if not answered:
        msg = f"--data: none of the {len(rows)} images of {source} can be scored: {inputs[0].row['note']}"
        raise InputError(msg)
    inputs, rows = [inputs[number] for number in answered], rows[answered]
    left_out += _limit_notes(predictor, inputs)
    contents = np.array([one.content for one in inputs], dtype=object)
    seen = _seen(predictor, contents)
    if seen is None:
        left_out.append(
            "which images the model was trained on is not recorded, so images that it has seen cannot be recognised"
        )
    elif seen.any() and not allow_seen:
        msg = (
            f"--data: {predictor.name} was trained or selected on {seen.sum()} of the {len(rows)} images of {source}, "
            "so their score would mislead; name another data set or --part, or mark them with --allow-seen"
        )
        raise InputError(msg)
    table = manifest.table.iloc[rows].reset_index(drop=True)
    label = table["label"].map(columns).to_numpy(object)
    clusters = pd.factorize(contents)[0]
    greys = np.stack([one.grey for one in inputs if one.grey is not None])
    pairs = near_pairs(greys, contents.astype(str))[["a", "b"]].to_numpy(np.int64)
    clusters = join_clusterings([clusters, join(len(contents), pairs)])
    if "subject" in table and (table["subject"] != "").any():
        people = table["subject"].where(table["subject"] != "", pd.Series(contents))  # unknown: each its own
        clusters = join_clusterings([clusters, pd.factorize(people)[0]])
    base = pd.DataFrame({"row": rows, "path": table["path"], "content": contents, "cluster": clusters})
    base = base.assign(subject=table["subject"] if "subject" in table else "", fold=np.int64(0), label=label)
    groups = table[[name for name in manifest.groups if name not in base]]
    if seen is not None and seen.any():
        groups = groups.assign(seen=np.where(seen, "yes", "no"))
    predictions, decided = _tables(predictor, inputs, classes, base, groups, batch_size)
    protocol = f"{seen.sum()} images seen in training" if seen is not None and seen.any() else HONEST
    damaged = [
        _difference(name, predictor, inputs, classes, base, groups, predictions, resamples, batch_size)
        for name in degrade
    ]
    degraded = pd.concat(damaged, ignore_index=True) if damaged else pd.DataFrame()
    used = DataOptions(source, read_options, predictor.pixel_limit, predictor.requested_finder)
    run_id, text = _track(
        predictor,
        manifest,
        used,
        part,
        flag_protocol(predictions, protocol),
        decided,
        degraded,
        left_out,
        resamples=resamples,
        experiment=experiment,
    )
    return Evaluation(run_id, manifest.name, classes, predictions, decided, text, tuple(left_out), degraded)


def _limit_notes(predictor: Predictor, inputs: Sequence[Input]) -> list[str]:
    """Return notes on images that were decoded smaller, and on a pixel limit that is not that of the training."""
    limit = default_pixel_limit() if predictor.pixel_limit is None else predictor.pixel_limit
    trained = {getattr(member, "pixel_limit", None) or PIXEL_LIMIT for member in predictor.members}
    notes = []
    if smaller := sum(DECODED_SMALLER in str(one.row["note"]) for one in inputs):
        notes.append(
            f"{smaller} of {len(inputs)} images are above the limit of {limit:,} pixels and are decoded smaller"
        )
    if others := sorted(trained - {limit}):
        listed = " and ".join(f"{other:,}" for other in others)
        notes.append(
            f"the pixel limit is {limit:,}, in training it was {listed}: JPEG files between the two have another size "
            "than in training, so those that the model was trained on are not recognised"
        )
    return notes


def _shared_classes(
    known: Sequence[str], manifest: Manifest, name: str, source: str
) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    """Return the data set's classes as the model calls them, the shared ones in the model's order, and notes."""
    by_canon = {canonical(own) or own: own for own in known}
    columns = {own: by_canon[canonical(own) or own] for own in manifest.classes if (canonical(own) or own) in by_canon}
    classes = tuple(own for own in known if own in columns.values())
    if len(classes) < 2:
        msg = (
            f"--data: at least 2 classes must be shared; {name} knows {', '.join(known)}, and {source} has "
            f"{', '.join(manifest.classes)}; rename classes with --alias"
        )
        raise InputError(msg)
    notes = []
    counts = manifest.table["label"].value_counts()
    if other := [own for own in manifest.classes if own not in columns]:
        shown = ", ".join(f"{own} {int(counts.get(own, 0))}" for own in other)
        notes.append(f"classes that the model does not know, whose images are left out: {shown}")
    if unused := [own for own in known if own not in classes]:
        notes.append(f"classes of the model that the data set does not have, which are not scored: {', '.join(unused)}")
    return columns, classes, notes


def _rows(manifest: Manifest, part: str | None, labels: set[str]) -> np.ndarray:
    """Return the rows of a part whose class is shared."""
    chosen = manifest.table["label"].isin(labels).to_numpy()
    if part is not None:
        parts = sorted(set(manifest.table["split"])) if "split" in manifest.table else []
        if part not in parts:
            raise invalid("--part", f"must be a part of the data set ({', '.join(parts) or 'it names none'})", part)
        chosen = chosen & (manifest.table["split"] == part).to_numpy()
    if not chosen.any():
        where = f"part {part}" if part is not None else "the data set"
        msg = f"--data: no image of a class that the model knows is in {where}; name another data set or --part"
        raise InputError(msg)
    return np.flatnonzero(chosen)


def prepared_rows(
    predictor: Predictor,
    manifest: Manifest,
    rows: np.ndarray,
    source: str,
    batch_size: int = 64,
    *,
    images: bool = False,
) -> list[Input]:
    """Return the input of each row; of an image with several faces the first, which is the one that training takes.

    Args:
        predictor: The model.
        manifest: The data set.
        rows: Rows of it.
        source: What named the data set.
        batch_size: Images in a batch.
        images: Also keep the images or face crops in their own size.

    Raises:
        InputError: The detector that finds faces as in training is not there.
    """
    files = [manifest.file(int(row)) for row in rows]
    crops: set[Path] = set()
    if predictor.faces is not None:
        table = manifest.table.iloc[rows]
        if SOURCE in table:  # faces that were cut while the data set was read, or before
            cut = (table[SOURCE].fillna("") != "").to_numpy()
            cut &= (table["face"] == "face").to_numpy() if "face" in table else True
            crops = {file.resolve() for file, is_crop in zip(files, cut, strict=True) if is_crop}
        else:
            crops = list_crops(source, files) if Path(source).exists() else set()
        if not {file.resolve() for file in files} <= crops:
            predictor.require_detector()
    photos = photographs(files, pixel_limit=predictor.pixel_limit)
    batches = predictor.prepared(photos, crops, total=len(files), batch_size=batch_size, contents=True, images=images)
    inputs = [one for batch in batches for one in batch if one.row["face"] in (None, 0)]
    if len(inputs) != len(files):
        msg = f"{len(files)} images gave {len(inputs)} inputs"
        raise AssertionError(msg)
    return inputs


def _seen(predictor: Predictor, contents: np.ndarray) -> np.ndarray | None:
    """Return which images any network was trained or selected on; None where one does not record it."""
    seen = np.zeros(len(contents), bool)
    for member in predictor.members:
        if member.seen is None:
            return None
        seen |= member.seen.among(contents)
    return seen


def _tables(
    predictor: Predictor,
    inputs: Sequence[Input],
    classes: Sequence[str],
    base: pd.DataFrame,
    groups: pd.DataFrame,
    batch_size: int,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the prediction table of images, with the probabilities of the shared classes, and that of decisions."""
    parts = [predictor.answers(inputs[at : at + batch_size]) for at in range(0, len(inputs), batch_size)]
    places = [predictor.classes.index(name) for name in classes]
    raw = _only(np.concatenate([part.raw for part in parts]), places)
    names = np.asarray(classes, dtype=object)
    table = base.assign(predicted=names[raw[:, places].argmax(axis=1)])
    columns = pd.DataFrame(raw[:, places], columns=[f"prob_{name}" for name in classes])
    table = pd.concat([table, columns, groups], axis=1)
    check_predictions(table)
    if not predictor.decides:
        return table, None
    calibrated = _only(np.concatenate([part.probabilities for part in parts]), places)
    found = predictor.decide(calibrated)
    chosen = np.array([places.index(place) for place in found.predicted])
    return table, decided_table(table, calibrated[:, places], chosen, found.unsure)


def _only(probabilities: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """Return probabilities (N, C) of some classes alone: those of the others are spread over them, and 0."""
    shared = np.zeros_like(probabilities)
    shared[:, places] = probabilities[:, places]
    return shared / np.maximum(shared.sum(axis=1, keepdims=True), 1e-12)


def _track(
    predictor: Predictor,
    manifest: Manifest,
    used: DataOptions,
    part: str | None,
    predictions: pd.DataFrame,
    decided: pd.DataFrame | None,
    degraded: pd.DataFrame,
    left_out: Sequence[str],
    *,
    resamples: int,
    experiment: str,
) -> tuple[str, str]:
    """Keep the tables and what is computed from them in a new run; return its id and the printed result."""
    from lightning_modules.training import keep_decisions, keep_evaluation

    shown = manifest.name if part is None else f"{manifest.name} {part}"
    tags = {"kind": "evaluation", "model": predictor.name, "left_out": "; ".join(left_out)}
    tags["manifest"] = manifest.fingerprint()
    tags |= {MODEL_RUNS: ",".join(predictor.runs)} if predictor.runs else {}
    tracker = TrackingLogger(
        experiment=experiment, run_name=f"{predictor.name} on {shown}", tags=tags, system_metrics=False
    )
    tracker.open()
    try:
        counts = predictions["label"].value_counts()
        profile = {"images": len(predictions), "classes": {str(name): int(count) for name, count in counts.items()}}
        tracker.log_dataset(manifest.name, used.source, manifest.fingerprint(), profile=profile)
        split = predictions[["fold", "row", "content", "cluster", "subject"]].assign(role="test", is_copy=False)
        split = flag_protocol(split, protocol_of(predictions))
        text = keep_evaluation(tracker, predictions, split, resamples=resamples, evaluated=predictor.runs)
        if decided is not None:
            text += "\n" + keep_decisions(tracker, predictions, decided, predictor.decision_lines)
        tracker.log_text(used.as_yaml(), EVALUATED)
        if len(degraded):
            tracker.log_table(degraded, "degraded")
            tracker.log_text(degraded.to_csv(index=False), "degraded.csv")
    except BaseException:
        tracker.finalize("failed")
        raise
    tracker.finalize("success")
    return str(tracker.run_id), text


def _difference(
    name: str,
    predictor: Predictor,
    inputs: Sequence[Input],
    classes: Sequence[str],
    base: pd.DataFrame,
    groups: pd.DataFrame,
    predictions: pd.DataFrame,
    resamples: int,
    batch_size: int,
) -> pd.DataFrame:
    """Return the scores of damaged copies, and their differences to the images as they are, with intervals."""
    damaged = [_damaged(name, one, int(row)) for one, row in zip(inputs, base["row"], strict=True)]
    table = _tables(predictor, damaged, classes, base, groups, batch_size)[0]
    difference = paired_difference(predictions, table, classes, resamples=resamples)
    whole = difference[(difference["class"] == "") & difference["metric"].isin(["f1_macro", "accuracy"])]
    return whole.drop(columns="class").rename(columns={"a": "as_they_are", "b": "value"}).assign(degraded=name)


def _damaged(name: str, one: Input, row: int) -> Input:
    """Return a damaged copy of an input; the same row is damaged in the same way whatever the model."""
    squares = {
        key: DEGRADE[name](image, np.random.default_rng((SEED, row))) for key, image in (one.squares or {}).items()
    }
    return Input(one.row, squares, one.content)
