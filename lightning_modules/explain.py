"""Explaining images by the networks that never saw them: from a run to maps, and the report on them."""

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from lightning_modules.explain_folds import FoldNetworks
from records.explain.explained import Explained
from records.explain.grad_cam import cells, last_layer
from records.explain.methods import QUALITY, MethodOptions, explain_image, known_method
from records.explain.report import ReportOptions, Summary, write_report
from records.explain.stored import MAPS, TABLE, save
from records.runs import add_to_run

SETTINGS = {
    "lime": ("samples", "features", "fill", "seed"),
    "kernel-shap": ("samples", "fill", "seed"),
    "grad-cam": ("layer",),
    "integrated-gradients": ("steps", "fill"),
}
"""The options that make a difference to each method."""

DRAWS = ("lime", "kernel-shap")  # the methods that another seed changes


@dataclass(frozen=True)
class Subjects:
    """The images that are to be explained.

    Attributes:
        table: Rows of the prediction table.
        images: uint8 (N, H, W, 3), what the network sees.
        landmarks: float32 (N, 5, 2).
        masks: bool (N, H, W), or None.
        target: int64 (N,), the class to explain.
    """

    table: pd.DataFrame
    images: np.ndarray
    landmarks: np.ndarray
    masks: np.ndarray | None
    target: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """What was explained, and how it went.

    Attributes:
        explained: The maps.
        quality: float64 (N,), what QUALITY names.
        seconds: An image, on average.
        notes: What a reader should know.
    """

    explained: Explained
    quality: np.ndarray
    seconds: float
    notes: tuple[str, ...]


class Explainer:
    """Explains the same images by any method and with any seed, each by the network of the fold that held it out."""

    def __init__(
        self,
        subjects: Subjects,
        networks: FoldNetworks,
        options: MethodOptions,
        segments: np.ndarray,
        *,
        progress: bool = True,
    ) -> None:
        """Bind images and networks together.

        Args:
            subjects: The images.
            networks: The run's.
            options: The method and its options.
            segments: int32 (N, H, W), the superpixels.
            progress: Show a bar.
        """
        self.subjects, self.networks, self.segments = subjects, networks, segments
        self.folds = subjects.table["fold"].to_numpy(np.int64)
        self.progress = progress
        layer = options.layer
        if options.method == "grad-cam":
            layer = layer or last_layer(networks[int(self.folds[0])].backbone)
        self.options = dataclasses.replace(options, layer=layer)

    def maps(self, options: MethodOptions) -> tuple[np.ndarray, np.ndarray]:
        """Return maps float32 (N, H, W) and what QUALITY names, float64 (N,)."""
        maps, quality = np.zeros(self.segments.shape, np.float32), np.zeros(len(self.segments))
        bar = tqdm(
            np.argsort(self.folds, kind="stable"),
            f"{options.method} seed {options.seed}",
            unit="image",
            delay=1,
            disable=None if self.progress else True,
        )
        for place in bar:
            maps[place], quality[place] = explain_image(
                self.networks[int(self.folds[place])],
                self.subjects.images[place],
                self.segments[place],
                int(self.subjects.target[place]),
                int(self.subjects.table["row"].iloc[place]) % 2**32,  # new pictures count down from -1
                options,
            )
        return maps, quality

    def again(self, method: str, seed: int) -> np.ndarray:
        """Return maps of the same images by another method, or with another seed."""
        return self.maps(dataclasses.replace(self.options, method=known_method(method), seed=seed))[0]

    def probabilities(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return probabilities of pictures, each by the network of a row's fold."""
        return self.networks.probabilities(images, self.folds[rows])

    def explain(self, more: dict[str, object]) -> Explanation:
        """Explain the images; `more` is what else must be known to repeat it."""
        notes = []
        if self.options.method == "grad-cam":
            network = self.networks[int(self.folds[0])]
            rows, columns = cells(network.logits, network.backbone, self.subjects.images[0], str(self.options.layer))
            notes.append(f"layer {self.options.layer}: {rows} x {columns} cells, enlarged to the picture")
            if rows * columns < 16:
                notes.append("so few cells tell hardly a place; an earlier layer has more (--layer)")
        began = time.perf_counter()
        maps, quality = self.maps(self.options)
        seconds = (time.perf_counter() - began) / len(maps)
        named = {"superpixels": self.options.superpixels, "compactness": self.options.compactness}
        named |= {name: getattr(self.options, name) for name in SETTINGS[self.options.method]}
        explained = Explained(
            self.subjects.table,
            self.networks.held.classes,
            self.subjects.images,
            maps,
            self.subjects.target,
            self.segments,
            self.subjects.landmarks,
            self.subjects.masks,
            self.options.method,
            {**named, **more},
        )
        return Explanation(explained, quality, seconds, tuple(notes))


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than an explanation, best before the long work.

    Raises:
        InputError: it does.
    """
    if folder.exists() and not (folder / MAPS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"--out: {folder} is there and is no explanation, so it is not replaced; name another folder"
        raise InputError(msg)


def write(explainer: Explainer, found: Explanation, folder: Path, report: ReportOptions) -> tuple[Summary, list[Path]]:
    """Write an explanation and its report; the folder gets its name when all of it is there.

    Returns:
        What the report says, and the files that show no person.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    check_folder(folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        draft.mkdir(parents=True)
        column = QUALITY[found.explained.method]
        save(found.explained, draft, pd.DataFrame({column: found.quality}) if column else None)
        summary = write_report(found.explained, explainer.probabilities, explainer.again, draft, report)
        if folder.exists():
            os.replace(folder, old)
        os.replace(draft, folder)
    except OSError as error:
        msg = f"--out: {folder} cannot be written ({error.strerror or error}); choose another folder"
        raise InputError(msg) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    plain = [folder / file.relative_to(draft) for file in summary.files]
    return summary, [*plain, folder / TABLE]


def keep(run_id: str, summary: Summary, method: str, files: Sequence[Path]) -> str:
    """Keep numbers and files with a run, under explain/<method>; return what to tell of it."""
    numbers = {f"explain/{method}/{name.removeprefix('explain/')}": value for name, value in summary.numbers.items()}
    artifacts = {f"explain/{method}/{file.name}": file for file in files}
    return add_to_run(run_id, artifacts, numbers, shown=f"explain/{method}/report.html")
