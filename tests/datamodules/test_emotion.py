"""EmotionDataModule: what reaches the model, under one process or several, and after a resume at any batch."""

import shutil
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from PIL import Image

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.files.images import decode_count
from datamodules.readers import ReadOptions
from datamodules.splits.protocol import SeenImages

SIZES = {"happy": 40, "neutral": 24, "sad": 16}
SIZE = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of noise; two images of each class stand there twice."""
    root: Path = tmp_path_factory.mktemp("faces") / "faces"
    random = np.random.default_rng(0)
    for label, count in SIZES.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            if number >= 2:
                picture = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(picture).save(root / label / f"{number:02}.png")
        for number in range(2):
            (root / label / f"{number:02}.png").write_bytes((root / label / f"{number + 2:02}.png").read_bytes())
    return root


def module(source: Path, **options: Any) -> EmotionDataModule:
    return EmotionDataModule(
        **{
            "source": str(source),
            "size": SIZE,
            "batch_size": 16,
            "folds": 3,
            "inner_fraction": 0.2,
            "near_duplicates": False,
            "cache_dir": str(source.parent / "cache"),
            "num_workers": 0,
            "seed": 0,
            **options,
        }
    )


def ready(data: EmotionDataModule, rank: int = 0, world_size: int = 1) -> EmotionDataModule:
    data.prepare_data()
    data.setup("fit")
    if world_size > 1:
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)  # type: ignore[assignment]
    return data


def rows_of(loader: Any) -> list[list[int]]:
    return [batch["row"].tolist() for batch in loader]


def flat(lists: Iterable[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(lists))


def test_classes_open_no_image(source: Path) -> None:
    before = decode_count()
    data = module(source)
    assert sorted(data.classes) == ["happy", "neutral", "sad"]
    assert len(data.manifest) == 80
    assert decode_count() == before


def test_parts_are_disjoint_and_loaders_keep_to_them(source: Path) -> None:
    data = ready(module(source, n_min="max", transforms=["rotation"], transform_where="copies"))
    fold = data.fold_rows
    train = flat(rows_of(data.train_dataloader()))
    assert set(train) == set(fold.train.tolist())
    assert flat(rows_of(data.val_dataloader())) == fold.val.tolist()
    assert flat(rows_of(data.test_dataloader())) == fold.test.tolist()
    assert flat(rows_of(data.predict_dataloader())) == fold.test.tolist()
    contents = np.array(data.contents)
    for one, other in ((fold.train, fold.val), (fold.train, fold.test), (fold.val, fold.test)):
        assert not set(contents[one]) & set(contents[other])  # near-duplicates stay together
    seen = np.bincount(data.manifest.labels[train], minlength=3)
    np.testing.assert_array_equal(data.train_counts, seen)
    assert len(set(seen)) == 1
    assert len(train) == len(data.draws)


def test_folds_cover_every_row_once(source: Path) -> None:
    test = np.concatenate([ready(module(source, fold=fold)).fold_rows.test for fold in range(3)])
    np.testing.assert_array_equal(np.sort(test), np.arange(80))


def test_all_folds_share_one_decoding(source: Path, tmp_path: Path) -> None:
    before = decode_count()
    for fold in range(3):
        data = ready(module(source, fold=fold, cache_dir=str(tmp_path)))
        rows_of(data.train_dataloader())
    assert decode_count() - before == 80


def test_twins_are_looked_for_once_a_machine(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``prepare_data`` runs in one process, ``setup`` in each; the search must not be done by all of them at once."""
    options: dict[str, Any] = {"near_duplicates": True, "cache_dir": str(tmp_path)}
    module(source, **options).prepare_data()
    monkeypatch.setattr("datamodules.duplicates._verified", None)  # a search would fail
    other = module(source, **options)
    other.setup("fit")
    assert len(other.clusters) == 80


