"""What `emotion explain` does, step by step."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.faces.detector import Detector, open_detector
from datamodules.pictures import find_pictures
from lightning_modules.explain import DRAWS, Explainer, Subjects, check_folder, keep, write
from lightning_modules.explain_choice import ANSWERS, Answers, cell_lines, choose, places_of_rows
from lightning_modules.explain_folds import FoldNetworks, HeldOut
from lightning_modules.explain_subjects import Source, held_out_subjects, new_subjects, sort_paths
from records.bias.columns import Grouping, groupings
from records.bias.cuts import parse_bins
from records.explain.explained import Explained
from records.explain.methods import MethodOptions, known_method
from records.explain.report import ReportOptions
from records.explain.stored import MAPS
from records.explain.superpixels import Fill, superpixels
from records.runs import load_table


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
        paths: These pictures of the data, or new pictures or folders, instead.
        fold: Whose checkpoint explains new pictures; by default the first.
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
    if detector is not None and not detector.tells_eyes:
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
            f"--paths: {len(rows)} of them are pictures of the run's data and {len(files)} are new; explain the new "
            f"ones apart, since no fold held them out, such as {files[0]}"
        )
        raise InputError(msg)
    if files and by:
        msg = f"--by: new pictures are in no group, got {', '.join(options.by)}; leave --by out"
        raise InputError(msg)
    if files:
        fold = min(held.members) if options.fold is None else options.fold
        if faces := networks.faces(fold):
            for name in options.paths or ():
                faces.require_crops(f"run {options.run}", "--paths", name, find_pictures(name))
        subjects = new_subjects(networks, files, fold, options.target, detector)
        return subjects, [f"{len(files)} new pictures, which no fold held out, explained by fold {fold}'s checkpoint"]
    if options.fold is not None:
        msg = f"--fold: is for new pictures, got {options.fold}; a held-out image has the fold that held it out"
        raise InputError(msg)
    notes: list[str] = []
    if rows:
        places = places_of_rows(held.predictions, _split(held.run_id), rows)
    else:
        places, cells = choose(
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
