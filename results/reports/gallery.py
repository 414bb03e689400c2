"""Pages of images: label errors and mistakes.

The page names image files and a browser reads them from disk; it contains them only where that is requested, since
they may show people.
"""

import base64
import io
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image as PillowImage

from datamodules.errors import InputError
from datamodules.files.images import content_hash, decode
from datamodules.manifest import Manifest
from results.label_errors import LabelErrors, counts_table
from results.predictions import PROBABILITY, check_predictions, classes_of
from results.reports.pages import render
from results.reports.tables import number
from results.run_images import DataOptions, is_evaluation, require_rows
from results.tracking import store

THUMBNAIL = 160  # pixels of the longer side of an embedded image


@dataclass(frozen=True)
class RunImages:
    """Where the images of a page are, and how they are shown.

    Attributes:
        manifest: The data of the run.
        embed: Write the images into the page; otherwise it names their files.
        compare: Leave out images whose pixels are not those that the run used.
        pixel_limit: Largest number of pixels of an image file, as in the run; None: the default.
    """

    manifest: Manifest
    embed: bool = False
    compare: bool = True
    pixel_limit: int | None = None


def open_images(
    run_id: str,
    predictions: pd.DataFrame,
    name: str,
    *,
    data: str | None = None,
    embed: bool = False,
    directory: str | Path = store.DIRECTORY,
) -> tuple[RunImages | None, list[str]]:
    """Read the images of a run for a page; return them, or None, and sentences on why they cannot be shown.

    Args:
        run_id: The run.
        predictions: Its prediction table.
        name: Its name.
        data: Where its data is now; None: as in the run.
        embed: Write the images into the page.
        directory: Folder of the runs.

    Raises:
        InputError: The data cannot be read, and `data` or `embed` requests it.
    """
    try:
        used = DataOptions.of(run_id, directory=directory)
        used = used if data is None else replace(used, source=data)
        manifest = used.manifest()
        require_rows(manifest, predictions, name, used.source)
    except InputError as error:
        if data is not None or embed:
            raise
        return None, [f"The images are not shown: {error}."]
    # an evaluation of photographs records the pixels of the faces that it cut out
    compared = not is_evaluation(run_id, directory=directory)
    return RunImages(manifest, embed, compared, used.pixel_limit), []


@dataclass(frozen=True)
class Picture:
    """An image of a page.

    Attributes:
        source: Its address: a file on this machine, or its content; "" where it cannot be shown.
        words: Lines below it.
    """

    source: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """A heading and images."""

    title: str
    pictures: tuple[Picture, ...]


def label_page(
    found: LabelErrors, name: str, images: RunImages | None, *, top: int = 50, more: Sequence[str] = ()
) -> str:
    """Return the page of the most doubtful labels.

    Args:
        found: The ranking.
        name: Name of the run.
        images: The images; None shows their paths alone.
        top: Number of images.
        more: Further sentences.
    """
    worst = found.flagged.head(top)
    pictures, notes = _pictures(
        worst,
        images,
        lambda row: (f"{row['label']}, or {row['suggested']}?", f"row {row['row']}, score {number(row['score'])}"),
    )
    lead = [
        f"{len(found.flagged):,} of {len(found.ranked):,} labels are doubtful: the network, which was not trained on "
        "the image, gives another class. A doubtful label need not be wrong; look before you leave an image out.",
        *found.notes,
        *more,
        *notes,
    ]
    shown = Gallery(f"The {len(worst)} most doubtful labels", tuple(pictures))
    return render(
        "gallery.html", title=f"Label errors: {name}", lead=lead, table=counts_table(found), galleries=[shown]
    )


def mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the wrongly predicted images of a run, those of the most frequent pairs first.

    Args:
        predictions: Its prediction table.

    Returns:
        One row a mistake: row, path, content, fold, label, predicted, probability (of the predicted class),
        probability_of_label. Pairs of label and predicted class are sorted by their number of mistakes, mistakes of a
        pair by probability, the highest first.
    """
    check_predictions(predictions)
    names = pd.Index(classes_of(predictions))
    probabilities = predictions[[f"{PROBABILITY}{name}" for name in names]].to_numpy(np.float64)  # (N, C)
    rows = np.arange(len(predictions))
    table = predictions[["row", "path", "content", "fold", "label", "predicted"]].reset_index(drop=True)
    table["probability"] = probabilities[rows, names.get_indexer(pd.Index(table["predicted"]))]
    table["probability_of_label"] = probabilities[rows, names.get_indexer(pd.Index(table["label"]))]
    table = table[table["label"] != table["predicted"]]
    pairs = table.groupby(["label", "predicted"])["row"].transform("size")
    order = {name: place for place, name in enumerate(names)}
    keys = table.assign(pairs=-pairs, first=table["label"].map(order), second=table["predicted"].map(order))
    keys = keys.assign(doubt=-table["probability"]).sort_values(["pairs", "first", "second", "doubt", "row"])
    return table.loc[keys.index].reset_index(drop=True)


def pairs_table(wrong: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair: label, predicted, mistakes, share (of the label's images), highest probability, as text.

    Args:
        wrong: Result of `mistakes`.
        predictions: The prediction table.
    """
    images = predictions["label"].value_counts()
    rows = [
        {
            "label": str(label),
            "predicted": str(predicted),
            "mistakes": f"{len(part):,}",
            "share": f"{len(part) / images[label]:.1%}",
            "highest probability": f"{part['probability'].iloc[0]:.3f}",
        }
        for (label, predicted), part in wrong.groupby(["label", "predicted"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["label", "predicted", "mistakes", "share", "highest probability"])


def mistakes_page(
    predictions: pd.DataFrame, name: str, images: RunImages | None, *, each: int = 5, more: Sequence[str] = ()
) -> str:
    """Return the page of the most confident mistakes of each pair of classes.

    Args:
        predictions: Prediction table of the run.
        name: Name of the run.
        images: The images; None shows their paths alone.
        each: Number of images of a pair.
        more: Further sentences.
    """
    wrong = mistakes(predictions)
    galleries: list[Gallery] = []
    notes: dict[str, None] = {}
    for (label, predicted), part in wrong.groupby(["label", "predicted"], sort=False):
        pictures, lines = _pictures(
            part.head(each),
            images,
            lambda row: (f"p {number(row['probability'])}, label {number(row['probability_of_label'])}", _row(row)),
        )
        notes |= dict.fromkeys(lines)
        title = f"{label}, predicted {predicted} ({len(part):,})"
        galleries.append(Gallery(title, tuple(pictures)))
    share = len(wrong) / len(predictions)
    lead = [
        f"{len(wrong):,} of {len(predictions):,} images are predicted wrongly ({share:.1%}). Of each pair of classes "
        f"the {each} mistakes with the highest probability are shown.",
        *more,
        *notes,
    ]
    return render(
        "gallery.html",
        title=f"Mistakes: {name}",
        lead=lead,
        table=pairs_table(wrong, predictions),
        galleries=galleries,
    )


Row = dict[Hashable, Any]


def _row(row: Row) -> str:
    return f"row {row['row']}"


def _pictures(
    rows: pd.DataFrame, images: RunImages | None, words: Callable[[Row], Iterable[str]]
) -> tuple[list[Picture], list[str]]:
    """Return the images of rows of a table with row, path and content, and notes on those that cannot be shown."""
    pictures, missing = [], []
    for row in rows.to_dict("records"):
        source = ""
        if images is not None:
            try:
                source = _source(images, int(row["row"]), str(row["content"]))
            except InputError as error:
                missing.append(f"{row['path']} ({error})")
        pictures.append(Picture(source, (*words(row), str(row["path"]))))
    notes = [f"{len(missing)} images cannot be shown: {', '.join(missing[:5])}."] if missing else []
    return pictures, notes


def _source(images: RunImages, row: int, content: str) -> str:
    """Return the address of an image.

    Raises:
        InputError: It cannot be read, or has other pixels than in the run.
    """
    file = images.manifest.file(row)
    image = decode(file, pixel_limit=images.pixel_limit)
    if images.compare and content_hash(image) != content:
        msg = "its pixels changed since the run"
        raise InputError(msg)
    if not images.embed:
        return file.as_uri()
    small = PillowImage.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    drawn = io.BytesIO()
    small.save(drawn, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"