def test_data_modules_share_what_they_read_in_the_same_way(source: Path) -> None:
    first = ready(module(source))
    other_fold = module(source, fold=1, seed=7, transforms=["rotation"], transform_where="all")
    other_fold.share(first)
    assert other_fold.manifest is first.manifest
    assert other_fold.cache is first.cache
    assert other_fold.clusters is first.clusters
    other_size = module(source, size=24)
    other_size.share(first)
    assert other_size.manifest is first.manifest
    assert not {"cache", "clusters"} & set(vars(other_size))
    near = module(source, near_duplicates=True)
    near.share(first)
    assert near.cache is first.cache
    assert "clusters" not in vars(near)
    other_table = module(source, read=ReadOptions(part=0.5))
    other_table.share(first)
    assert not {"manifest", "cache", "clusters"} & set(vars(other_table))


def test_split_table_lists_every_use(source: Path) -> None:
    data = ready(module(source, fold=1, n_min=30))
    table = data.split_table()
    assert table.columns.tolist() == ["fold", "row", "content", "role", "is_copy", "cluster", "subject"]
    np.testing.assert_array_equal(table["content"], np.array(data.contents)[table["row"]])
    np.testing.assert_array_equal(table["cluster"], data.clusters[table["row"]])
    assert set(table["fold"]) == {1}
    train = table[table["role"] == "train"]
    np.testing.assert_array_equal(train["row"], data.draws.rows)
    assert train["is_copy"].sum() == len(data.draws) - len(data.fold_rows.train) > 0
    assert not table.loc[table["role"] != "train", "is_copy"].any()
    uses = table.drop_duplicates(["row", "role"])
    assert sorted(uses["row"]) == list(range(80))


@pytest.mark.parametrize("options", [{}, {"protocol": "paper", "inner_fraction": 0}, {"n_min": "max"}])
@pytest.mark.filterwarnings("ignore:protocol. selected on the reported fold")
def test_a_checkpoint_says_which_images_its_model_has_seen(source: Path, options: dict[str, Any]) -> None:
    data = ready(module(source, **options))
    seen = SeenImages.read(data.state_dict()["seen"])
    assert seen is not None
    contents = np.array(data.contents)
    used = [contents[data.fold_rows.train], contents[data.selected_on]]
    np.testing.assert_array_equal(seen.among(data.contents, selected=False), np.isin(contents, used[0]))
    np.testing.assert_array_equal(seen.among(data.contents), np.isin(contents, np.concatenate(used)))
    data.seen_before = SeenImages.of(["ab" * 16], ["cd" * 16])
    later = SeenImages.read(data.state_dict()["seen"])
    assert later is not None
    assert later.among(["ab" * 16, "cd" * 16, contents[data.fold_rows.train[0]], "ef" * 16]).tolist() == [1, 1, 1, 0]
    assert later.among(["ab" * 16, "cd" * 16], selected=False).tolist() == [1, 0]
    assert SeenImages.read({"size": 3}) is None


def test_evaluation_is_never_transformed(source: Path) -> None:
    data = ready(module(source, transforms=["rotation"], transform_where="all", base_policy="mild", erasing=0.5))
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            pixels = batch["image"].permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(pixels, data.cache.read(batch["row"].numpy()))
    plain = [
        (batch["image"].permute(0, 2, 3, 1).numpy() == data.cache.read(batch["row"].numpy())).all()
        for batch in data.train_dataloader()
    ]
    assert not any(plain)


