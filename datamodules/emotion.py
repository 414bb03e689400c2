"""EmotionDataModule: connects readers, cache, splits, over-sampling and transforms, and makes the loaders."""

import hashlib
import os
import shlex
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.cache import PixelCache, build_cache, decoding_notes
from datamodules.dataset import EmotionDataset, keep, start_worker
from datamodules.duplicates import find_clusters
from datamodules.errors import InputError, invalid
from datamodules.files.images import Fit, limited_to
from datamodules.files.paths import CACHE_BUDGET_GB
from datamodules.manifest import Manifest
from datamodules.processes import PREFETCH, cores, workers_that_fit
from datamodules.read_options import as_words
from datamodules.readers import ReadOptions, read
from datamodules.readers.face_crops import FaceCrops
from datamodules.sampling import (
    Draws,
    EpochBatchSampler,
    PlainLoader,
    ResumableLoader,
    doubled,
    each_once,
    oversample,
    require_n_min,
)
from datamodules.splits.folds import Fold, lacking_classes
from datamodules.splits.protocol import (
    HOLDOUT,
    INNER,
    Division,
    DivisionPlan,
    GroupPlan,
    Leak,
    Outer,
    Protocol,
    SeenImages,
    Split,
)
from datamodules.transforms import BasePolicy, Policy, build_transform

TINY = 1_000  # images per epoch, below which starting workers costs more than they save
MOST_WORKERS = 8


