"""Face crops: how the faces were cut out that a run was trained on, and whether images are face crops."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import Manifest, read_table
from datamodules.places import images_root
from datamodules.readers.common import ReadOptions

SOURCE, DETECTOR, SIZE, MARGIN = "face_source", "face_detector", "face_size", "face_margin"
"""Columns that `emotion data prepare --faces` writes: photograph, detector, side of the crop in pixels, margin."""

BOXES = "boxes"
WITH_FILE = {"yunet": "yunet:FILE", "haar": "haar"}  # a manifest keeps a detector's name, not its file


@dataclass(frozen=True)
class FaceCrops:
    """How the faces of a run's images were cut out of photographs.

    Args:
        finder: ``boxes`` (those of the data set), or the detector as a value of ``--faces``.
        size: Side of the crops in pixels; None where it is not known.
        margin: Share of the box's longer side added on every side; None where it is not known.
    """

    finder: str
    size: int | None = None
    margin: float | None = None

    @classmethod
    def of(cls, manifest: Manifest, options: ReadOptions) -> "FaceCrops | None":
        """Return how the faces of a data set were cut out when it was read or prepared; None for whole images."""
        if options.faces is not None:
            return cls(str(options.faces), options.face_size, options.face_margin)
        if SOURCE not in manifest.table:
            return None
        crops = manifest.table[manifest.table[SOURCE] != ""]
        if crops.empty:
            return None
        detector, size, margin = (_most_frequent(crops, column) for column in (DETECTOR, SIZE, MARGIN))
        finder = WITH_FILE.get(detector, f"{detector}.onnx") if detector else BOXES
        return cls(finder, int(size) if size else None, float(margin) if margin else None)

    def __str__(self) -> str:
        return "faces cut at the boxes of its data set" if self.finder == BOXES else f"faces cut by {self.finder}"

    def command(self, source: str, output: str) -> str:
        """Return the command that cuts the faces out of unlabelled photographs in the same way.

        Photographs outside of a data set have no boxes, so ``boxes`` is replaced by the detector ``haar``.
        """
        usual = ReadOptions()
        words = ["emotion", "data", "prepare", "--faces", "haar" if self.finder == BOXES else self.finder]
        if self.margin not in (None, usual.face_margin):
            words += ["--margin", f"{self.margin:g}"]
        if self.size not in (None, usual.face_size):
            words += ["--size", str(self.size)]
        return shlex.join([*words, "--unlabelled", "--data", source, "--output", output])

    def require_crops(self, run: str, option: str, source: str, images: Sequence[Path]) -> None:
        """Raise unless all images are face crops.

        Args:
            run: Name of the model that was trained on face crops, for the message.
            option: The option that named the images.
            source: The value of that option.
            images: The images found there.

        Raises:
            InputError: An image is listed in no manifest of `emotion data prepare --faces`.
        """
        whole = _not_crops(source, images)
        if not whole:
            return
        root = images_root(source, images).resolve()
        output = root.parent / f"{root.name}-faces"
        shown = str(output.relative_to(Path.cwd())) if output.is_relative_to(Path.cwd()) else str(output)
        table = shlex.quote(str(Path(shown) / "manifest.csv"))
        msg = (
            f"{option}: {run} was trained on {self}, and {len(whole)} of the {len(images)} images in {source} are not "
            f"face crops; cut the faces out with `{self.command(source, shown)}`, then use {option} {table}"
        )
        raise InputError(msg)


def _most_frequent(table: pd.DataFrame, column: str) -> str:
    """Return the value that most rows have; "" if there is none."""
    values = table[column] if column in table else pd.Series(dtype=str)
    counts = values[values != ""].value_counts()
    return str(counts.index[0]) if len(counts) else ""


def _not_crops(source: str, images: Sequence[Path]) -> list[Path]:
    """Return the images that are listed as crops neither in the source's table nor in a manifest.csv above them."""
    place = Path(source).expanduser().resolve()
    if place.is_file() and place.suffix.lower() in (".csv", ".parquet"):
        if SOURCE in read_table(place, columns_only=True):
            crop = _is_crop(read_table(place))
            return [path for path, face in zip(images, crop, strict=True) if not face]
        folders = {folder for path in images for folder in path.resolve().parents}
    else:
        folders = {place, *place.parents}
    crops = {file for folder in folders for file in _crops_of(folder / "manifest.csv")}
    return [path for path in images if path.resolve() not in crops]


def _is_crop(table: pd.DataFrame) -> pd.Series:
    """Return which rows are face crops; a photograph without a face may stand in such a table whole."""
    found = table[SOURCE].fillna("") != ""
    return found & (table["face"] == "face") if "face" in table else found


def _crops_of(manifest: Path) -> list[Path]:
    """Return the face crops that a manifest.csv lists; one that cannot be read is somebody else's and lists none."""
    try:
        if not manifest.is_file() or not {"path", SOURCE} <= set(read_table(manifest, columns_only=True)):
            return []
        table = read_table(manifest)
    except InputError:
        return []
    return [(manifest.parent / name).resolve() for name in table.loc[_is_crop(table), "path"]]
