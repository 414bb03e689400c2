"""Describe, check, prepare or cache a set of images, or list the layouts that can be read: `emotion data`."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import InputError, invalid
from datamodules.files.paths import CACHE_BUDGET_GB, cache_root
from datamodules.labels import canonical
from datamodules.read_options import ReadOptions, spellings
from emotion.cli.main import PIXEL_LIMIT_HELP, Parser, not_empty, whole_from

if TYPE_CHECKING:  # these import pandas, which takes a second
    from datamodules.faces.crop import CutOptions
    from datamodules.manifest import Manifest

# Written out, since the modules that define these names import pandas; a test compares them with those modules.
READERS = (
    *("fer2013", "rafdb", "affectnet", "ferplus", "expw", "ckplus", "aihub", "shards", "csv", "jaffe", "kdef", "rafd"),
    *("folder", "pattern", "cafe", "nimh"),
)
FITS = ("crop", "stretch", "pad")
RULES = ("largest", "central")
BORDERS = ("reflect", "pad")
NO_FACE = ("list", "drop", "keep", "centre")
CUT_OPTIONS = ("margin", "size", "rule", "border", "upright", "no_face")  # fields of CutOptions
CACHES = ("pixels", "crops", "unpacked", "drawn", "scenes", "features", "hashes")

READING = "read."  # before the name of a reading option among the parsed arguments

CLEARED = f"delete caches of these kinds: {', '.join(CACHES)}, or all (default: pixels, and with them hashes)"


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` and the options of reading it, after all other options; :func:`open_data` takes them."""
    data = parser.add_argument_group("the images")
    data.add_argument("source", nargs="?", help=argparse.SUPPRESS)
    data.add_argument(
        "--data",
        help=f"a path, reader:path ({', '.join(READERS)}), drawn[:largest=1000,ratio=10], or scenes (default: drawn)",
    )
    data.add_argument("--pixel-limit", type=whole_from(1), metavar="N", help=PIXEL_LIMIT_HELP)
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of reading a data set in both spellings; :func:`reading` returns them.

    Args:
        parser: its own options must have been added before: a short spelling that one of them has is left out.
    """
    group = parser.add_argument_group(
        "how the images are read", "every option may also be written --data.read.NAME, as in --data.read.votes soft"
    )
    for spelling in spellings().values():
        dest = f"{READING}{spelling.name}"
        words = [word for word in spelling.words if word not in parser._option_string_actions]
        takes: dict[str, Any] = {"dest": dest, "default": None}
        if spelling.form in ("list", "names"):
            takes |= {"action": "append", "metavar": spelling.metavar}
            if spelling.form == "list":
                takes |= {"action": "extend", "nargs": "+"}
        elif spelling.choices:
            takes |= {"choices": spelling.choices}
        else:
            takes |= {"metavar": spelling.metavar}
        about = spelling.about.replace("%", "%%")
        if spelling.form == "flag" and words:
            sets: dict[str, Any] = {"dest": dest, "action": "store_const", "const": spelling.sets}
            group.add_argument(*words, **sets, help=about)
        elif words:
            group.add_argument(*words, **takes, help=about)
        takes["help"] = argparse.SUPPRESS if words else about
        group.add_argument(spelling.long, **takes)


def reading(args: argparse.Namespace, **defaults: object) -> ReadOptions:
    """Return the reading options among parsed arguments; `defaults` are those of the command, by field.

    Raises:
        InputError: a value of the wrong type, or out of range.
    """
    from lightning_modules.config import read_options

    values = dict(defaults)
    for name in given_fields(args):
        given = getattr(args, f"{READING}{name}")
        values[name] = spellings()[name].read(given if isinstance(given, list) else [given])
    return read_options(values)


def given_fields(args: argparse.Namespace) -> list[str]:
    """Return the fields of `ReadOptions` that the parsed arguments set."""
    return [name for name in spellings() if getattr(args, f"{READING}{name}") is not None]


def open_data(args: argparse.Namespace) -> "Manifest":
    """Read the data that the arguments of :func:`add_data_arguments` name; drawn faces by default."""
    from datamodules.readers import read

    source = _source(args)
    if source is not None and not source.startswith(("drawn", "scenes:")):
        print(f"reading {source} ...", file=sys.stderr, flush=True)  # a large table takes a while
    return read("drawn" if source is None else source, reading(args))


def _path_after_classes(args: argparse.Namespace) -> None:
    """Take the path of ``--classes happy sad PATH`` as the source, since argparse adds every word to the classes."""
    classes = getattr(args, f"{READING}classes", None)
    if not classes or args.source is not None or args.data is not None:
        return
    last = classes[-1]
    is_path = os.path.lexists(last) or any(sign in last for sign in ("/", "\\", ":"))
    if is_path and canonical(last) is None and last.strip()[:1] not in ("[", "{"):
        args.source = classes.pop()


def _source(args: argparse.Namespace) -> str | None:
    if args.data is not None and args.source is not None and args.data != args.source:
        msg = f"--data: given twice, as {args.source!r} and as {args.data!r}; give it once"
        raise InputError(msg)
    return args.source if args.data is None else args.data


def _add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--faces`` and its options; their defaults are those of ``CutOptions``."""
    faces = parser.add_argument_group("face crops (with --faces; --output is then a folder)")
    faces.add_argument(
        "--faces",
        metavar="DETECTOR",
        help="face detector: haar, yunet:FILE, or FILE.onnx from `emotion detector export`",
    )
    faces.add_argument(
        "--margin", type=float, help="share of the box's longer side that is added on each side (default: 0.25)"
    )
    faces.add_argument("--size", type=int, help="side of the crops in pixels (default: 500)")
    faces.add_argument("--rule", choices=RULES, help="face to use if an image has several (default: largest)")
    faces.add_argument(
        "--border", choices=BORDERS, help="fill outside the image: its reflection, or grey padding (default: reflect)"
    )
    faces.add_argument("--upright", action="store_true", default=None, help="rotate faces so that the eyes are level")
    faces.add_argument(
        "--no-face",
        choices=NO_FACE,
        help="images without a face, which no_face.csv lists: leave them out, with exit status 1 (list) or 0 (drop), "
        "keep the whole image, or take its centre square (default: list)",
    )
    faces.add_argument(
        "--unlabelled",
        action="store_true",
        default=None,
        help="the images have no labels; --data is an image, a folder or a table, as for `emotion predict`",
    )
    faces.add_argument("--workers", type=int, help="number of processes (default: one per core)")


