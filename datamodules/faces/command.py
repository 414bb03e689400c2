"""The options of `emotion data prepare --faces`, and what it prints."""

import argparse
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.face_crops import images_root
from datamodules.labels import VOCABULARIES
from datamodules.manifest import Manifest, make_manifest

UNLABELLED = "unlabelled"  # label of images without a label


def add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--faces`` and what goes with it; the defaults stand in ``CutOptions``."""
    faces = parser.add_argument_group("cutting faces out (with --faces; --output is then a folder)")
    faces.add_argument("--faces", metavar="DETECTOR", help="haar, yunet:FILE, or FILE.onnx of a detector trained here")
    faces.add_argument("--margin", type=float, help="share of the box's longer side added on every side [0.25]")
    faces.add_argument("--size", type=int, help="side of the crops in pixels [500]")
    faces.add_argument("--rule", choices=("largest", "central"), help="which of several faces [largest]")
    faces.add_argument("--border", choices=("reflect", "pad"), help="outside the picture: mirrored or grey [reflect]")
    faces.add_argument("--upright", action="store_true", default=None, help="turn faces until the eyes are level")
    faces.add_argument(
        "--no-face",
        choices=("list", "drop", "keep", "centre"),
        help="pictures without a face, which no_face.csv lists: left out, with exit status 1 (list) or 0 (drop); "
        "kept whole; or their middle square [list]",
    )
    faces.add_argument(
        "--unlabelled",
        action="store_true",
        default=None,
        help="the images have no labels; --data is an image, a folder or a table, as for `emotion predict`",
    )
    faces.add_argument("--workers", type=int, help="processes [one a core]")


def unlabelled_images(source: str) -> Manifest:
    """Return a manifest of unlabelled images, the same images that `emotion predict` finds.

    Args:
        source: An image, a folder, or a table of paths.

    Raises:
        InputError: There is no image.
    """
    from datamodules.pictures import find_pictures  # torch takes seconds to import

    images = find_pictures(source)
    root = images_root(source, images)
    table = pd.DataFrame({"path": [path.absolute().relative_to(root.absolute()).as_posix() for path in images]})
    classes = (UNLABELLED, *VOCABULARIES["fer2013"])  # a manifest needs at least two classes
    return make_manifest(table.assign(label=UNLABELLED), root, name=root.resolve().name, classes=classes)


def prepare_faces_command(manifest: Manifest, args: argparse.Namespace) -> int:
    """Cut the faces, say what was found; exit status 1 where pictures were left out and nobody had chosen that."""
    from datamodules.faces.prepare import prepare_faces
    from datamodules.faces.work import CutOptions

    if args.workers is not None and args.workers < 1:
        msg = f"workers must be at least 1, got {args.workers}"
        raise InputError(msg)
    names = ("margin", "size", "rule", "border", "upright", "no_face")
    options = CutOptions(**{name: getattr(args, name) for name in names if getattr(args, name) is not None})
    output = Path(args.output).expanduser()
    done = prepare_faces(manifest, args.faces, output, options, workers=args.workers, fresh=args.overwrite)
    total = len(manifest)
    print(f"{total:,} pictures: a face in {done.found:,} (several in {done.several:,}), none in {done.empty:,}")
    if done.unreadable:
        print(f"{done.unreadable:,} cannot be read")
    stood = f", {total - done.done:,} stood already" if done.done < total else ""
    print(f"worked on {done.done:,}{stood}" + (f"; {done.removed:,} old crops removed" if done.removed else ""))
    left = total - len(done.manifest)
    if done.empty or done.unreadable:
        print(f"listed: {output / 'no_face.csv'}")
    print(f"written: {output / 'manifest.csv'} ({len(done.manifest):,} crops of {options.size} px), boxes.csv")
    print(f"use it:  --data {output / 'manifest.csv'}")
    if left and options.no_face == "list":
        print(f"left out: {left:,} of {total:,}; choose --no-face drop, keep or centre to end with exit status 0")
        return 1
    return 0


def refuse_without_faces(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing without ``--faces``."""
    for name in ("margin", "size", "rule", "border", "upright", "no_face", "unlabelled", "workers"):
        if getattr(args, name) is not None:
            msg = f"{name} is about cutting faces; add --faces haar, yunet:FILE or FILE.onnx, or leave it out"
            raise InputError(msg)
