"""Reads images sorted into one folder a class, below one folder a split if there is one: `train/happy/1.png`."""

from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import canonical, canonical_split
from datamodules.manifest import Manifest
from datamodules.readers.common import ReadOptions, finish, image_files


def looks_like(path: Path) -> bool:
    """Any folder may be one of class folders."""
    return path.is_dir()


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Take the first folder (below the split) as the label. What lies deeper in a class folder belongs to it.

    Raises:
        InputError: no image anywhere, images in no class folder, or split folders beside class folders.
    """
    files = image_files(path)
    if not files:
        msg = f"no images found in {path}; expected one folder a class, such as {path.name}/happy/1.jpg"
        raise InputError(msg)
    parts = [f.split("/") for f in files]
    loose = [f for f, p in zip(files, parts, strict=True) if len(p) == 1]
    tops = sorted({p[0] for p in parts if len(p) > 1})
    splits = [t for t in tops if canonical_split(t)]
    if splits and len(splits) < len(tops):
        others = ", ".join(t for t in tops if t not in splits)
        msg = f"{path} has split folders ({', '.join(splits)}) beside others ({others}); move one kind elsewhere"
        raise InputError(msg)
    depth = 1 if splits else 0
    stray = [f for f, p in zip(files, parts, strict=True) if len(p) < depth + 2]
    if stray:
        msg = f"{len(stray)} images in {path} are in no class folder, the first is {stray[0]!r}; move them into one"
        if not loose or len(stray) != len(loose) or len(stray) == len(files):
            raise InputError(msg)
        # A picture beside the class folders (a logo, a sample sheet) is common and harmless, but is said.
        notes: tuple[str, ...] = (f"{len(stray)} images beside the class folders left out, the first is {stray[0]!r}",)
    else:
        notes = ()
    placed = [(f, p) for f, p in zip(files, parts, strict=True) if len(p) >= depth + 2]
    table = pd.DataFrame({"path": [f for f, _ in placed], "label": [p[depth] for _, p in placed]})
    if splits:
        table["split"] = [p[0] for _, p in placed]
    full = {tuple(p[: depth + 1]) for _, p in placed}
    bases = [path / t for t in splits] if splits else [path]
    for base in bases:
        for folder in sorted(f for f in base.iterdir() if f.is_dir()):
            if canonical(folder.name) and (*((base.name,) if splits else ()), folder.name) not in full:
                notes = (*notes, f"the class folder {folder.relative_to(path).as_posix()} holds no images")
    return finish(table, path, name, options, notes)
