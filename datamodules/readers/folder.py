"""Reader of images in one folder per class, below one folder per split if there are splits: `train/happy/1.png`."""

from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import canonical, canonical_split
from datamodules.manifest import Manifest
from datamodules.readers.base import ReadOptions, finish, image_files


def looks_like(path: Path) -> bool:
    """Return whether the path is a folder, since any folder may have class folders."""
    return path.is_dir()


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read images whose first folder (below the split) is the label; deeper folders belong to the same class.

    An image beside the class folders (a logo, a sample sheet) is left out and noted, as is an empty class folder.

    Raises:
        InputError: no image anywhere, images in no class folder, or split folders beside class folders.
    """
    if not path.is_dir():
        msg = f"the reader 'folder' reads a folder of class folders, got the file {path}"
        raise InputError(msg)
    files = image_files(path)
    if not files:
        msg = f"no images found in {path}; expected one folder a class, such as {path.name}/happy/1.jpg"
        raise InputError(msg)
    parts = [f.split("/") for f in files]
    tops = sorted({p[0] for p in parts if len(p) > 1})
    splits = [t for t in tops if canonical_split(t)]
    if splits and len(splits) < len(tops):
        others = ", ".join(t for t in tops if t not in splits)
        msg = f"{path} has split folders ({', '.join(splits)}) beside other folders ({others}); move one kind elsewhere"
        raise InputError(msg)
    depth = 1 if splits else 0  # of the class folder
    stray = [f for f, p in zip(files, parts, strict=True) if len(p) < depth + 2]
    if len(stray) == len(files) or any("/" in f for f in stray):
        msg = f"{len(stray)} images in {path} are in no class folder, the first is {stray[0]!r}; move them into one"
        raise InputError(msg)
    notes = [f"{len(stray)} images beside the folders left out, the first is {stray[0]!r}"] if stray else []
    placed = [p for p in parts if len(p) >= depth + 2]
    table = pd.DataFrame({"path": ["/".join(p) for p in placed], "label": [p[depth] for p in placed]})
    if splits:
        table["split"] = [p[0] for p in placed]
    filled = {"/".join(p[: depth + 1]) for p in placed}
    for folder in sorted(path.glob("*/" * (depth + 1))):
        relative = folder.relative_to(path).as_posix()
        if canonical(folder.name) and relative not in filled:
            notes.append(f"the class folder {relative} holds no images")
    return finish(table, path, name, options, tuple(notes))
