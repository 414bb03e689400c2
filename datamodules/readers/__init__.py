"""Readers: each turns one published layout into a manifest; `read` chooses the reader of a data set."""

import re
import shlex
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.files.image_files import IMAGE_SUFFIXES, LeftOut, collect_left_out, image_files
from datamodules.files.paths import on_disk, path_text
from datamodules.manifest import Manifest
from datamodules.readers.base import ReadOptions, finish, keep_classes
from datamodules.readers.face_crops import BOXES, SOURCE, cut_out
from datamodules.readers.names import unwrapped
from datamodules.readers.subsets import join, leave_out, sources
from datamodules.readers.table import apply_votes

__all__ = ["IMAGE_SUFFIXES", "READERS", "ReadOptions", "Reader", "image_files", "read", "recognise"]


@dataclass(frozen=True)
class Reader:
    """Reader of one published layout.

    Args:
        about: one line for the list of readers.
        place: ``module:function`` that reads a path into a manifest, given the path, the options and the set's name;
            it ends in ``base.finish``. The module is imported on first use.
        recognises: function of the same module that returns whether a path has this layout; the first reader in
            ``READERS`` that returns true is used.
        voted: it takes annotators' votes, and raises if they are asked for and are not there.
    """

    about: str
    place: str
    recognises: str = "looks_like"
    voted: bool = False

    def looks_like(self, path: Path) -> bool:
        """Return whether a path has this layout."""
        return bool(getattr(self._module, self.recognises)(path))

    def read(self, path: Path, options: ReadOptions, name: str) -> Manifest:
        """Return the manifest of a path.

        Raises:
            InputError: the data set breaks a rule of its layout.
        """
        manifest: Manifest = getattr(self._module, self.place.partition(":")[2])(path, options, name)
        return manifest

    @property
    def _module(self) -> ModuleType:
        return import_module(f"datamodules.readers.{self.place.partition(':')[0]}")


READERS: dict[str, Reader] = {
    "fer2013": Reader("FER2013's CSV of pixels, with FER+ votes beside it", "fer2013:read", voted=True),
    "rafdb": Reader(
        "RAF-DB, as published or as Kaggle's class folders 1 to 7", "face_sets:read_rafdb", "rafdb_looks_like"
    ),
    "affectnet": Reader(
        "AffectNet, .npy annotations or its older lists", "face_sets:read_affectnet", "affectnet_looks_like"
    ),
    "ferplus": Reader("FER+, the folders of its script", "face_sets:read_ferplus", "ferplus_looks_like", voted=True),
    "expw": Reader("ExpW, one row per face in label.lst", "face_sets:read_expw", "expw_looks_like"),
    "ckplus": Reader("CK+, sequences and their labels", "face_sets:read_ckplus", "ckplus_looks_like"),
    "aihub": Reader("AI-Hub's Korean set: photographs, and JSON of three annotators", "aihub:read", voted=True),
    "shards": Reader(
        "Parquet files of Hugging Face, or WebDataset tar files, that hold the images", "shards:read", voted=True
    ),
    "csv": Reader("a table (CSV, TSV, JSON lines, Parquet) with a file and a label column", "table:read", voted=True),
    "jaffe": Reader("JAFFE, ten women, by its file names", "names:read_jaffe", "jaffe_looks_like"),
    "kdef": Reader("KDEF, 70 adults from five angles, by its file names", "names:read_kdef", "kdef_looks_like"),
    "rafd": Reader("RaFD, three gazes and five angles, by its file names", "names:read_rafd", "rafd_looks_like"),
    "folder": Reader("one folder per class, below train/validation/test if given", "folder:read"),
    "pattern": Reader("labels in the file names, by a regular expression", "names:read_pattern", "pattern_looks_like"),
    "cafe": Reader("CAFE, children of 2 to 8 years, by its file names", "names:read_cafe"),
    "nimh": Reader("NIMH-ChEFS, 10 to 17 years, two gazes, by its file names", "names:read_nimh"),
}


DRAWN = ("drawn", "scenes")  # sources that are drawn, not read from a path


def recognise(path: str | Path) -> str:
    """Return the name of the first reader that knows the layout of a file or folder (archives: once unpacked).

    Raises:
        InputError: the path does not exist, or no reader knows its layout.
    """
    path = Path(path)
    if not path.exists():
        msg = f"no file or folder {path}"
        raise InputError(msg)
    return _locate(path)[0]


def _locate(path: Path) -> tuple[str, Path]:
    """Return the reader of a file or folder, and the folder to give it: folders that only wrap are looked through."""
    for place in unwrapped(path):
        for name, reader in READERS.items():
            if name != "folder" and reader.looks_like(place):
                return name, place
    if READERS["folder"].looks_like(path):
        return "folder", path
    msg = (
        f"no reader knows {path}; there are readers of folders, archives and tables: {', '.join(READERS)}. `emotion "
        "data layouts` lists the layouts that can be read"
    )
    raise InputError(msg)


