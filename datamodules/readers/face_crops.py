"""Face crops: how the faces were cut out that a run was trained on, and whether images are face crops."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.files.paths import build_once, cache_root, file_hashes
from datamodules.manifest import FACE_SOURCE, SIDES, Manifest, read_table
from datamodules.processes import cores, processes
from datamodules.readers.base import ReadOptions

if TYPE_CHECKING:
    from datamodules.faces.crop import CutOptions

SOURCE, DETECTOR, SIZE, MARGIN = FACE_SOURCE, "face_detector", "face_size", "face_margin"
CUT, DIGEST = "face_cut", "face_digest"
"""Columns that `emotion data prepare --faces` writes: photograph, detector, side of the crop in pixels, margin; the
rule, the border and whether faces were turned upright, such as ``largest reflect``; the hash of the detector's file."""

WITH_FILE = {"yunet": "yunet:FILE", "haar": "haar"}  # a manifest keeps a detector's name, not its file


@dataclass(frozen=True)
class FaceCrops:
    """How the faces of a run's images were cut out of photographs.

    Args:
        finder: ``boxes`` (those of the data set), or the detector as a value of ``--faces``.
        size: Side of the crops in pixels; None where it is not known.
        margin: Share of the box's longer side added on every side; None where it is not known.
        digest: First 16 hex digits of the SHA-256 of the detector's file; "" where it has none, or is not known.
        cut: Which face was chosen, what lies beyond the border of an image, and ``upright`` where eyes were levelled.
    """

    finder: str
    size: int | None = None
    margin: float | None = None
    digest: str = ""
    cut: str = "largest reflect"

    @classmethod
    def of(cls, manifest: Manifest, options: ReadOptions) -> "FaceCrops | None":
        """Return how the faces of a data set were cut out when it was read or prepared; None for whole images."""
        if options.faces is not None:
            from datamodules.faces.detectors import model_digest

            finder = str(options.faces)
            return cls(finder, options.face_size, options.face_margin, model_digest(finder))
        if SOURCE not in manifest.table:
            return None
        crops = manifest.table[manifest.table[SOURCE] != ""]
        if crops.empty:
            return None
        detector, size, margin, cut, digest = (
            _most_frequent(crops, column) for column in (DETECTOR, SIZE, MARGIN, CUT, DIGEST)
        )
        finder = WITH_FILE.get(detector, f"{detector}.onnx") if detector else BOXES
        if manifest.detector and detector not in ("", "haar"):  # written by `emotion data prepare --faces`
            finder = manifest.detector
        return cls(finder, int(size) if size else None, float(margin) if margin else None, digest, cut or cls.cut)

    def same_as(self, other: "FaceCrops | None") -> bool:
        """Return whether faces were cut in the same way; the detector's file may lie elsewhere."""
        if other is None:
            return False
        if self.digest and self.digest == other.digest:
            other = replace(other, finder=self.finder)
        return self == other

    def __str__(self) -> str:
        return "faces cut at the boxes of its data set" if self.finder == BOXES else f"faces cut by {self.finder}"

    def options(self) -> "CutOptions":
        """Return how to cut; what is not known is as `emotion data prepare` does it."""
        from datamodules.faces.crop import CutOptions

        usual = ReadOptions()
        margin = usual.face_margin if self.margin is None else self.margin
        rule, border, *upright = self.cut.split()
        return CutOptions(
            margin=margin,
            size=self.size or usual.face_size,
            rule=rule,  # type: ignore[arg-type] # CutOptions checks both
            border=border,  # type: ignore[arg-type]
            upright=bool(upright),
        )

    def require_detector(self, run: str) -> str:
        """Return the detector that finds faces in photographs as in the training images.

        Args:
            run: Name of the model, for the message.

        Raises:
            InputError: The faces were cut by boxes of the data set, or the detector's file is not known, not there or
                another one.
        """
        from datamodules.faces.detectors import model_digest, model_file

        replace_it = "name a detector with --faces haar, --faces yunet:FILE or --faces FILE.onnx"
        if self.finder == BOXES:
            msg = f"--faces: {run} was trained on {self}, which photographs do not have; {replace_it}"
            raise InputError(msg)
        if self.finder == WITH_FILE["yunet"]:
            msg = f"--faces: {run} was trained on {self}, and its record does not name the file; {replace_it}"
            raise InputError(msg)
        file = model_file(self.finder)
        if file is not None and not file.is_file():
            msg = f"--faces: {run} was trained on faces cut by {file}, which does not exist here; {replace_it}"
            raise InputError(msg)
        if self.digest and model_digest(self.finder) != self.digest:
            msg = (
                f"--faces: the detector's file {file} has changed since {run} was trained (SHA-256 begins with "
                f"{model_digest(self.finder)}, was {self.digest}); bring the old file back, or {replace_it}"
            )
            raise InputError(msg)
        return self.finder