def loading(
    dataset: EmotionDataset, workers: int | None, trainer: L.Trainer | None, batch_size: int = 1
) -> dict[str, Any]:
    """Return the arguments of a loader.

    Args:
        dataset: The dataset.
        workers: Loading processes; None chooses them by the number of cores and the shared memory.
        trainer: Trainer, from which the number of training processes on this machine is read; None: one.
        batch_size: Images in a batch, of all training processes on this machine together.

    Raises:
        InputError: The shared memory is too small for the batches of so many processes.
    """
    chosen = workers is None
    if workers is None:
        # processes on one machine share its cores; those started by torchrun are only counted in its variable
        ranks = max(trainer.num_devices if trainer else 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        # copying from the map is faster than receiving images from another process
        only_copies = dataset.cache.pixels is not None and not (dataset.originals or dataset.copies)
        workers = 0 if only_copies or len(dataset) < TINY else min(MOST_WORKERS, max(1, cores() // ranks))
    workers = workers_that_fit(workers, min(batch_size, len(dataset)) * 3 * dataset.cache.size**2, chosen=chosen)
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "prefetch_factor": PREFETCH if workers else None,
        "worker_init_fn": start_worker,
        "collate_fn": keep,
        "pin_memory": torch.cuda.is_available(),
    }


LARGEST_SIZE = 4096  # side of an image in pixels; beyond it the memory is not enough for a batch


class EmotionDataModule(L.LightningDataModule):
    """Labelled images in three parts: train to train on, val to select on, test to report on.

    Batches are ``image`` (B, 3, S, S) uint8, ``label`` (B,), ``row`` (B,), ``is_copy`` (B,) and, with soft votes,
    ``target`` (B, C). Rows are the manifest's.
    """

    def __init__(
        self,
        source: str = "drawn",
        size: int = 64,
        fit: Fit = "crop",
        batch_size: int = 128,
        split: Split = "folds",
        folds: int = 5,
        fold: int = 0,
        fold_seed: int = 0,
        holdout_fraction: float = HOLDOUT,
        outer: Outer = "auto",
        leak: Leak = "error",
        protocol: Protocol = "honest",
        near_duplicates: bool = True,
        inner_fraction: float = INNER,
        inner_folds: int | None = None,
        inner_fold: int = 0,
        n_min: int | float | Literal["max"] | None = None,
        balance_by: str | None = None,
        stratify_by: str | None = None,
        train_on: str | None = None,
        rehearsal: float = 0.0,
        transforms: list[str] | None = None,
        transform_where: Literal["none", "copies", "all", "doubled"] = "none",
        policy: Policy = "one_of",
        magnitude: float = 1.0,
        once: bool = False,
        base_policy: BasePolicy = "none",
        erasing: float = 0.0,
        read: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
        num_workers: int | None = None,
        cache_dir: str | None = None,
        cache_budget_gb: float = CACHE_BUDGET_GB,
        seed: int | None = None,
        eval_batch_size: int | None = None,
        pixel_limit: int | None = None,
    ) -> None:
        """Store the options; data is read on first use.

        Args:
            source: A path, ``reader:path``, or ``drawn:largest=1000,ratio=10`` for drawn faces (the largest class has
                1000 images, 10 times as many as the smallest).
            size: Side of the model's square input in pixels.
            fit: How an image is made square: ``crop`` the centre, ``stretch``, or ``pad`` with grey.
            batch_size: Rows per step, over all processes together.
            split: ``folds`` (cross-validation), ``holdout`` (one test part) or ``given`` (the split of the data set).
            folds: Number of folds.
            fold: Number of the fold that is the test part, from 0.
            fold_seed: Seed of the split; separate from ``seed``, so that runs with different seeds share their folds.
            holdout_fraction: Share of the rows in the test part, with ``holdout``.
            outer: Part of a ``given`` split that is reported; ``auto``: test if there is one, else validation.
            leak: Duplicates across the parts of a ``given`` split: ``error`` stops, ``drop_twins`` removes them from
                training, ``allow`` keeps them. ``folds`` and ``holdout`` keep duplicates and people in one part,
                unless a leak is to be measured: ``duplicates`` splits row by row; ``oversample_first`` also repeats
                rows of the whole set (``n_min``) before splitting it, so copies of test images are trained on. Scores
                never include copies.
            protocol: ``honest`` selects on a val part; ``paper`` has no val part and selects (early stopping, best
                checkpoint) on the test part itself. Tables and tags of such runs record it.
            near_duplicates: Whether near-duplicates, and not only exact duplicates, stay in one part.
            inner_fraction: Share of the training part that becomes the val part, above 0; 0 with ``paper``.
            inner_folds: Split everything but the test part into this many parts and select on one of them, instead
                of ``inner_fraction``. For searches: trials select on each part in turn and never use the test part.
            inner_fold: Number of the inner fold to select on, from 0.
            n_min: Over-sample every class to this: a number of images, a fraction of the largest class, or ``max``.
            balance_by: Over-sample every combination of class and subgroup instead, relative to the largest one: a
                subgroup column (``age``), one value against the rest (``age=child``), or several columns
                (``age+gender``). Images without a value are a subgroup of their own; combinations without a training
                image are reported and stay empty.
            stratify_by: Split these subgroups evenly between the parts, too; written like ``balance_by``.
            train_on: Train and select only on these images: ``age=child`` or ``age!=child``; images without a value
                match neither. The test part stays whole.
            rehearsal: Share of the rows trained on that is chosen at random, once, from the training images that
                ``train_on`` leaves out.
            transforms: Transforms, one of which is chosen at random for each image: blur, crop, flip, rotation,
                translation, cutout, contrast, height, width, zoom, erasing.
            transform_where: Which training images are transformed: ``none``, the over-sampled ``copies``, ``all``, or
                ``doubled`` (every image once unchanged and once transformed).
            policy: ``one_of`` the named transforms; or ``mild``, ``trivial_augment``, ``rand_augment`` or ``aug_mix``,
                which use no names.
            magnitude: Factor by which the paper's magnitudes of the named transforms (45 degrees, 30 % ...) are
                multiplied.
            once: Choose each image's transform once for the whole run instead of again in every epoch.
            base_policy: Policy that is applied to every training image, before other transforms.
            erasing: Probability that a grey rectangle covers part of a training image.
            read: How labels, votes and file names are read.
            num_workers: Loading processes; by default chosen by the number of cores.
            cache_dir: Folder of the decoded images; by default the cache that `emotion info` shows.
            cache_budget_gb: Disk space in gigabytes for decoded images; beyond it, images are decoded whenever they
                are read.
            seed: Seed of over-sampling, order and transforms; by default the run's seed.
            eval_batch_size: Rows per step and process in validation and test; by default ``batch_size``.
            pixel_limit: Largest number of pixels of an image file; by default 50 million, or EMOTION_PIXEL_LIMIT. A
                JPEG with up to 5 times as many is decoded at a half, a quarter or an eighth of its width and height;
                other files are refused.
        """
        super().__init__()
        least = {"size": size, "batch_size": batch_size, "eval_batch_size": eval_batch_size, "num_workers": num_workers}
        least["pixel_limit"] = pixel_limit
        for name, value in least.items():
            smallest = {"num_workers": 0, "batch_size": 2}.get(name, 1)
            if value is not None and value < smallest:
                raise invalid(f"--data.{name}", f"must be at least {smallest}", value)
        require_n_min(n_min)
        if size > LARGEST_SIZE:
            raise invalid("--data.size", f"must be at most {LARGEST_SIZE} pixels", size)
        if not cache_budget_gb >= 0:
            raise invalid("--data.cache_budget_gb", "must be at least 0", cache_budget_gb)
        names = list(transforms or [])
        _check_use(transform_where, names, policy, n_min, once)
        self.groups = GroupPlan(balance_by=balance_by, train_on=train_on, rehearsal=rehearsal)
        self.groups.check(n_min, leak)
        self.plan = DivisionPlan(
            split=split,
            folds=folds,
            fold=fold,
            fold_seed=fold_seed,
            holdout_fraction=holdout_fraction,
            outer=outer,
            leak=leak,
            protocol=protocol,
            inner_fraction=inner_fraction,
            inner_folds=inner_folds,
            inner_fold=inner_fold,
            n_min=n_min,
            stratify_by=stratify_by,
        )
        self.source, self.size, self.batch_size, self.eval_batch_size = source, size, batch_size, eval_batch_size
        self.fit: Fit = fit
        self.split, self.fold, self.near_duplicates = split, fold, near_duplicates
        self.n_min, self.transform_where, self.once = n_min, transform_where, once
        self.read_options, self.num_workers = read, num_workers
        self.cache_dir, self.cache_budget_gb, self.pixel_limit = cache_dir, cache_budget_gb, pixel_limit
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.seen_before = SeenImages()  # by the models that the run starts or learns from
        self.targets: np.ndarray | None = None  # (N, C) soft targets of the rows, where a teacher made them
        plain = build_transform([], size, base=base_policy, erasing=erasing)
        full = build_transform(names, size, policy, base=base_policy, erasing=erasing, magnitude=magnitude)
        self.for_copies = plain if transform_where == "none" else full
        self.for_originals = full if transform_where == "all" else plain

    def share(self, other: "EmotionDataModule") -> None:
        """Reuse manifest, decoded images and clusters of another data module that reads the same images equally.

        These do not depend on the fold, the seed or the transforms, so the folds of a cross-validation and the trials
        of a search read their images once.
        """
        same_table = (self.source, self.read_options, self.pixel_limit) == (
            *(other.source, other.read_options),
            other.pixel_limit,
        )
        same_pixels = same_table and (self.size, self.fit, self.cache_dir, self.cache_budget_gb) == (
            *(other.size, other.fit, other.cache_dir),
            other.cache_budget_gb,
        )
        known = {
            "manifest": same_table,
            "cache": same_pixels,
            "clusters": same_pixels and self.near_duplicates == other.near_duplicates,
        }
        self.__dict__ |= {name: other.__dict__[name] for name in known if known[name] and name in other.__dict__}

    @cached_property
    def manifest(self) -> Manifest:
        """The table of images."""
        with limited_to(self.pixel_limit):  # faces are cut out of photographs while these are read
            return read(self.source, self.read_options)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by integer label. Opens no image."""
        return list(self.manifest.classes)

    @cached_property
    def cache(self) -> PixelCache:
        """The decoded images, built on first use.

        Raises:
            InputError: Some images of the manifest cannot be read.
        """
        cache = build_cache(
            self.manifest,
            self.size,
            fit=self.fit,
            directory=Path(self.cache_dir) if self.cache_dir else None,
            budget_gb=self.cache_budget_gb,
            pixel_limit=self.pixel_limit,
        )
        bad = np.flatnonzero(cache.index["error"].to_numpy() != "")
        if len(bad):
            shown = "; ".join(f"{cache.index['path'].iat[row]}: {cache.index['error'].iat[row]}" for row in bad[:5])
            check = ["emotion", "data", "check", "--data", self.source, *as_words(self.read_options)]
            check += [] if self.pixel_limit is None else ["--pixel-limit", str(self.pixel_limit)]
            soft = " --votes soft" if self.read_options.votes == "soft" else ""
            msg = (
                f"{len(bad)} of {len(self.manifest)} images cannot be used: {shown}{' ...' if len(bad) > 5 else ''} "
                f"To continue without them: {shlex.join([*check, '--fix', 'cleaned.csv'])}, then "
                f"--data cleaned.csv{soft} without other options of reading"
            )
            raise InputError(msg)
        for line in decoding_notes(cache):
            rank_zero_warn(f"{self.manifest.name}: {line}", stacklevel=2)
        return cache

    @property
    def contents(self) -> list[str]:
        """Hash of each row's decoded pixels."""
        return [str(content) for content in self.cache.index["content"]]

    @property
    def content_hash(self) -> str:
        """SHA-256 of the images' decoded pixels, and of the table of labels, subjects and groups."""
        return hashlib.sha256("\n".join([self.manifest.fingerprint(), *self.contents]).encode()).hexdigest()

    @cached_property
    def clusters(self) -> np.ndarray:
        """(N,) int64: rows with equal numbers are near-duplicates or one person and stay in one part."""
        return find_clusters(self.manifest, self.cache, near=self.near_duplicates)

    @cached_property
    def division(self) -> Division:
        """The rows of every part, and what leaks between them."""
        return self.groups.restrict(self.plan.divide(self.manifest, self.clusters), self.manifest, self.seed)

    @property
    def fold_rows(self) -> Fold:
        """Rows of the training, val and test part, each once."""
        return self.division.fold

    @property
    def leak_record(self) -> dict[str, Any]:
        """Leaks between the parts and how they were treated; empty for an honest split that was made here."""
        return self.division.record

    @property
    def selected_on(self) -> np.ndarray:
        """Rows that epochs and checkpoints are selected on."""
        if self.plan.protocol == "paper":
            return self.groups.chosen(self.manifest, self.fold_rows.test)
        return self.fold_rows.val

    @cached_property
    def draws(self) -> Draws:
        """The rows of one training epoch."""
        if self.transform_where == "doubled":
            return doubled(self.fold_rows.train)
        if self.plan.leak == "oversample_first":
            return self.division.part("train")
        balanced = self.groups.balanced(self.manifest, self.fold_rows.train)
        return oversample(balanced, self.fold_rows.train, self.n_min, self.seed)

    @property
    def train_counts(self) -> np.ndarray:
        """(C,) int64: how often each class is seen in an epoch, copies included."""
        return self.draws.counts(self.manifest.labels, len(self.manifest.classes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the images: what the reader left out, and classes that a given part lacks."""
        lines = list(self.manifest.notes)
        if dropped := self.leak_record.get("dropped_rows"):
            inside = f", {of_val:,} of them from val" if (of_val := self.leak_record["dropped_val_rows"]) else ""
            lines.append(
                f"{dropped:,} images are left out of the training{inside}: duplicates of reported images, or of the "
                "same people"
            )
        if self.transform_where == "copies" and not self.draws.is_copy.any():
            lines.append(
                f"no class is rare enough for over-sampling (--data.n_min {self.n_min}), so no image is copied or "
                "transformed; to transform all images: --data.transform_where all"
            )
        for name, rows in (("val", self.selected_on), ("test", self.fold_rows.test)):
            missing = lacking_classes(self.manifest.labels[rows], len(self.classes)) if len(rows) else []
            if missing:
                there = ", ".join(name for index, name in enumerate(self.classes) if index not in missing)
                lacks = ", ".join(self.classes[index] for index in missing)
                lines.append(f"the {name} part has no image of {lacks}; its macro F1 is the mean over {there}")
        return tuple(lines)

    def split_table(self) -> pd.DataFrame:
        """Return fold, row, content, role (train, val, test), is_copy, cluster and subject of what this run uses.

        Copies that were made before the split are in the part they were assigned to; those outside the train part are
        not used. There is no val part if selection uses the test part.
        """
        parts = {"train": self.draws, "val": self.division.part("val"), "test": self.division.part("test")}
        tables = [
            pd.DataFrame({"fold": self.fold_rows.index, "row": draws.rows, "role": role, "is_copy": draws.is_copy})
            for role, draws in parts.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        table.insert(2, "content", np.asarray(self.contents, dtype=object)[table["row"]])
        subjects = self.manifest.subjects
        table["cluster"] = self.clusters[table["row"]]
        table["subject"] = "" if subjects is None else pd.Series(subjects[table["row"]]).fillna("").astype(str)
        return table

    @cached_property
    def _seen_here(self) -> SeenImages:
        contents = np.asarray(self.contents, dtype=object)
        return SeenImages.of(contents[self.draws.rows], contents[self.selected_on])

    @property
    def seen(self) -> SeenImages:
        """The images that this run trains and selects on, and those that the model it starts from has seen."""
        return self._seen_here.joined(self.seen_before)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint records: how images are prepared for its model, and which images it has seen."""
        faces = FaceCrops.of(self.manifest, self.read_options)
        return {
            "size": self.size,
            "fit": self.fit,
            "faces": None if faces is None else asdict(faces),
            "seen": self.seen.state(),
            "pixel_limit": self.pixel_limit,
        }

    def prepare_data(self) -> None:
        """Build the cache and find near-duplicates, once per machine; the other processes read the results."""
        _ = self.clusters

    def setup(self, stage: str) -> None:
        """Split and over-sample, with the same rows in every process; warn of a leaky protocol once."""
        if "draws" not in self.__dict__ and self.division.flags:
            rank_zero_warn(f"protocol: {self.division.protocol}", stacklevel=2)
        _ = self.draws

    def train_dataloader(self) -> DataLoader:
        """Return this process's share of the epoch's batches."""
        rank, world_size = self._place()
        fixed = bool(getattr(self.trainer, "overfit_batches", 0))
        sampler = EpochBatchSampler(
            len(self.draws), self.batch_size, seed=self.seed, rank=rank, world_size=world_size, fixed=fixed
        )
        dataset = self._dataset(self.draws, training=True)
        options = loading(dataset, self.num_workers, self.trainer, self.batch_size)
        return ResumableLoader(dataset, batch_sampler=sampler, trained=self._trained, **options)

    def val_dataloader(self) -> DataLoader:
        """Return the val part, each row once over all processes."""
        return self.evaluation_loader(self.selected_on)

    def test_dataloader(self) -> DataLoader:
        """Return the test part, each row once over all processes."""
        return self.evaluation_loader(self.fold_rows.test)

    def predict_dataloader(self) -> DataLoader:
        """Return the test part."""
        return self.evaluation_loader(self.fold_rows.test)

    def evaluation_loader(self, rows: np.ndarray, *, alone: bool = False) -> DataLoader:
        """Return a loader of some rows without transforms, each row once over all processes; `alone` over this one."""
        rank, world_size = (0, 1) if alone else self._place()
        dataset = self._dataset(each_once(rows), training=False)
        sampler = None
        if world_size > 1:
            sampler = UnrepeatedDistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        size = self.eval_batch_size or self.batch_size
        options = loading(dataset, self.num_workers, self.trainer, size * world_size)
        return PlainLoader(dataset, batch_size=size, sampler=sampler, **options)

    def _dataset(self, draws: Draws, *, training: bool) -> EmotionDataset:
        votes = self.targets if training else None
        if votes is None and training and self.read_options.votes == "soft":
            votes = self.manifest.votes
        return EmotionDataset(
            self.cache,
            self.manifest.labels,
            draws,
            originals=self.for_originals if training else None,
            copies=self.for_copies if training else None,
            once=self.once,
            seed=self.seed,
            votes=votes,
        )

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _trained(self) -> int:
        """Number of batches of the current epoch that have been trained on."""
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current if self.trainer else None
        return int(progress.processed) if progress else 0


def _check_use(where: str, names: list[str], policy: str, n_min: object, once: bool) -> None:
    """Raise for options that would have no effect."""
    chosen = bool(names) or policy != "one_of"
    problem = ""
    if where == "none" and (chosen or once):
        problem = "--data.transforms, --data.policy and --data.once need --data.transform_where, which is none"
    elif where != "none" and not chosen:
        problem = f"--data.transform_where is {where}, but --data.transforms names none"
    elif where == "copies" and n_min is None:
        problem = "--data.transform_where is copies, but without --data.n_min there are none"
    elif where == "doubled" and n_min is not None:
        problem = f"--data.transform_where is doubled, which does not over-sample, but --data.n_min is {n_min!r}"
    if problem:
        msg = f"{problem}; change one of them"
        raise InputError(msg)
