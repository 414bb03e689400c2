"""Readers: each turns one published layout into a manifest; `read` chooses the reader of a data set."""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.manifest import Manifest
from datamodules.readers.base import IMAGE_SUFFIXES, ReadOptions, finish, image_files, keep_classes
from datamodules.readers.face_crops import cut_out
from datamodules.readers.subsets import join, sources
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
    """

    about: str
    place: str
    recognises: str = "looks_like"

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
    "fer2013": Reader("FER2013's CSV of pixels, with FER+ votes beside it", "fer2013:read"),
    "aihub": Reader("AI-Hub's Korean set: photographs, and JSON of three annotators", "aihub:read"),
    "csv": Reader("a CSV, TSV or Parquet table with a file and a label column", "table:read"),
    "folder": Reader("one folder a class, below train/validation/test if given", "folder:read"),
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
    for name, reader in READERS.items():
        if reader.looks_like(path):
            return name
    msg = f"no reader knows {path}; it reads folders, archives and tables: {', '.join(READERS)}"
    raise InputError(msg)


def read(source: str, options: ReadOptions = ReadOptions()) -> Manifest:  # noqa: B008 - frozen
    """Read a data set into a manifest.

    Args:
        source: a path (the layout is recognised, an archive is unpacked once), ``reader:path``; ``drawn`` and
            ``drawn:largest=1000,ratio=10,seed=0`` for drawn faces; ``scenes`` and ``scenes:images=700,size=640,seed=0``
            for drawn scenes in the layout of AI-Hub's Korean set; several joined by ``+``, each with its reader:
            ``cafe:FOLDER+nimh:FOLDER``.
        options: labels, votes and columns; and ``faces``, to cut the faces out of the images.

    Raises:
        InputError: the path does not exist, there is no such reader (the nearest is named), or a rule is broken.
    """
    parts = sources(str(source).strip())
    manifest = _read(parts[0], options) if len(parts) == 1 else join([_read(part, options) for part in parts])
    manifest = keep_classes(manifest, options)
    return manifest if options.faces is None else cut_out(manifest, options)


def _read(source: str, options: ReadOptions) -> Manifest:
    if source == "drawn" or source.startswith("drawn:"):
        return _read_drawn(source.removeprefix("drawn").removeprefix(":"), options)
    if source == "scenes" or source.startswith("scenes:"):
        from datamodules.readers import aihub
        from datamodules.synthetic.scenes import parse_scenes, prepare_korean

        spec = parse_scenes(source)
        return aihub.read(prepare_korean(spec), options, "scenes")
    from datamodules.readers.archives import is_archive, stem, unpack

    place = Path(source).expanduser()
    chosen: str | None = None
    if source and not place.exists() and (match := re.match(r"([A-Za-z]\w+):(.*)", source, re.DOTALL)):
        chosen, place = match[1], Path(match[2]).expanduser()
        if chosen not in READERS:
            known = [*READERS, *DRAWN]
            hint = did_you_mean(chosen, known, cutoff=0.5) or f"there are {', '.join(known)}"
            msg = f"--data: unknown reader {chosen!r} in {source!r}; {hint}"
            raise InputError(msg)
    if not source or not place.exists():
        raise invalid("--data", "no such file or folder", source, "give a path, reader:path, drawn or scenes")
    place = place.resolve()
    name = stem(place)
    try:
        if place.is_file() and is_archive(place):
            place = unpack(place)
        if chosen is None:
            chosen = "pattern" if options.pattern is not None else recognise(place)
        return READERS[chosen].read(place, options, name)
    except InputError as error:
        msg = f"--data {source}: {error}"
        raise InputError(msg) from error


def _read_drawn(text: str, options: ReadOptions) -> Manifest:
    from datamodules.synthetic import parse_spec, prepare  # pulls in OpenCV, which other readers do not need

    manifest = prepare(parse_spec(text))
    table, notes = apply_votes(manifest.table, manifest.name, options)
    return finish(table, manifest.root, manifest.name, options, (*manifest.notes, *notes)).with_boxes(manifest.boxes)