def same_faces(one: FaceCrops | None, other: FaceCrops | None) -> bool:
    """Return whether two models take the same images: whole ones, or faces cut in the same way."""
    return other is None if one is None else one.same_as(other)


def list_crops(source: str, images: Sequence[Path]) -> set[Path]:
    """Return those of the images, resolved, that a manifest of `emotion data prepare --faces` lists as face crops.

    Args:
        source: What named the images: a folder, a table or an image.
        images: The images found there.
    """
    whole = {path.resolve() for path in _not_crops(source, images)}
    return {path.resolve() for path in images} - whole


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
    """Return which rows are face crops; such a table may also contain whole photographs without a face."""
    is_face = table[SOURCE].fillna("") != ""
    return is_face & (table["face"] == "face") if "face" in table else is_face


def _crops_of(manifest: Path) -> list[Path]:
    """Return the face crops that a manifest.csv lists; none if it cannot be read as a manifest."""
    try:
        if not manifest.is_file() or not {"path", SOURCE} <= set(read_table(manifest, columns_only=True)):
            return []
        table = read_table(manifest)
    except InputError:
        return []
    return [(manifest.parent / name).resolve() for name in table.loc[_is_crop(table), "path"]]


_ERRORS = "errors.parquet"  # in a folder of crops: the rows without one
BOXES = "boxes"  # faces are cut where the data set itself says that they are


def cut_out(manifest: Manifest, options: "ReadOptions") -> Manifest:
    """Return the data set with its faces cut out, found by a detector or given by the boxes of the data set.

    An image without a face stays, whole and with grey beside it, so that every detector gives the same rows. Where
    rows are faces, each is cut out at its own box.

    Args:
        manifest: The photographs.
        options: ``faces`` is the detector or ``boxes``; ``face_size`` and ``face_margin`` are those of the crops.

    Raises:
        InputError: No such detector, no boxes, a box without an image that can be read, or nothing can be written.
    """
    if manifest.row_boxes is not None:
        return _by_rows(manifest, options)
    faces = str(options.faces)
    if faces == BOXES:
        return _by_boxes(manifest, options)
    from datamodules.faces.crop import CutOptions
    from datamodules.faces.detectors import FIND_VERSION, open_detector
    from datamodules.faces.prepare import prepare_faces

    cut = CutOptions(size=options.face_size, margin=options.face_margin, no_face="keep")
    folder = _folder(manifest, options, FIND_VERSION, open_detector(faces).identity, cut)
    done = prepare_faces(manifest, faces, folder, cut)
    note = f"faces cut by {faces}: found in {done.found} of {len(manifest)} images, the others are whole"
    return replace(done.manifest, notes=(*manifest.notes, note))


def _folder(manifest: Manifest, options: "ReadOptions", *more: object) -> Path:
    """Return the cache folder of the crops, named by a hash of all that they depend on, the photographs' bytes too.

    Args:
        manifest: The photographs; the crops are the same if they are moved to another folder.
        options: Size and margin of the crops.
        more: The detector, or the boxes.
    """
    from datamodules.faces.crop import CUT_VERSION, QUALITY  # pulls in OpenCV, which other readers do not need
    from datamodules.files.images import decoding

    contents = file_hashes(manifest.root, manifest.table["path"].tolist())
    made_by = (CUT_VERSION, *decoding(), QUALITY, options.face_size, options.face_margin, *more)
    made_of = hashlib.sha256(repr((manifest.fingerprint(), contents, made_by)).encode())
    return cache_root() / "crops" / made_of.hexdigest()[:24]