# Folders inside of a published set, which people give instead of the set.
_INNER = (
    "aligned",
    "original",
    "origin",
    "image",
    "images",
    "annotations",
    "emolabel",
    "emotion",
    "cohn-kanade-images",
)


def _above(path: Path) -> str:
    """Return the advice to give a folder above, where that has a published layout; "" otherwise."""
    while path.name.lower() in _INNER:
        path = path.parent
        for name in ("rafdb", "affectnet", "expw", "ckplus"):
            if READERS[name].looks_like(path):
                return f"; the folder above has the layout {name}: --data {shlex.quote(str(path))}"
    return ""


def read(source: str, options: ReadOptions = ReadOptions()) -> Manifest:  # noqa: B008 - frozen
    """Read a data set into a manifest.

    Args:
        source: a path (the layout is recognised, an archive is unpacked once), ``reader:path``; ``drawn`` and
            ``drawn:largest=1000,ratio=10,seed=0`` for drawn faces; ``scenes`` and ``scenes:images=700,size=640,seed=0``
            for drawn scenes in the layout of AI-Hub's Korean set; several joined by ``+``, each with its reader:
            ``cafe:FOLDER+nimh:FOLDER``.
        options: labels, votes and columns; ``faces``, to cut the faces out of the images; and ``exclude``, which leaves
            listed images out at the end.

    Raises:
        InputError: the path does not exist, there is no such reader (the nearest is named), or a rule is broken.
    """
    parts = sources(str(source).strip())
    if len(parts) == 1:
        manifest = _read(parts[0], options)
    else:
        sets = (_read(part, options) for part in parts)
        manifest = join([one if one.row_boxes is None else cut_out(one, options) for one in sets])
    manifest = keep_classes(manifest, options)
    cut = options.faces == BOXES and manifest.boxes is None and SOURCE in manifest.table  # by the reader itself
    if (options.faces is not None and not cut) or manifest.row_boxes is not None:
        manifest = cut_out(manifest, options)
    return manifest if options.exclude is None else leave_out(manifest, options.exclude)


def _read(source: str, options: ReadOptions) -> Manifest:
    if source == "drawn" or source.startswith("drawn:"):
        return _read_drawn(source.removeprefix("drawn").removeprefix(":"), options)
    if source == "scenes" or source.startswith("scenes:"):
        from datamodules.readers import aihub
        from datamodules.synthetic.scenes import parse_scenes, prepare_korean

        spec = parse_scenes(source)
        return aihub.read(prepare_korean(spec), options, "scenes")
    from datamodules.readers.archives import is_archive, stem, unpack

    place = on_disk(Path(source).expanduser())
    chosen: str | None = None
    if source and not place.exists() and (match := re.match(r"([A-Za-z]\w+):(.*)", source, re.DOTALL)):
        chosen, place = match[1], on_disk(Path(match[2]).expanduser())
        if chosen not in READERS:
            known = [*READERS, *DRAWN]
            hint = did_you_mean(chosen, known, cutoff=0.5) or f"there are {', '.join(known)}"
            msg = f"--data: unknown reader {chosen!r} in {source!r}; {hint}"
            raise InputError(msg)
    if not source or not place.exists():
        raise invalid(
            "--data", "no such file or folder", path_text(source), "give a path, reader:path, drawn or scenes"
        )
    place = place.resolve()
    name = stem(place)
    left_out = LeftOut()
    try:
        shards = place.is_file() and chosen in (None, "shards") and READERS["shards"].looks_like(place)
        if place.is_file() and is_archive(place) and not shards:
            place = unpack(place)
        if chosen is None and options.pattern is not None:
            chosen = "pattern"
        elif chosen is None:
            chosen, place = _locate(place)
        else:
            place = next((inner for inner in unwrapped(place) if READERS[chosen].looks_like(inner)), place)
        if options.images is not None and chosen != "csv":
            rule = f"is only for tables of file names, and this data set is read by {chosen!r}"
            raise invalid("--images", rule, options.images, "leave it out")
        with collect_left_out() as left_out:
            manifest = READERS[chosen].read(place, options, name)
        if options.votes == "soft" and manifest.votes is None:
            raise invalid("--votes", "needs annotators' votes, and this data set has none", "soft", "leave it out")
        ignored = options.votes == "majority" and not READERS[chosen].voted
        note = "no annotators' votes here, so --votes majority changes no label" if ignored else ""
        return replace(manifest, notes=(*manifest.notes, *filter(None, [left_out.line, note])))
    except InputError as error:
        found_none = f"; {left_out.line}" if left_out.no_images and left_out.line else ""
        msg = f"--data {path_text(source)}: {error}{found_none}{_above(place) if chosen == 'folder' else ''}"
        raise InputError(msg) from error


def _read_drawn(text: str, options: ReadOptions) -> Manifest:
    from datamodules.synthetic import parse_spec, prepare  # pulls in OpenCV, which other readers do not need

    manifest = prepare(parse_spec(text))
    table, notes = apply_votes(manifest.table, manifest.name, options)
    return finish(table, manifest.root, manifest.name, options, (*manifest.notes, *notes)).with_boxes(manifest.boxes)