def test_doubled(source: Path) -> None:
    data = ready(module(source, transforms=["rotation"], transform_where="doubled"))
    assert len(data.draws) == 2 * len(data.fold_rows.train)
    assert data.draws.is_copy.sum() == len(data.fold_rows.train)
    unchanged: dict[bool, list[bool]] = {False: [], True: []}  # by whether it is a copy
    for batch in data.train_dataloader():
        stored = torch.from_numpy(np.array(data.cache.read(batch["row"]))).permute(0, 3, 1, 2)
        for is_copy, same in zip(batch["is_copy"], (batch["image"] == stored).flatten(1).all(1), strict=True):
            unchanged[bool(is_copy)].append(bool(same))
    assert all(unchanged[False])
    assert np.mean(unchanged[True]) < 0.5  # a rotation by a small angle changes nothing


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch_exactly(source: Path, world_size: int) -> None:
    alone = ready(module(source, n_min="max"))
    ranks = [ready(module(source, n_min="max"), rank, world_size) for rank in range(world_size)]
    whole = rows_of(alone.train_dataloader())
    shares = [rows_of(data.train_dataloader()) for data in ranks]
    for step in range(len(shares[0]) - 1):  # a last batch too short for so many ranks joins the one before
        assert sorted(flat(share[step] for share in shares)) == sorted(whole[step])
    assert sorted(flat(flat(shares))) == sorted(flat(whole))
    for name in ("val_dataloader", "test_dataloader"):
        parts = [flat(rows_of(getattr(data, name)())) for data in ranks]
        assert sorted(flat(parts)) == flat(rows_of(getattr(alone, name)()))  # none padded, none lost


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # the cores are made up
@pytest.mark.parametrize(("devices", "local", "workers"), [(1, "", 6), (3, "", 2), (1, "2", 3), (9, "", 1)])
def test_loading_processes_share_the_cores_of_the_machine(
    source: Path, monkeypatch: pytest.MonkeyPatch, devices: int, local: str, workers: int
) -> None:
    monkeypatch.setattr("datamodules.emotion.cores", lambda: 6)
    monkeypatch.setattr("datamodules.emotion.TINY", 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local or "1")  # how torchrun tells what it started
    data = ready(module(source, base_policy="mild", num_workers=None))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, num_devices=devices, overfit_batches=0)  # type: ignore[assignment]
    assert data.train_dataloader().num_workers == workers


@pytest.mark.parametrize("split", ["folds", "holdout"])
def test_seed_and_fold_seed_are_apart(source: Path, split: str) -> None:
    first, second = (ready(module(source, split=split, seed=seed, n_min="max")) for seed in (0, 1))
    np.testing.assert_array_equal(first.fold_rows.test, second.fold_rows.test)
    np.testing.assert_array_equal(first.fold_rows.val, second.fold_rows.val)
    assert rows_of(first.train_dataloader()) != rows_of(second.train_dataloader())
    other = ready(module(source, split=split, fold_seed=1))
    assert first.fold_rows.test.tolist() != other.fold_rows.test.tolist()


