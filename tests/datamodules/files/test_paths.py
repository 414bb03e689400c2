"""Files that are written under a temporary name: complete or absent, with the mode of files from `open`."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from datamodules.faces.crop import PARTS, write_crop
from datamodules.files.paths import replacing
from datamodules.manifest import make_manifest
from results.reports.figures import png_of
from results.reports.pages import write_files
from sweeps.search import write as write_winner

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=[0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def save_manifest(path: Path) -> None:
    (path.parent / "1.png").touch()
    (path.parent / "2.png").touch()
    table = pd.DataFrame({"path": ["1.png", "2.png"], "label": ["sad", "happy"]})
    make_manifest(table, path.parent, name="x").save(path)


def save_crop(path: Path) -> None:
    (path.parent / PARTS).mkdir(exist_ok=True)
    write_crop(path.parent, path.name, np.zeros((8, 8, 3), np.uint8))


def save_figure(path: Path) -> None:
    figure = plt.figure()
    write_files(path.parent, {path.name: png_of(figure)})
    plt.close(figure)


WRITERS: dict[str, Callable[[Path], object]] = {
    "manifest.csv": save_manifest,
    "manifest.parquet": save_manifest,
    "crop.jpg": save_crop,
    "figure.png": save_figure,
    "page.html": lambda path: write_files(path.parent, {path.name: "text"}),
    "best.yaml": lambda path: write_winner(path, "text"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_have_the_mode_of_plain_files(tmp_path: Path, umask: int, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert mode(path) == 0o666 & ~umask
    for kept in (0o640, 0o664, 0o600):
        path.chmod(kept)
        WRITERS[name](path)
        assert mode(path) == kept, "a file that is written again keeps its mode"
    (tmp_path / PARTS).rmdir() if name == "crop.jpg" else None
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def stopped() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        stopped()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["datamodules", "results", "lightning_modules", "sweeps", "benchmarks"])
def test_nothing_is_renamed_from_a_private_temporary_file(package: str) -> None:
    """`mkstemp` and `NamedTemporaryFile` make files of mode 0600, which a rename keeps; `replacing` is there for it."""
    private = re.compile(r"\b(mkstemp|NamedTemporaryFile)\(")
    files = list((ROOT / package).rglob("*.py"))
    assert files
    assert [str(file) for file in files if private.search(file.read_text(encoding="utf-8"))] == []
