"""Steps of `emotion explain`: choose images, compute maps, measure faithfulness, write and store the report."""

import dataclasses
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.faces.detectors import Detector, open_detector
from datamodules.files.images import Fit, content_hash, decode, fit_to_square, limited_to
from datamodules.manifest import FACE_SOURCE, Manifest
from datamodules.readers.face_crops import list_crops
from datamodules.unlabelled import find_images, photographs
from emotion.explanation.faithfulness import ReportOptions
from emotion.explanation.methods import (
    QUALITY,
    ExplainedImages,
    MethodOptions,
    counted,
    explain_image,
    grid_shape,
    known_method,
    last_layer,
)
from emotion.explanation.report import Summary, write_report
from emotion.explanation.select import (
    ANSWERS,
    NOTED_DIFFERENCE,
    Answers,
    FoldNetworks,
    HeldOutPredictions,
    cell_lines,
    check_same_network,
    choose_images,
    emotion_masks,
    found_landmarks,
    known_landmarks,
    positions_of_rows,
    targets_of,
)
from emotion.explanation.superpixels import Fill, superpixels
from lightning_modules.evaluation import prepared_rows
from lightning_modules.predictor import Input
from results.bias.groups import Grouping, groupings, parse_bins
from results.tracking.runs import add_to_run, load_table

MAPS, TABLE = "maps.npz", "table.csv"
_ARRAYS = ("images", "maps", "target", "segments", "landmarks")


def save(explained: ExplainedImages, folder: Path, more: pd.DataFrame | None = None) -> None:
    """Write maps.npz and table.csv into a folder.

    Args:
        explained: The explanation.
        folder: An existing folder; the caller renames it when it is complete.
        more: More columns of the table, N rows.
    """
    arrays = {name: getattr(explained, name) for name in _ARRAYS}
    if explained.masks is not None:
        arrays["masks"] = explained.masks
    facts = {"classes": explained.classes, "method": explained.method, "options": explained.options}
    text = json.dumps(facts, ensure_ascii=False)
    np.savez_compressed(folder / MAPS, about=np.array(text), **arrays)
    table = explained.table.assign(target=np.asarray(explained.classes, object)[explained.target])
    if more is not None:
        table = pd.concat([table, more.reset_index(drop=True)], axis=1)
    table.to_csv(folder / TABLE, index=False)