def _describe(args: argparse.Namespace) -> int:
    """Print a summary of the data set, and draw its chart with ``--chart``."""
    from datamodules.describe import describe

    manifest = open_data(args)
    print(describe(manifest, args.sample))
    if args.chart:
        from datamodules.describe import draw_chart  # matplotlib takes a second to import

        for warning in draw_chart(manifest, args.chart):
            print(f"chart            {warning}", file=sys.stderr)
        print(f"chart            {args.chart}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    """Write the manifest, or with ``--faces`` the crops and their manifest; print how to use it."""
    if args.faces is not None:
        return _prepare_faces(args)
    for name in (*CUT_OPTIONS, "unlabelled", "workers"):
        if getattr(args, name) is not None:
            option, rule = f"--{name.replace('_', '-')}", "needs --faces"
            raise invalid(option, rule, getattr(args, name), "add --faces, or leave it out")
    manifest = open_data(args)
    path = Path(args.output).expanduser()
    if path.exists() and not args.overwrite:
        msg = f"--output: {path} exists; give another name, or --overwrite to replace it"
        raise InputError(msg)
    manifest.save(path)
    print(f"{len(manifest):,} images, {len(manifest.classes)} classes: {', '.join(manifest.classes)}")
    for note in manifest.notes:
        print(f"note: {note}")
    if manifest.where_note:
        print(manifest.where_note)
    print(f"written: {path}\nuse it:  --data {path}")
    return 0


def _prepare_faces(args: argparse.Namespace) -> int:
    """Write the face crops; exit status 1 if images without a face were left out and ``--no-face`` is ``list``."""
    from datamodules.faces.prepare import prepare_faces, unlabelled_images

    options = _cut_options(args)
    source = _source(args)
    manifest = unlabelled_images(source) if args.unlabelled and source is not None else open_data(args)
    output = Path(args.output).expanduser()
    done = prepare_faces(manifest, args.faces, output, options, workers=args.workers, fresh=args.overwrite)
    total = len(manifest)
    print(f"{total:,} images: a face in {done.found:,} (several in {done.several:,}), none in {done.empty:,}")
    if done.unreadable:
        print(f"{done.unreadable:,} cannot be read")
    before = f", {total - done.done:,} were done before" if done.done < total else ""
    for note in manifest.notes:
        print(f"note: {note}")
    print(f"processed {done.done:,}{before}" + (f"; {done.removed:,} old crops removed" if done.removed else ""))
    left = total - len(done.manifest)
    if done.empty or done.unreadable:
        print(f"listed: {output / 'no_face.csv'}")
    print(f"written: {output / 'manifest.csv'} ({len(done.manifest):,} crops of {options.size} px), boxes.csv")
    print(f"use it:  --data {output / 'manifest.csv'}")
    if (finder := done.manifest.detector) not in ("", "haar"):
        print(f"a model trained on them finds faces in photographs with {finder}; keep that file there")
    if left and options.no_face == "list":
        print(f"left out: {left:,} of {total:,}; choose --no-face drop, keep or centre to end with exit status 0")
        return 1
    return 0


def _cut_options(args: argparse.Namespace) -> "CutOptions":
    from datamodules.faces.crop import CutOptions

    if args.workers is not None and args.workers < 1:
        raise invalid("--workers", "must be at least 1", args.workers)
    return CutOptions(**{name: getattr(args, name) for name in CUT_OPTIONS if getattr(args, name) is not None})


def _check(args: argparse.Namespace) -> int:
    """Find unreadable, duplicate and doubtful images; exit status 1 on errors."""
    from datamodules.audit import run_check

    fix, sheet, table = (Path(p).expanduser() if p else None for p in (args.fix, args.sheet, args.table))
    return run_check(open_data(args), near=not args.no_near, fix=fix, sheet=sheet, table=table)


def _cache(args: argparse.Namespace) -> int:
    """List the caches, build one, or clear them."""
    from datamodules.cache import build_cache, cache_clear, cache_list, decoding_notes

    if args.clear is not None:
        freed = cache_clear(kinds=args.clear or ("pixels",))
        print(f"freed {freed / 1e9:.2f} GB")
    elif _source(args) is not None:
        manifest = open_data(args)
        cache = build_cache(manifest, args.size, fit=args.fit, budget_gb=args.budget_gb, on_full="error")
        broken = int((cache.index["error"] != "").sum())
        print(f"{len(manifest):,} images at {args.size} px: {cache.directory}")
        if broken:
            print(f"{broken:,} cannot be read; `emotion data check` lists them")
        for note in (*manifest.notes, *decoding_notes(cache)):
            print(f"note: {note}")
    else:
        table = cache_list()
        print(table.to_string(index=False, na_rep="") if len(table) else "no caches")
        if len(table):
            sums = table.groupby("kind", sort=False)["gigabytes"].sum()
            listed = ", ".join(f"{kind} {size:.2f}" for kind, size in sums.items())
            print(f"\n{sums.sum():.2f} GB in {cache_root()}: {listed}")
    return 0


def _layouts(args: argparse.Namespace) -> int:
    """Print the layouts that can be read, with their files and the command for each."""
    from datamodules.layouts import LAYOUTS

    for layout in LAYOUTS:
        print(f"{layout.title}  [{layout.reader}]\n    {layout.looks}\n    emotion data describe --data {layout.data}")
    print("\nPATH is a folder, an archive (.zip, .tar, .tgz) or a file; `emotion fit` takes the same options")
    return 0


def _sentence(about: str) -> str:
    """Return a line of the list of commands as a sentence."""
    return f"{about[0].upper()}{about[1:]}."


def _parser() -> argparse.ArgumentParser:
    """Return the parser of `emotion data`."""
    top = Parser(prog="emotion data", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="describe|check|prepare|cache|layouts")

    about = "print class counts, imbalance, groups and sizes of a data set; with --chart draw a bar chart"
    sub = commands.add_parser("describe", help=about, description=_sentence(about))
    sub.add_argument(
        "--chart", type=not_empty, metavar="FILE.png", help="draw a bar chart of the class counts into this file"
    )
    sub.add_argument(
        "--sample", type=int, default=500, help="number of image headers to read for the sizes (default: %(default)s)"
    )
    add_data_arguments(sub)
    sub.set_defaults(run=_describe)

    about = "find unreadable, duplicate and doubtful images; exit status 1 if there are errors"
    sub = commands.add_parser("check", help=about, description=_sentence(about))
    sub.add_argument(
        "--fix",
        type=not_empty,
        metavar="FILE",
        help="write a manifest (.csv or .parquet) without unreadable images, images of "
        "one tone, equal images but one, and duplicates in another part of a given split; no image is deleted",
    )
    sub.add_argument("--sheet", type=not_empty, metavar="FILE.png", help="draw a contact sheet of the findings")
    sub.add_argument("--table", type=not_empty, metavar="FILE.csv", help="write all findings into a table")
    sub.add_argument("--no-near", action="store_true", help="look for exact duplicates only")
    add_data_arguments(sub)
    sub.set_defaults(run=_check)

    about = "write the manifest of a data set, to edit and to use as --data; with --faces write face crops"
    sub = commands.add_parser("prepare", help=about, description=_sentence(about))
    sub.add_argument(
        "--output", type=not_empty, required=True, metavar="FILE", help="a .csv or .parquet file; with --faces a folder"
    )
    sub.add_argument(
        "--overwrite", action="store_true", help="replace the file if it exists; with --faces redo all images"
    )
    _add_face_arguments(sub)
    add_data_arguments(sub)
    sub.set_defaults(run=_prepare)

    about = "list the caches; with --data build one; with --clear delete some"
    sub = commands.add_parser("cache", help=about, description=_sentence(about))
    sub.add_argument("--size", type=int, default=64, help="side of the cached images in pixels (default: %(default)s)")
    sub.add_argument("--fit", choices=FITS, default="crop", help="how an image is made square (default: %(default)s)")
    sub.add_argument(
        "--budget-gb",
        type=float,
        default=CACHE_BUDGET_GB,
        help="disk space that all pixel caches together may use (default: %(default)g)",
    )
    sub.add_argument("--clear", nargs="*", metavar="KIND", help=CLEARED)
    add_data_arguments(sub)
    sub.set_defaults(run=_cache)

    about = "list the layouts that can be read, with the command for each"
    sub = commands.add_parser("layouts", help=about, description=_sentence(about))
    sub.set_defaults(run=_layouts)
    return top


def main(args: list[str]) -> int:
    """Run `emotion data ...` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    chosen = _parser().parse_args(args[1:])
    _path_after_classes(chosen)
    try:
        from datamodules.files.images import limited_to

        with limited_to(getattr(chosen, "pixel_limit", None)):
            return int(chosen.run(chosen))
    except BrokenPipeError:  # `emotion data describe | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
