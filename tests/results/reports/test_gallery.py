"""Pages of images: they name files, contain images only on request, and show no image that changed."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.files.images import content_hash, decode
from datamodules.manifest import make_manifest
from datamodules.synthetic import DrawnFaces, draw
from datamodules.synthetic.files import write_png
from results.label_errors import find_label_errors
from results.reports.gallery import RunImages, label_page, mistakes_page

FACES = DrawnFaces(largest=6, ratio=1, size=48, classes=("angry", "happy", "sad", "neutral"))


@pytest.fixture
def drawn(tmp_path: Path, draw_predictions: Callable[..., pd.DataFrame]) -> tuple[RunImages, pd.DataFrame]:
    """24 drawn faces as files, and a prediction table of them with wrong labels."""
    table = draw_predictions(24, skill=3.0)
    table["path"] = [f"face <{row}> & 100%.png" for row in range(24)]
    for row, path in enumerate(table["path"]):
        write_png(tmp_path / path, draw(FACES, row).image)
    table["content"] = [content_hash(decode(tmp_path / path)) for path in table["path"]]
    label = table["predicted"].to_numpy(object)
    label[:8] = np.roll(["angry", "happy", "sad", "neutral"], 1)[[list(FACES.classes).index(x) for x in label[:8]]]
    table["label"] = label
    return RunImages(make_manifest(table[["path", "label"]], tmp_path, name="faces")), table


def test_a_page_names_files_and_contains_them_only_on_request(
    drawn: tuple[RunImages, pd.DataFrame], tmp_path: Path
) -> None:
    images, table = drawn
    found = find_label_errors(table)
    page = label_page(found, "a <b> run", images, top=3)
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 3
    assert all(source.startswith("file:///") for source in sources)
    assert "data:image" not in page
    assert "<b>" not in page
    assert "The 3 most doubtful labels" in page
    worst = found.flagged.iloc[0]
    assert (tmp_path / worst["path"]).as_uri() in page
    assert f"{worst['label']}, or {worst['suggested']}?" in page
    embedded = label_page(found, "run", RunImages(images.manifest, embed=True), top=3)
    assert embedded.count("data:image/png;base64,") == 3
    assert "file:///" not in embedded
    assert "src=" not in label_page(found, "run", None, top=3, more=["The images are not shown: gone."])


def test_mistakes_are_shown_by_pair(drawn: tuple[RunImages, pd.DataFrame]) -> None:
    images, table = drawn
    page = mistakes_page(table, "run", images, each=1)
    pairs = table.loc[table["label"] != table["predicted"]].groupby(["label", "predicted"]).size()
    assert page.count("<figure>") == len(pairs)
    for (label, predicted), count in pairs.items():
        assert f"{label}, predicted {predicted} ({count})" in page
    assert "8 of 24 images are predicted wrongly (33.3%)" in page
    none = mistakes_page(table.assign(label=table["predicted"]), "run", images)
    assert "0 of 24 images" in none
    assert "<figure>" not in none


def test_images_are_decoded_with_the_pixel_limit_of_the_run(drawn: tuple[RunImages, pd.DataFrame]) -> None:
    images, table = drawn
    shown = label_page(find_label_errors(table), "run", replace(images, pixel_limit=10), top=1)
    assert "1 images cannot be shown" in shown


def test_an_image_that_changed_is_not_shown(drawn: tuple[RunImages, pd.DataFrame], tmp_path: Path) -> None:
    images, table = drawn
    found = find_label_errors(table)
    first, second = found.flagged["path"].iloc[:2]
    write_png(tmp_path / first, draw(FACES, 23).image[::-1].copy())
    (tmp_path / second).write_bytes(b"no image")
    page = label_page(found, "run", images, top=2)
    assert "src=" not in page
    assert "2 images cannot be shown" in page
    assert "its pixels changed since the run" in page
    whatever = label_page(found, "run", RunImages(images.manifest, compare=False), top=2)
    assert whatever.count("file:///") == 1