def test_global_seed_is_the_default(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert module(source, seed=None).seed == 7
    assert module(source, seed=0).seed == 0


def given(source: Path, tmp_path: Path, leak: str, column: bool = True, **options: Any) -> EmotionDataModule:
    """The same images with a split of their own in which every twin leaks: each class's first two to test."""
    files = sorted(source.rglob("*.png"))
    table = pd.DataFrame({"path": [f.relative_to(source).as_posix() for f in files]})
    table["label"] = table["path"].str.split("/").str[0]
    number = table["path"].str[-6:-4].astype(int)
    if column:
        table["split"] = np.where(number < 2, "test", np.where(number > 12, "validation", "train"))
    table.to_csv(source / "labels.csv", index=False)
    try:
        data = module(source / "labels.csv", split="given", leak=leak, cache_dir=str(tmp_path), **options)
        _ = data.manifest
    finally:
        (source / "labels.csv").unlink()
    return data


def test_given_split_that_leaks(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"split leaks.*--drop-twins.*--allow-leak"):
        ready(given(source, tmp_path, "error"))
    dropped = ready(given(source, tmp_path, "drop_twins"))
    assert dropped.leak_record["dropped_rows"] == dropped.leak_record["dropped_train_rows"] == 6
    assert dropped.leak_record["dropped_val_rows"] == 0
    assert not set(np.array(dropped.contents)[dropped.fold_rows.train]) & set(
        np.array(dropped.contents)[dropped.fold_rows.test]
    )
    with pytest.warns(UserWarning, match="protocol: near-duplicates across the given split kept"):
        allowed = ready(given(source, tmp_path, "allow"))
    assert len(allowed.fold_rows.train) == len(dropped.fold_rows.train) + 6
    assert set(dropped.manifest.table["split"].iloc[dropped.fold_rows.test]) == {"test"}
    other = ready(
        given(source, tmp_path, "allow", outer="validation")
    )  # whose near-duplicates are in test, which is not used
    assert other.division.protocol == "honest"
    assert set(other.manifest.table["split"].iloc[other.fold_rows.test]) == {"validation"}
    with pytest.raises(InputError, match=r"--split given: .* nor a split column"):
        ready(given(source, tmp_path, "allow", column=False))


def test_unreadable_pictures_stop_the_run_and_are_named(source: Path, tmp_path: Path) -> None:
    bad = source / "sad" / "99.png"
    bad.write_bytes(b"")
    try:
        with pytest.raises(
            InputError,
            match=r"1 of 81 images .*: sad/99\.png.*emotion data check --data .*faces --fix cleaned\.csv, then",
        ):
            ready(module(source, cache_dir=str(tmp_path)))
    finally:
        bad.unlink()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_a_picture_that_breaks_later_is_told_without_a_workers_traceback(
    source: Path, tmp_path: Path, workers: int, loader: str
) -> None:
    root = shutil.copytree(source, tmp_path / "faces")
    cache: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "cache_budget_gb": 1e-6}  # decoded on the fly
    with pytest.warns(UserWarning, match="decoded"):
        data = ready(module(root, num_workers=workers, **cache))
    for bad in root.rglob("*.png"):
        bad.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^Image \S+\.png .*\.$") as error:
        rows_of(getattr(data, loader)())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fold": 3}, r"--data.fold: must be in 0 to 2, since there are 3 folds, got 3"),
        ({"transforms": ["flip"]}, "need --data.transform_where, which is none"),
        ({"transform_where": "all"}, "transforms names none"),
        ({"transform_where": "copies", "policy": "mild"}, "without --data.n_min there are none"),
        ({"transform_where": "doubled", "policy": "mild", "n_min": 5}, "does not over-sample"),
        ({"once": True}, "need --data.transform_where, which is none"),
        ({"transforms": ["spin"], "transform_where": "all"}, "--data.transforms: must be among"),
        ({"holdout_fraction": 0.25}, r"--data.holdout_fraction is 0\.25.*but the split is folds"),
        ({"holdout_fraction": 0.3, "split": "given"}, r"--data.holdout_fraction is 0\.3.*but the split is given"),
        ({"outer": "test"}, "--data.outer is test, .*but the split is folds"),
        ({"leak": "allow", "split": "holdout"}, "--data.leak is allow.*but the split is holdout"),
        ({"fold": 1, "split": "given"}, "--data.fold is 1.*but the split is given"),
    ],
)
def test_options_that_would_do_nothing_are_errors(source: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        module(source, **options)


@pytest.mark.parametrize("fraction", [0, 0.0, 1.0, -0.1])
def test_an_inner_part_is_needed_to_select_on(source: Path, fraction: float) -> None:
    with pytest.raises(InputError, match=r"--data.inner_fraction: must be above 0 .*selected on this part"):
        module(source, inner_fraction=fraction)


def test_copies_that_do_not_occur_are_noted(source: Path) -> None:
    data = module(source, n_min=2, transforms=["flip"], transform_where="copies")
    ready(data)
    (note,) = [note for note in data.notes if "over-sampling" in note]
    assert note.startswith("no class is rare enough for over-sampling (--data.n_min 2), so no image is copied")
    enough = module(source, n_min="max", transforms=["flip"], transform_where="copies")
    ready(enough)
    assert not [note for note in enough.notes if "over-sampling" in note]


@pytest.mark.parametrize("value", [1, True, 0])
def test_n_min_of_one_image_is_taken_for_a_slip(source: Path, value: int) -> None:
    with pytest.raises(InputError, match=r"--data.n_min: must be at least 2 images, a fraction .* 1\.0,"):
        ready(module(source, n_min=value))


def test_holdout_fraction(source: Path) -> None:
    assert len(ready(module(source, split="holdout")).fold_rows.test) == pytest.approx(16, abs=2)
    assert len(ready(module(source, split="holdout", holdout_fraction=0.4)).fold_rows.test) == pytest.approx(32, abs=2)


def test_n_min_below_zero(source: Path) -> None:
    with pytest.raises(InputError, match=r"--data.n_min: must be .*got -5"):
        ready(module(source, n_min=-5))


class Recorder(L.LightningModule):
    """Learns next to nothing and writes down which rows and pixels every step saw."""

    def __init__(self, stop_inside: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.seen: list[tuple[int, int, list[int], int]] = []
        self.stop_inside = stop_inside

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.stop_inside is not None and self.global_step == self.stop_inside:
            raise RuntimeError("stopped inside a step")
        image = batch["image"].float()
        self.seen.append((self.current_epoch, batch_idx, batch["row"].tolist(), int(image.sum())))
        return torch.nn.functional.cross_entropy(self.layer(image.mean(dim=(2, 3)) / 255), batch["label"])

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class SaveBeforeStep(Callback):
    """Saves when a batch is fetched but not yet trained on, as a run stopped by Ctrl-C does."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


class SaveOnException(Callback):
    """Saves with a step half done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def train(
    source: Path,
    callbacks: list[Callback],
    resume: Path | None = None,
    workers: int = 0,
    stop_inside: int | None = None,
) -> Recorder:
    data = module(source, n_min="max", transforms=["rotation", "zoom"], transform_where="copies", num_workers=workers)
    recorder = Recorder(stop_inside)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(recorder, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    except RuntimeError as error:
        if "stopped inside" not in str(error):
            raise
    return recorder


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*"),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_after_any_step_sees_the_batches_it_would_have_seen(
    source: Path, tmp_path: Path, workers: int
) -> None:
    every_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = train(source, [every_step], workers=workers).seen
    per_epoch = sum(epoch == 0 for epoch, *_ in whole)
    assert len(whole) == 3 * per_epoch
    assert len({tuple(rows) for _, _, rows, _ in whole}) == len(whole)
    for step in range(1, len(whole)) if workers == 0 else (per_epoch + 2,):
        resumed = train(source, [], tmp_path / f"step={step}.ckpt", workers).seen
        assert resumed == whole[step:], f"resumed after step {step}"


@pytest.mark.parametrize(
    "saver",
    [
        lambda folder: ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1),  # after validation
        lambda folder: ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True),
    ],
)
def test_a_run_resumed_between_epochs(source: Path, tmp_path: Path, saver: Callable[[Path], Callback]) -> None:
    whole = train(source, [saver(tmp_path)]).seen
    per_epoch = len(whole) // 3
    for epoch in (0, 1):
        assert train(source, [], tmp_path / f"epoch={epoch}.ckpt").seen == whole[(epoch + 1) * per_epoch :]


def test_a_run_stopped_inside_a_step_repeats_that_step(source: Path, tmp_path: Path) -> None:
    whole = train(source, []).seen
    for step in (1, len(whole) // 3, len(whole) // 3 + 2):
        file = tmp_path / f"{step}.ckpt"
        train(source, [SaveOnException(file)], stop_inside=step)
        assert train(source, [], file).seen == whole[step:], f"stopped inside step {step}"


def test_a_run_saved_before_a_step(source: Path, tmp_path: Path) -> None:
    whole = train(source, []).seen
    for step in (0, 1, len(whole) // 3, len(whole) // 3 + 2):
        file = tmp_path / f"{step}.ckpt"
        train(source, [SaveBeforeStep(file, step)])
        assert train(source, [], file).seen == whole[step:], f"saved before step {step}"
