"""What `emotion explain` does, step by step."""

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

from datamodules.dataset import find_pictures
from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.faces.detectors import Detector, open_detector
from datamodules.images import Fit, content_hash, decode, fit_to_square
from datamodules.manifest import Manifest
from emotion.explanation.faithfulness import ReportOptions
from emotion.explanation.methods import (
    QUALITY,
    Explained,
    MethodOptions,
    cells,
    explain_image,
    known_method,
    last_layer,
)
from emotion.explanation.report import Summary, write_report
from emotion.explanation.select import (
    ANSWERS,
    CLOSE,
    Answers,
    FoldNetworks,
    HeldOut,
    carriers,
    cell_lines,
    check_same_network,
    choose_images,
    found_landmarks,
    known_landmarks,
    places_of_rows,
    targets_of,
)
from emotion.explanation.superpixels import Fill, superpixels
from results.bias.groups import Grouping, groupings, parse_bins
from results.tracking.runs import add_to_run, load_table

MAPS, TABLE = "maps.npz", "table.csv"
_ARRAYS = ("images", "maps", "target", "segments", "landmarks")


def save(explained: Explained, folder: Path, more: pd.DataFrame | None = None) -> None:
    """Write maps.npz and table.csv into a folder.

    Args:
        explained: The explanation.
        folder: It exists; whoever made it gives it its final name once it is whole.
        more: Columns (N,) that go into the table beside its own.
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


def load(folder: Path) -> Explained:
    """Read what `save` wrote.

    Raises:
        InputError: It is not there, or damaged.
    """
    try:
        with np.load(folder / MAPS, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            found = {name: arrays[name] for name in _ARRAYS}
            masks = arrays["masks"] if "masks" in arrays else None
        table = pd.read_csv(folder / TABLE, keep_default_na=False, na_values={"row": [""]})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{folder}: holds no whole explanation ({error}); make it with emotion explain"
        raise InputError(msg) from error
    return Explained(
        table.drop(columns="target"),
        tuple(about["classes"]),
        **found,
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
"""The options that make a difference to each method."""

DRAWS = ("lime", "kernel-shap")  # the methods that another seed changes


@dataclass(frozen=True)
class Subjects:
    """The images that are to be explained.

    Attributes:
        table: Rows of the prediction table.
        images: uint8 (N, H, W, 3), what the network sees.
        landmarks: float32 (N, 5, 2).
        masks: bool (N, H, W), or None.
        target: int64 (N,), the class to explain.
    """

    table: pd.DataFrame
    images: np.ndarray
    landmarks: np.ndarray
    masks: np.ndarray | None
    target: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """What was explained, and how it went.

    Attributes:
        explained: The maps.
        quality: float64 (N,), what QUALITY names.
        seconds: An image, on average.
        notes: What a reader should know.
    """

    explained: Explained
    quality: np.ndarray
    seconds: float
    notes: tuple[str, ...]


class Explainer:
    """Explains the same images by any method and with any seed, each by the network of the fold that held it out."""

    def __init__(
        self,
        subjects: Subjects,
        networks: FoldNetworks,
        options: MethodOptions,
        segments: np.ndarray,
        *,
        progress: bool = True,
    ) -> None:
        """Bind images and networks together.

        Args:
            subjects: The images.
            networks: The run's.
            options: The method and its options.
            segments: int32 (N, H, W), the superpixels.
            progress: Show a bar.
        """
        self.subjects, self.networks, self.segments = subjects, networks, segments
        self.folds = subjects.table["fold"].to_numpy(np.int64)
        self.progress = progress
        layer = options.layer
        if options.method == "grad-cam":
            layer = layer or last_layer(networks[int(self.folds[0])].backbone)
        self.options = dataclasses.replace(options, layer=layer)

    def maps(self, options: MethodOptions) -> tuple[np.ndarray, np.ndarray]:
        """Return maps float32 (N, H, W) and what QUALITY names, float64 (N,)."""
        maps, quality = np.zeros(self.segments.shape, np.float32), np.zeros(len(self.segments))
        bar = tqdm(
            np.argsort(self.folds, kind="stable"),
            f"{options.method} seed {options.seed}",
            unit="image",
            delay=1,
            disable=None if self.progress else True,
        )
        for place in bar:
            maps[place], quality[place] = explain_image(
                self.networks[int(self.folds[place])],
                self.subjects.images[place],
                self.segments[place],
                int(self.subjects.target[place]),
                int(self.subjects.table["row"].iloc[place]) % 2**32,  # new images count down from -1
                options,
            )
        return maps, quality

    def again(self, method: str, seed: int) -> np.ndarray:
        """Return maps of the same images by another method, or with another seed."""
        return self.maps(dataclasses.replace(self.options, method=known_method(method), seed=seed))[0]

    def probabilities(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return probabilities of images, each by the network of a row's fold."""
        return self.networks.probabilities(images, self.folds[rows])

    def explain(self, more: dict[str, object]) -> Explanation:
        """Explain the images; `more` is what else must be known to repeat it."""
        notes = []
        if self.options.method == "grad-cam":
            network = self.networks[int(self.folds[0])]
            rows, columns = cells(network.logits, network.backbone, self.subjects.images[0], str(self.options.layer))
            notes.append(f"layer {self.options.layer}: {rows} x {columns} cells, enlarged to the image")
            if rows * columns < 16:
                notes.append("so few cells tell hardly a place; an earlier layer has more (--layer)")
        began = time.perf_counter()
        maps, quality = self.maps(self.options)
        seconds = (time.perf_counter() - began) / len(maps)
        named = {"superpixels": self.options.superpixels, "compactness": self.options.compactness}
        named |= {name: getattr(self.options, name) for name in SETTINGS[self.options.method]}
        explained = Explained(
            self.subjects.table,
            self.networks.held.classes,
            self.subjects.images,
            maps,
            self.subjects.target,
            self.segments,
            self.subjects.landmarks,
            self.subjects.masks,
            self.options.method,
            {**named, **more},
        )
        return Explanation(explained, quality, seconds, tuple(notes))


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than an explanation, best before the long work.

    Raises:
        InputError: it does.
    """
    if folder.exists() and not (folder / MAPS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"--out: {folder} is there and is no explanation, so it is not replaced; name another folder"
        raise InputError(msg)


def write(explainer: Explainer, found: Explanation, folder: Path, report: ReportOptions) -> tuple[Summary, list[Path]]:
    """Write an explanation and its report; the folder gets its name when all of it is there.

    Returns:
        What the report says, and the files that show no person.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    check_folder(folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        draft.mkdir(parents=True)
        column = QUALITY[found.explained.method]
        save(found.explained, draft, pd.DataFrame({column: found.quality}) if column else None)
        summary = write_report(found.explained, explainer.probabilities, explainer.again, draft, report)
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
    """Keep numbers and files with a run, under explain/<method>; return what to tell of it."""
    numbers = {f"explain/{method}/{name.removeprefix('explain/')}": value for name, value in summary.numbers.items()}
    artifacts = {f"explain/{method}/{file.name}": file for file in files}
    return add_to_run(run_id, artifacts, numbers, shown=f"explain/{method}/report.html")


@dataclass(frozen=True)
class Source:
    """Where held-out images come from: the run's data, and how it is named."""

    manifest: Manifest
    name: str


def held_out_subjects(
    networks: FoldNetworks, source: Source, table: pd.DataFrame, target: str, detector: Detector | None
) -> tuple[Subjects, list[str]]:
    """Return held-out images as the network saw them when it was evaluated, and what to tell of them.

    Args:
        networks: The run's.
        source: Its data.
        table: Rows of its prediction table.
        target: See `targets_of`.
        detector: Finds landmarks where the data tells none.

    Raises:
        InputError: An image is not what it was at the evaluation, or the network does not answer as it did then.
    """
    rows, manifest = table["row"].to_numpy(), source.manifest
    size, fit = networks.pixels(int(table["fold"].iloc[0]))
    decoded = [decode(manifest.file(int(row))) for row in tqdm(rows, "reading", unit="image", delay=1, disable=None)]
    changed = [
        path
        for path, content, image in zip(table["path"], table["content"], decoded, strict=True)
        if content_hash(image) != content
    ]
    if changed:
        msg = (
            f"--data: {len(changed)} of {len(rows)} images changed since run {networks.held.name!r} was evaluated, "
            f"such as {changed[0]}; give the data as it was then, or train again"
        )
        raise InputError(msg)
    images = np.stack([fit_to_square(image, size, fit) for image in decoded])
    landmarks = known_landmarks(manifest, rows, [image.shape[:2] for image in decoded], size, fit)
    _detect(landmarks, decoded, detector, size, fit)
    found = networks.probabilities(images, table["fold"].to_numpy(np.int64))
    apart = check_same_network(table, networks.held.classes, found)
    notes = [f"the networks answer up to {apart:.3f} away from the prediction table"] if apart > CLOSE else []
    masks = carriers(source.name, manifest, rows, size, fit)
    return Subjects(table, images, landmarks, masks, targets_of(table, networks.held.classes, target)), notes


def new_subjects(
    networks: FoldNetworks, files: Sequence[Path], fold: int, target: str, detector: Detector | None
) -> Subjects:
    """Return new images, whose label nobody knows, with one fold's answers; their rows count down from -1."""
    held = networks.held
    size, fit = networks.pixels(fold)
    decoded = [decode(file) for file in tqdm(files, "reading", unit="image", delay=1, disable=None)]
    images = np.stack([fit_to_square(image, size, fit) for image in decoded])
    probabilities = networks[fold].scores(images)
    count, names = len(files), np.asarray(held.classes, object)
    known = {
        "row": -1 - np.arange(count),
        "path": [str(file) for file in files],
        "content": [content_hash(image) for image in decoded],
        "cluster": held.predictions["cluster"].max() + 1 + np.arange(count),
        "fold": np.full(count, fold),
        "predicted": names[probabilities.argmax(axis=1)],
    }
    known |= {f"prob_{name}": probabilities[:, index] for index, name in enumerate(held.classes)}
    columns = {name: known.get(name, [""] * count) for name in held.predictions if name != "run_protocol"}
    table = pd.DataFrame(columns)
    landmarks = np.full((count, 5, 2), np.nan, np.float32)
    _detect(landmarks, decoded, detector, size, fit)
    return Subjects(table, images, landmarks, None, targets_of(table, held.classes, target))


def _detect(
    landmarks: np.ndarray, decoded: Sequence[np.ndarray], detector: Detector | None, size: int, fit: Fit
) -> None:
    """Find, in place, the landmarks that are not known yet."""
    if detector is None:
        return
    missing = np.flatnonzero(np.isnan(landmarks).any(axis=(1, 2)))
    for number in tqdm(missing.tolist(), "finding faces", unit="image", delay=1, disable=None):
        landmarks[number] = found_landmarks(detector, decoded[number], size, fit)


def sort_paths(held: HeldOut, manifest: Manifest, names: Sequence[str]) -> tuple[list[int], list[Path]]:
    """Tell which names are images of the run's data, as rows of it, and which are new images, as files.

    A new file that holds the same pixels as a held-out image is that image.

    Raises:
        InputError: It is neither.
    """
    by_path = {path: row for row, path in enumerate(manifest.table["path"])}
    by_content = dict(zip(held.predictions["content"], held.predictions["row"], strict=True))
    root = manifest.root.resolve()
    rows: list[int] = []
    files: list[Path] = []
    for name in names:
        if name in by_path:
            rows.append(by_path[name])
            continue
        try:
            found = find_pictures(name)
        except InputError as error:
            msg = f"--paths: {name} is no image of the run's data, and: {str(error).removeprefix('--data: ')}"
            raise InputError(msg) from error
        for file in found:
            whole = file.resolve()
            inside = whole.relative_to(root).as_posix() if whole.is_relative_to(root) else ""
            if inside in by_path:
                rows.append(by_path[inside])
            elif (row := by_content.get(content_hash(decode(file)))) is not None:
                rows.append(int(row))
            else:
                files.append(file)
    return rows, files


@dataclass(frozen=True)
class ExplainOptions:
    """Options of `emotion explain`.

    Attributes:
        run: A fit or cross-validation: id, its beginning, name, or latest.
        method: lime, kernel-shap, grad-cam or integrated-gradients.
        target: Class to explain: predicted, label, or the name of a class.
        images: How many of each class, and group.
        by: Columns of groups; age+gender is their crossing.
        bins: COLUMN=0,10,18: lower ends of bins of numbers.
        answers: Explain images that were answered correct, wrong, or any.
        rows: These rows of the data instead.
        paths: These images of the data, or new images or folders, instead.
        fold: Whose checkpoint explains new images; by default the first.
        data: Where the run's data is now, None where it was.
        superpixels: How many in an image.
        compactness: Of superpixels.
        samples: Of lime and kernel-shap.
        features: Of lime: keep so many superpixels, None all.
        fill: What replaces a superpixel: mean, superpixel, blur, grey or black.
        steps: Of integrated gradients.
        layer: Of grad-cam: name in the backbone, None the last one with places.
        batch: Samples in one pass.
        seed: Of the choice and the samples.
        top: Superpixels that an image marks.
        faces: Detector that finds landmarks where the data has none.
        compare: Other methods to compare with.
        seeds: Repeats with other seeds.
        resamples: Of intervals.
        permutations: Of tests.
        out: Folder of the report, None for explain-RUN-METHOD.
        not_kept: Keep no numbers and tables with the run.
        log_pictures: Keep maps and overlays with the run, too.
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
    """Explain, write, print and keep; 1 when the explanation is no better than chance.

    Raises:
        InputError: Anything that is wrong with the options, the run or its data.
    """
    method, report = _options(options)
    held = HeldOut.of(options.run)
    folder = options.out or Path(f"explain-{held.run_id[:8]}-{method.method}")
    check_folder(folder)
    networks = FoldNetworks(held)
    by = tuple(groupings(held.predictions, options.by, bins=parse_bins(options.bins))) if options.by else ()
    source = Source(*held.manifest(options.data))
    detector = _detector(options.faces)
    subjects, notes = _subjects(options, networks, source, by, detector)
    print(f"run {held.name} [{held.run_id[:8]}], backbone {networks.backbone(int(subjects.table['fold'].iloc[0]))}")
    for line in notes:
        print(f"note: {line}")
    segments = superpixels(subjects.images, method.superpixels, method.compactness)
    explainer = Explainer(subjects, networks, method, segments)
    found = explainer.explain({"target": options.target, "run": held.run_id})
    _tell(found.explained, found.seconds, found.notes)
    summary, files = write(explainer, found, folder, report)
    print("\n" + "\n".join(summary.lines))
    print(f"\nwritten: {folder / 'report.html'}")
    if not options.not_kept:
        if options.log_pictures:
            files += [*(folder / picture.name for picture in summary.pictures), folder / MAPS]
        print(keep(held.run_id, summary, method.method, files))
    return int(not summary.holds)


def _options(options: ExplainOptions) -> tuple[MethodOptions, ReportOptions]:
    """Check what can be checked before a run is opened."""
    named = {name: getattr(options, name) for name in ("superpixels", "compactness", "samples", "features", "fill")}
    named |= {name: getattr(options, name) for name in ("steps", "layer", "batch", "seed")}
    method = MethodOptions(method=known_method(options.method), **named)
    if options.answers not in ANSWERS:
        hint = did_you_mean(options.answers, ANSWERS)
        raise invalid("--answers", f"must be one of {', '.join(ANSWERS)}", options.answers, hint)
    if options.bins and not options.by:
        raise invalid("--bins", "needs --by, whose columns it divides", ", ".join(options.bins))
    if options.rows and options.paths:
        msg = "--rows and --paths: give one of them"
        raise InputError(msg)
    if options.seeds < 0:
        msg = f"--seeds: at least 0, got {options.seeds}; 0 leaves the comparison of seeds out"
        raise InputError(msg)
    if options.images < 1:
        msg = f"--images: at least 1 of each class, got {options.images}"
        raise InputError(msg)
    report = ReportOptions(
        by=tuple(options.by),
        n=options.images,
        top=options.top,
        methods=tuple(known_method(name, "--compare") for name in options.compare),
        seeds=options.seeds if options.method in DRAWS else 0,
        resamples=options.resamples,
        permutations=options.permutations,
        seed=options.seed,
    )
    return method, report


def _detector(name: str | None) -> Detector | None:
    detector = open_detector(name) if name else None
    if detector is not None and not detector.has_landmarks:
        msg = f"--faces: {name} finds faces but tells no landmarks; take yunet:FILE"
        raise InputError(msg)
    return detector


def _subjects(
    options: ExplainOptions,
    networks: FoldNetworks,
    source: Source,
    by: tuple[Grouping, ...],
    detector: Detector | None,
) -> tuple[Subjects, list[str]]:
    held = networks.held
    rows: list[int] = list(options.rows or [])
    files: list[Path] = []
    if options.paths:
        rows, files = sort_paths(held, source.manifest, options.paths)
    if files and rows:
        msg = (
            f"--paths: {len(rows)} of them are images of the run's data and {len(files)} are new; explain the new "
            f"ones apart, since no fold held them out, such as {files[0]}"
        )
        raise InputError(msg)
    if files and by:
        msg = f"--by: new images are in no group, got {', '.join(options.by)}; leave --by out"
        raise InputError(msg)
    if files:
        fold = min(held.members) if options.fold is None else options.fold
        if faces := networks.faces(fold):
            for name in options.paths or ():
                faces.require_crops(f"run {options.run}", "--paths", name, find_pictures(name))
        subjects = new_subjects(networks, files, fold, options.target, detector)
        return subjects, [f"{len(files)} new images, which no fold held out, explained by fold {fold}'s checkpoint"]
    if options.fold is not None:
        msg = f"--fold: is for new images, got {options.fold}; a held-out image has the fold that held it out"
        raise InputError(msg)
    notes: list[str] = []
    if rows:
        places = places_of_rows(held.predictions, _split(held.run_id), rows)
    else:
        places, cells = choose_images(
            held.predictions, held.classes, options.images, by, answers=options.answers, seed=options.seed
        )
        notes = cell_lines(cells, held.predictions, options.images, options.answers)
    table = held.predictions.iloc[places].reset_index(drop=True)
    for cut in (cut for one in by for cut in one.cuts if cut.edges):
        table[cut.column] = cut.values(table)  # the report groups by columns as they are
    subjects, more = held_out_subjects(networks, source, table, options.target, detector)
    return subjects, notes + more


def _split(run_id: str) -> pd.DataFrame | None:
    try:
        return load_table(run_id, "split")
    except InputError:
        return None


def _tell(explained: Explained, seconds: float, notes: tuple[str, ...]) -> None:
    pieces = explained.segments.max(axis=(1, 2)) + 1
    print(f"{len(explained)} images explained by {explained.method}, {seconds:.2f} s each")
    print(f"superpixels: {pieces.mean():.0f} an image ({pieces.min()} to {pieces.max()})")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