def load(folder: Path) -> ExplainedImages:
    """Read what `save` wrote.

    Raises:
        InputError: The folder has no explanation, or a damaged one.
    """
    try:
        with np.load(folder / MAPS, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            loaded = {name: arrays[name] for name in _ARRAYS}
            masks = arrays["masks"] if "masks" in arrays else None
        table = pd.read_csv(folder / TABLE, keep_default_na=False, na_values={"row": [""]})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{folder}: has no complete explanation ({error}); make one with `emotion explain`"
        raise InputError(msg) from error
    return ExplainedImages(
        table.drop(columns="target"),
        tuple(about["classes"]),
        **loaded,
        masks=masks,
        method=about["method"],
        options=about["options"],
    )


SETTINGS = {
    "lime": ("samples", "features", "fill", "seed"),
    "kernel-shap": ("samples", "fill", "seed"),
    "grad-cam": ("layer",),
    "integrated-gradients": ("steps", "fill"),
}
"""Options that each method uses."""

DRAWS = ("lime", "kernel-shap")  # methods that depend on the seed


@dataclass(frozen=True)
class Inputs:
    """Images to explain.

    Attributes:
        table: Rows of the prediction table.
        images: Input of the network, uint8 (N, H, W, 3).
        landmarks: float32 (N, 5, 2); NaN if unknown.
        masks: Pixels that show the emotion, bool (N, H, W); None if unknown.
        target: Class to explain, int64 (N,).
    """

    table: pd.DataFrame
    images: np.ndarray
    landmarks: np.ndarray
    masks: np.ndarray | None
    target: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Maps of the images, with their quality and the time they took.

    Attributes:
        explained: The maps.
        quality: Values of the column that QUALITY names, float64 (N,).
        seconds: Mean time of an image.
        notes: Sentences to print.
    """

    explained: ExplainedImages
    quality: np.ndarray
    seconds: float
    notes: tuple[str, ...]


class Explainer:
    """Explains the same images by any method and seed, each with the network of the fold that held it out."""

    def __init__(
        self,
        inputs: Inputs,
        networks: FoldNetworks,
        options: MethodOptions,
        segments: np.ndarray,
        *,
        progress: bool = True,
    ) -> None:
        """Prepare to explain images with the networks of a run.

        Args:
            inputs: The images.
            networks: Networks of the run.
            options: The method and its options.
            segments: Superpixels, int32 (N, H, W).
            progress: Show a progress bar.
        """
        self.inputs, self.networks, self.segments = inputs, networks, segments
        self.folds = inputs.table["fold"].to_numpy(np.int64)
        self.progress = progress
        layer = options.layer
        if options.method == "grad-cam":
            layer = layer or last_layer(networks[int(self.folds[0])].backbone)
        self.options = dataclasses.replace(options, layer=layer)

    def maps(self, options: MethodOptions) -> tuple[np.ndarray, np.ndarray]:
        """Return maps, float32 (N, H, W), and the values of the column that QUALITY names, float64 (N,)."""
        maps, quality = np.zeros(self.segments.shape, np.float32), np.zeros(len(self.segments))
        places = np.argsort(self.folds, kind="stable").tolist()
        text = f"explaining by {options.method}, seed {options.seed}"
        for place in counted(places, text) if self.progress else places:
            maps[place], quality[place] = explain_image(
                self.networks[int(self.folds[place])],
                self.inputs.images[place],
                self.segments[place],
                int(self.inputs.target[place]),
                int(self.inputs.table["row"].iloc[place]) % 2**32,  # new images count down from -1
                options,
            )
        return maps, quality

    def repeat(self, method: str, seed: int) -> np.ndarray:
        """Return maps of the same images by another method, or with another seed."""
        return self.maps(dataclasses.replace(self.options, method=known_method(method), seed=seed))[0]

    def probabilities(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return probabilities of images, each by the network of a row's fold."""
        return self.networks.probabilities(images, self.folds[rows])

    def explain(self, more: dict[str, object]) -> Explanation:
        """Explain the images; `more` are further options that are stored with the explanation."""
        notes = []
        if self.options.method == "grad-cam":
            network = self.networks[int(self.folds[0])]
            rows, columns = grid_shape(network.logits, network.backbone, self.inputs.images[0], str(self.options.layer))
            notes.append(f"layer {self.options.layer}: {rows} x {columns} cells, enlarged to the image")
            if rows * columns < 16:
                notes.append("with so few cells nothing can be located well; an earlier layer has more (--layer)")
        began = time.perf_counter()
        maps, quality = self.maps(self.options)
        seconds = (time.perf_counter() - began) / len(maps)
        named = {"superpixels": self.options.superpixels, "compactness": self.options.compactness}
        named |= {name: getattr(self.options, name) for name in SETTINGS[self.options.method]}
        explained = ExplainedImages(
            self.inputs.table,
            self.networks.held_out.classes,
            self.inputs.images,
            maps,
            self.inputs.target,
            self.segments,
            self.inputs.landmarks,
            self.inputs.masks,
            self.options.method,
            {**named, **more},
        )
        return Explanation(explained, quality, seconds, tuple(notes))


def check_folder(folder: Path) -> None:
    """Check that a folder is new, empty, or has an explanation; call it before the long work.

    Raises:
        InputError: The folder contains something else.
    """
    if folder.exists() and not (folder / MAPS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"--out: {folder} exists and is not an explanation, so it is not replaced; choose another folder"
        raise InputError(msg)


def write(
    explainer: Explainer, explanation: Explanation, folder: Path, report: ReportOptions
) -> tuple[Summary, list[Path]]:
    """Write an explanation and its report; the folder is renamed to its final name when it is complete.

    Returns:
        The summary of the report, and the files that show no person.

    Raises:
        InputError: The folder contains something else, or cannot be written.
    """
    check_folder(folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        draft.mkdir(parents=True)
        column = QUALITY[explanation.explained.method]
        save(explanation.explained, draft, pd.DataFrame({column: explanation.quality}) if column else None)
        summary = write_report(explanation.explained, explainer.probabilities, explainer.repeat, draft, report)
        if folder.exists():
            os.replace(folder, old)
        os.replace(draft, folder)
    except OSError as error:
        msg = f"--out: {folder} cannot be written ({error.strerror or error}); choose another folder"
        raise InputError(msg) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    plain = [folder / file.relative_to(draft) for file in summary.files]
    return summary, [*plain, folder / TABLE]


def keep(run_id: str, summary: Summary, method: str, files: Sequence[Path]) -> str:
    """Store numbers and files with a run, under explain/<method>; return a sentence to print."""
    numbers = {f"explain/{method}/{name.removeprefix('explain/')}": value for name, value in summary.numbers.items()}
    artifacts = {f"explain/{method}/{file.name}": file for file in files}
    return add_to_run(run_id, artifacts, numbers, shown=f"explain/{method}/report.html")


@dataclass(frozen=True)
class Source:
    """Data of a run: its manifest, and the name of its source."""

    manifest: Manifest
    name: str


def held_out_inputs(
    networks: FoldNetworks, source: Source, table: pd.DataFrame, target: str, detector: Detector | None
) -> tuple[Inputs, list[str]]:
    """Return held-out images as the network saw them in the evaluation, and sentences to print.

    Args:
        networks: Networks of the run.
        source: Data of the run.
        table: Rows of its prediction table.
        target: See `targets_of`.
        detector: Finds landmarks if the data has none.

    Raises:
        InputError: An image has changed since the evaluation, or the network does not predict what it did then.
    """
    rows, manifest = table["row"].to_numpy(), source.manifest
    size, fit = networks.pixels(int(table["fold"].iloc[0]))
    if networks.held_out.evaluation:
        images, decoded, contents, whole = _evaluated_images(networks, source, rows)
    else:
        decoded = [
            decode(manifest.file(int(row))) for row in tqdm(rows, "reading", unit="image", delay=1, disable=None)
        ]
        images = np.stack([fit_to_square(image, size, fit) for image in decoded])
        contents, whole = [content_hash(image) for image in decoded], True
    changed = [path for path, old, new in zip(table["path"], table["content"], contents, strict=True) if old != new]
    if changed:
        msg = (
            f"--data: {len(changed)} of {len(rows)} images changed after run {networks.held_out.name!r} was evaluated, "
            f"such as {changed[0]}; give the data as it was then, or train again"
        )
        raise InputError(msg)
    landmarks = np.full((len(rows), 5, 2), np.nan, np.float32)
    if whole:
        landmarks = known_landmarks(manifest, rows, [image.shape[:2] for image in decoded], size, fit)
    _add_detected_landmarks(landmarks, decoded, detector, size, fit)
    probabilities = networks.probabilities(images, table["fold"].to_numpy(np.int64))
    difference = check_same_network(table, networks.held_out.classes, probabilities)
    notes = (
        [f"probabilities differ from the prediction table by up to {difference:.3f}"]
        if difference > NOTED_DIFFERENCE
        else []
    )
    cropped = not whole or FACE_SOURCE in manifest.table  # masks are drawn for whole images
    masks = None if cropped else emotion_masks(source.name, manifest, rows, size, fit)
    return Inputs(table, images, landmarks, masks, targets_of(table, networks.held_out.classes, target)), notes


def _evaluated_images(
    networks: FoldNetworks, source: Source, rows: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], list[str], bool]:
    """Prepare rows of evaluated data as `emotion evaluate` does.

    Returns:
        Inputs of the network, uint8 (N, H, W, 3); the images or face crops; their contents; whether they are whole
        images.
    """
    predictor = networks.predictor(0, networks.held_out.data.faces)
    predictor.pixel_limit = networks.held_out.data.pixel_limit
    inputs = prepared_rows(predictor, source.manifest, rows, source.name, images=True)
    size, fit = networks.pixels(0)
    missing = [one.row for one in inputs if one.squares is None or one.image is None]
    if missing:
        msg = f"--data: {missing[0]['path']} cannot be prepared as in the evaluation: {missing[0]['note']}"
        raise InputError(msg)
    squares = np.stack([one.squares[size, fit] for one in inputs if one.squares is not None])
    decoded = [one.image for one in inputs if one.image is not None]
    return squares, decoded, [one.content for one in inputs], predictor.faces is None


def new_inputs(
    networks: FoldNetworks,
    files: Sequence[Path],
    crops: set[Path],
    fold: int,
    target: str,
    detector: Detector | None,
    faces: str | None = None,
) -> tuple[Inputs, list[str]]:
    """Return new images, which have no label, with the predictions of one fold; their rows count down from -1.

    They are prepared as `emotion predict` prepares them: where the network was trained on face crops, every face of a
    photograph is one image.

    Args:
        networks: Networks of the run.
        files: The images.
        crops: Those of them that are face crops already, resolved.
        fold: The fold whose network predicts them.
        target: See `targets_of`.
        detector: Finds landmarks.
        faces: Name of a detector that finds the faces where the one of the training is not there.

    Returns:
        The images, and sentences on those that were left out.

    Raises:
        InputError: No image is left, or the detector of the training is missing.
    """
    held_out, predictor = networks.held_out, networks.predictor(fold)
    if predictor.faces is None and faces is not None and detector is None:
        msg = f"--faces: {faces} finds faces without landmarks, and the run was trained on whole images; leave it out"
        raise InputError(msg)
    if not {file.resolve() for file in files} <= crops:
        try:
            predictor.require_detector()
        except InputError:
            if faces is None:
                raise
            predictor = networks.predictor(fold, faces)
    batches = predictor.prepared(photographs(files), crops, total=len(files), contents=True, images=True)
    prepared = [one for batch in batches for one in batch]
    left_out = [f"{one.row['path']} is left out: {one.row['note']}" for one in prepared if one.squares is None]
    inputs = [one for one in prepared if one.squares is not None]
    if not inputs:
        msg = f"--paths: no image can be explained; {left_out[0]}"
        raise InputError(msg)
    size, fit = networks.pixels(fold)
    images = np.stack([one.squares[size, fit] for one in inputs if one.squares is not None])
    probabilities = networks[fold].scores(images)
    count, names = len(inputs), np.asarray(held_out.classes, object)
    known = {
        "row": -1 - np.arange(count),
        "path": [_named(one) for one in inputs],
        "content": [one.content for one in inputs],
        "cluster": held_out.predictions["cluster"].max() + 1 + np.arange(count),
        "fold": np.full(count, fold),
        "predicted": names[probabilities.argmax(axis=1)],
    }
    known |= {f"prob_{name}": probabilities[:, index] for index, name in enumerate(held_out.classes)}
    columns = {name: known.get(name, [""] * count) for name in held_out.predictions if name != "run_protocol"}
    table = pd.DataFrame(columns)
    landmarks = np.full((count, 5, 2), np.nan, np.float32)
    whole = [one.image for one in inputs if one.image is not None]
    _add_detected_landmarks(landmarks, whole, detector, size, fit)
    return Inputs(table, images, landmarks, None, targets_of(table, held_out.classes, target)), left_out


def _named(one: Input) -> str:
    """Return the path of an image, with the number of the face where a photograph has several."""
    face, path = one.row["face"], str(one.row["path"])
    return path if face is None or "faces" not in one.row["note"] else f"{path} (face {face})"


def _add_detected_landmarks(
    landmarks: np.ndarray, decoded: Sequence[np.ndarray], detector: Detector | None, size: int, fit: Fit
) -> None:
    """Detect the landmarks that are not known yet, and write them into `landmarks`."""
    if detector is None:
        return
    missing = np.flatnonzero(np.isnan(landmarks).any(axis=(1, 2)))
    for number in tqdm(missing.tolist(), "finding faces", unit="image", delay=1, disable=None):
        landmarks[number] = found_landmarks(detector, decoded[number], size, fit)


def sort_paths(held_out: HeldOutPredictions, manifest: Manifest, names: Sequence[str]) -> tuple[list[int], list[Path]]:
    """Return the rows of names that are images of the run's data, and the files of new images.

    A file with the same pixels as a held-out image counts as that image.

    Raises:
        InputError: A name is neither.
    """
    by_path = {path: row for row, path in enumerate(manifest.table["path"])}
    by_content = dict(zip(held_out.predictions["content"], held_out.predictions["row"], strict=True))
    root = manifest.root.resolve()
    rows: list[int] = []
    files: list[Path] = []
    for name in names:
        if name in by_path:
            rows.append(by_path[name])
            continue
        try:
            found_files = find_images(name)
        except InputError as error:
            msg = f"--paths: {name} is not an image of the run's data, and: {str(error).removeprefix('--data: ')}"
            raise InputError(msg) from error
        for file in found_files:
            whole = file.resolve()
            inside = whole.relative_to(root).as_posix() if whole.is_relative_to(root) else ""
            if inside in by_path:
                rows.append(by_path[inside])
            elif (row := by_content.get(_content(file))) is not None:
                rows.append(int(row))
            else:
                files.append(file)
    return rows, files


def _content(file: Path) -> str:
    """Return the content of an image; "" if it cannot be read, which is reported with the other new images."""
    try:
        return content_hash(decode(file))
    except InputError:
        return ""


@dataclass(frozen=True)
class ExplainOptions:
    """Options of `emotion explain`.

    Attributes:
        run: A fit, cross-validation or evaluation: run id or its start, name, or latest.
        method: lime, kernel-shap, grad-cam or integrated-gradients.
        target: Class to explain: predicted, label, or the name of a class.
        images: Number of images of each class and group.
        by: Columns of groups; age+gender combines two.
        bins: COLUMN=0,10,18: lower bounds of the bins of a numeric column.
        answers: Predictions to explain: correct, wrong, or any.
        rows: Explain these rows of the data instead.
        paths: Explain these images of the data, or new images or folders, instead.
        fold: Fold whose checkpoint explains new images; None: the first.
        data: Where the run's data is now; None: as in the run.
        superpixels: Number of superpixels of an image.
        compactness: Compactness of the superpixels.
        samples: Samples of lime and kernel-shap.
        features: lime keeps this number of superpixels; None: all.
        fill: What replaces a superpixel: mean, superpixel, blur, grey or black.
        steps: Steps of integrated-gradients.
        layer: grad-cam: name of a layer of the backbone; None: the last feature map.
        batch: Samples in one pass.
        seed: Seed of the chosen images and the samples.
        top: Superpixels marked in an image.
        faces: Detector that finds landmarks if the data has none.
        compare: Other methods to compare with.
        seeds: Repetitions with other seeds.
        resamples: Bootstrap resamples of the intervals.
        permutations: Permutations of the tests.
        out: Folder of the report; None: explain-RUN-METHOD.
        not_kept: Store no numbers and tables with the run.
        log_pictures: Store maps and overlays with the run, too.
    """

    run: str
    method: str = "lime"
    target: str = "predicted"
    images: int = 10
    by: Sequence[str] = ()
    bins: Sequence[str] = ()
    answers: Answers = "correct"
    rows: Sequence[int] | None = None
    paths: Sequence[str] | None = None
    fold: int | None = None
    data: str | None = None
    superpixels: int = 50
    compactness: float = 20.0
    samples: int = 1000
    features: int | None = None
    fill: Fill = "mean"
    steps: int = 64
    layer: str | None = None
    batch: int = 64
    seed: int = 0
    top: int = 5
    faces: str | None = None
    compare: Sequence[str] = ()
    seeds: int = 2
    resamples: int = 2000
    permutations: int = 9999
    out: Path | None = None
    not_kept: bool = False
    log_pictures: bool = False


def explain_run(options: ExplainOptions) -> int:
    """Explain images, write and print the report, and store it with the run; 1 if the explanation is not faithful.

    Raises:
        InputError: The options, the run or its data are not valid.
    """
    method, report = _options(options)
    held_out = HeldOutPredictions.of(options.run)
    with limited_to(held_out.pixel_limit):
        return _explain_run(options, held_out, method, report)


def _explain_run(
    options: ExplainOptions, held_out: HeldOutPredictions, method: MethodOptions, report: ReportOptions
) -> int:
    folder = options.out or Path(f"explain-{held_out.run_id[:8]}-{method.method}")
    check_folder(folder)
    networks = FoldNetworks(held_out)
    by = tuple(groupings(held_out.predictions, options.by, bins=parse_bins(options.bins))) if options.by else ()
    source = Source(*held_out.manifest(options.data))
    detector = _detector(options.faces, for_new_images=bool(options.paths))
    inputs, notes = _inputs(options, networks, source, by, detector)
    print(
        f"run {held_out.name} [{held_out.run_id[:8]}], backbone {networks.backbone(int(inputs.table['fold'].iloc[0]))}"
    )
    for line in notes:
        print(f"note: {line}")
    segments = superpixels(inputs.images, method.superpixels, method.compactness)
    explainer = Explainer(inputs, networks, method, segments)
    explanation = explainer.explain({"target": options.target, "run": held_out.run_id})
    _print_explained(explanation.explained, explanation.seconds, explanation.notes)
    summary, files = write(explainer, explanation, folder, report)
    print("\n" + "\n".join(summary.lines))
    print(f"\nwritten: {folder / 'report.html'}")
    if not options.not_kept:
        if options.log_pictures:
            files += [*(folder / file.name for file in summary.with_people), folder / MAPS]
        print(keep(held_out.run_id, summary, method.method, files))
    return int(not summary.holds)


def _options(options: ExplainOptions) -> tuple[MethodOptions, ReportOptions]:
    """Check the options that need no run."""
    named = {name: getattr(options, name) for name in ("superpixels", "compactness", "samples", "features", "fill")}
    named |= {name: getattr(options, name) for name in ("steps", "layer", "batch", "seed")}
    method = MethodOptions(method=known_method(options.method), **named)
    if options.answers not in ANSWERS:
        hint = did_you_mean(options.answers, ANSWERS)
        raise invalid("--answers", f"must be one of {', '.join(ANSWERS)}", options.answers, hint)
    if options.bins and not options.by:
        raise invalid("--bins", "needs --by, whose columns it divides", ", ".join(options.bins))
    if options.rows and options.paths:
        msg = "--rows and --paths: only one of them may be given; leave the other out"
        raise InputError(msg)
    if options.seeds < 0:
        msg = f"--seeds: must be at least 0, got {options.seeds}; with 0, no seeds are compared"
        raise InputError(msg)
    if options.images < 1:
        msg = f"--images: must be at least 1, got {options.images}"
        raise InputError(msg)
    compared = tuple(known_method(name, "--compare") for name in options.compare)
    for name in compared:
        dataclasses.replace(method, method=name)  # checks the options that only this method uses
    report = ReportOptions(
        by=tuple(options.by),
        n=options.images,
        top=options.top,
        methods=compared,
        seeds=options.seeds if options.method in DRAWS else 0,
        resamples=options.resamples,
        permutations=options.permutations,
        seed=options.seed,
    )
    return method, report


def _detector(name: str | None, *, for_new_images: bool) -> Detector | None:
    """Return the detector of landmarks; one without landmarks may still find the faces of new photographs."""
    detector = open_detector(name) if name else None
    if detector is not None and not detector.has_landmarks:
        if for_new_images:
            return None
        msg = f"--faces: {name} finds faces without landmarks; use yunet:FILE"
        raise InputError(msg)
    return detector


def _inputs(
    options: ExplainOptions,
    networks: FoldNetworks,
    source: Source,
    by: tuple[Grouping, ...],
    detector: Detector | None,
) -> tuple[Inputs, list[str]]:
    held_out = networks.held_out
    rows: list[int] = list(options.rows or [])
    files: list[Path] = []
    if options.paths:
        rows, files = sort_paths(held_out, source.manifest, options.paths)
    if files and rows:
        msg = (
            f"--paths: must all be of the run's data or all be new, got {len(rows)} images of the data and "
            f"{len(files)} new ones, such as {files[0]}; explain the new ones separately, since no fold held them out"
        )
        raise InputError(msg)
    if files and by:
        msg = f"--by: new images have no group, got {', '.join(options.by)}; leave --by out"
        raise InputError(msg)
    if files:
        fold = min(held_out.members) if options.fold is None else options.fold
        crops = {crop for name in options.paths or () for crop in list_crops(name, find_images(name))}
        inputs, left_out = new_inputs(networks, files, crops, fold, options.target, detector, options.faces)
        count = len(inputs.table)
        note = f"{count} new images, which no fold held out, explained by fold {fold}'s checkpoint"
        return inputs, [note, *left_out]
    if options.fold is not None:
        msg = (
            f"--fold: is only for new images, got {options.fold}; leave it out, images have the fold that held them out"
        )
        raise InputError(msg)
    notes: list[str] = []
    if rows:
        positions = positions_of_rows(held_out.predictions, _split(held_out.run_id), rows)
    else:
        positions, counts = choose_images(
            held_out.predictions, held_out.classes, options.images, by, answers=options.answers, seed=options.seed
        )
        notes = cell_lines(counts, held_out.predictions, options.images, options.answers)
    table = held_out.predictions.iloc[positions].reset_index(drop=True)
    for cut in (cut for grouping in by for cut in grouping.cuts if cut.edges):
        table[cut.column] = cut.values(table)  # the report groups by the values of columns
    inputs, more = held_out_inputs(networks, source, table, options.target, detector)
    return inputs, notes + more


def _split(run_id: str) -> pd.DataFrame | None:
    try:
        return load_table(run_id, "split")
    except InputError:
        return None


def _print_explained(explained: ExplainedImages, seconds: float, notes: tuple[str, ...]) -> None:
    pieces = explained.segments.max(axis=(1, 2)) + 1
    print(f"{len(explained)} images explained by {explained.method}, {seconds:.2f} s each")
    print(f"superpixels: {pieces.mean():.0f} an image ({pieces.min()} to {pieces.max()})")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