def median_boxes(boxes: pd.DataFrame) -> pd.DataFrame:
    """Return one box per image, by path: the median of each side over the annotators."""
    return boxes.groupby("path", sort=False)[list(SIDES)].median()


def _by_boxes(manifest: Manifest, options: "ReadOptions") -> Manifest:
    if manifest.boxes is None:
        msg = f"{manifest.name}: faces=boxes needs a data set with face boxes; name a detector, such as haar"
        raise InputError(msg)
    boxes = median_boxes(manifest.boxes).reindex(manifest.table["path"])
    crops = _write_faces(manifest, boxes.to_numpy(np.float64), options)
    missing = int(boxes["x0"].isna().sum())
    note = f"faces cut by the data set's own boxes, {missing} of {len(manifest)} images have none and are whole"
    return replace(crops, boxes=None, notes=(*manifest.notes, note, *crops.notes[len(manifest.notes) :]))


def _by_rows(manifest: Manifest, options: "ReadOptions") -> Manifest:
    """Return the faces of a manifest whose rows are faces, each cut out at its box; `face_source` is its photograph."""
    if options.faces not in (None, BOXES):
        msg = (
            f"{manifest.name}: each row labels one face, and {options.faces} cannot tell which; leave "
            "--data.read.faces out, and the faces are cut out at the boxes of the data set"
        )
        raise InputError(msg)
    boxes = manifest.row_boxes
    assert boxes is not None
    crops = _write_faces(manifest, boxes, options)
    how = {SIZE: str(options.face_size), MARGIN: f"{options.face_margin:g}"}
    note = (
        f"{len(manifest)} labelled faces cut out of {manifest.table['path'].nunique()} images at their boxes; faces of "
        "one image stay in one part"
    )
    if whole := int(np.isnan(boxes).any(axis=1).sum()):
        note += f"; {whole} have no box and are whole images"
    table = crops.table.drop(columns=list(SIDES)).assign(**how)
    return replace(crops, table=table, notes=(*manifest.notes, note, *crops.notes[len(manifest.notes) :]))


def _write_faces(manifest: Manifest, boxes: np.ndarray, options: "ReadOptions") -> Manifest:
    """Cut the box of each row out, once, and return the manifest of the crops.

    Raises:
        InputError: A face cannot be cut out, and ``bad_records`` is not ``drop``.
    """
    from datamodules.faces.prepare import write_crops

    folder = _folder(manifest, options, BOXES, boxes.tolist())
    files = [manifest.file(row) for row in range(len(manifest))]
    workers = 0 if folder.is_dir() or len(files) < 128 else cores()
    with processes(workers) as pool, build_once(folder) as (place, draft):  # in this order, see `processes`
        if draft is not None:
            errors = write_crops(files, boxes, draft, options.face_size, options.face_margin, pool)
            errors.to_parquet(draft / _ERRORS)
    errors = pd.read_parquet(place / _ERRORS)
    paths = [f"{row:07d}.jpg" for row in range(len(manifest))]
    table = manifest.table.assign(path=paths, **{SOURCE: manifest.plain_paths})
    notes = manifest.notes
    if len(errors):
        first = errors["error"].iat[0]
        if options.bad_records != "drop":
            msg = (
                f"{manifest.name}: {len(errors)} of {len(manifest)} faces cannot be cut out, the first: {first}; "
                "correct it, or leave such faces out with --bad-records drop"
            )
            raise InputError(msg)
        notes = (*notes, f"{len(errors)} faces left out that cannot be cut out, the first: {first}")
        table = table.drop(index=errors["row"]).reset_index(drop=True)
    return replace(manifest, root=place.resolve(), table=table, notes=notes, sets=())
