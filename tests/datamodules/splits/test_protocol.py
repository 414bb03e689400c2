"""How one run divides its rows: the honest default, and the leaky protocols that can be asked for."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError

CLASSES = {"happy": 30, "neutral": 18, "sad": 9}
IMAGES = sum(CLASSES.values())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of noise in which every image has two near-duplicates of its class."""
    root: Path = tmp_path_factory.mktemp("twins") / "faces"
    random = np.random.default_rng(0)
    for label, count in CLASSES.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            if number % 3 == 0:
                picture = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(root / label / f"{number:02}.png")
    return root


def module(source: Path, **options: Any) -> EmotionDataModule:
    fixed = {"source": str(source), "size": 8, "batch_size": 16, "folds": 3, "near_duplicates": False, "seed": 0}
    return EmotionDataModule(**{**fixed, "cache_dir": str(source.parent / "cache"), "num_workers": 0, **options})


def ready(data: EmotionDataModule) -> EmotionDataModule:
    data.prepare_data()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="protocol: ")
        data.setup("fit")
    return data


def folds(source: Path, **options: Any) -> list[EmotionDataModule]:
    return [ready(module(source, fold=fold, **options)) for fold in range(3)]


def rows_of(loader: Any) -> list[int]:
    return [row for batch in loader for row in batch["row"].tolist()]


def shared(data: EmotionDataModule, one: np.ndarray, other: np.ndarray) -> set[int]:
    return set(data.clusters[one].tolist()) & set(data.clusters[other].tolist())


def test_the_default_is_honest(source: Path) -> None:
    for data in folds(source, inner_fraction=0.3, n_min="max"):
        fold = data.fold_rows
        assert data.division.protocol == "honest"
        assert data.leak_record == {}
        assert data.division.copies is None
        assert rows_of(data.val_dataloader()) == fold.val.tolist()
        assert not set(fold.val) & set(fold.test)
        assert not shared(data, data.draws.rows, fold.val)
        assert not shared(data, np.concatenate([data.draws.rows, fold.val]), fold.test)


def test_the_papers_protocol_trains_on_all_the_rest_and_selects_on_what_it_reports(source: Path) -> None:
    for data in folds(source, protocol="paper"):
        fold = data.fold_rows
        assert rows_of(data.val_dataloader()) == rows_of(data.test_dataloader()) == fold.test.tolist()
        assert sorted([*fold.train, *fold.test]) == list(range(IMAGES))
        assert not shared(data, fold.train, fold.test)  # one thing is changed at a time
        assert data.leak_record == {"selected_on": "reported fold"}
        assert data.division.protocol.startswith("selected on the reported fold (leaky: ")
        table = data.split_table()
        assert set(table["role"]) == {"train", "test"}
        assert table["row"].is_unique


def test_a_holdout_and_a_given_split_can_be_selected_on_too(source: Path) -> None:
    held = ready(module(source, split="holdout", protocol="paper", inner_fraction=0))
    assert rows_of(held.val_dataloader()) == held.fold_rows.test.tolist()
    assert len(held.fold_rows.train) + len(held.fold_rows.test) == IMAGES
    data = module(source, split="given", protocol="paper", leak="allow")
    data.manifest.table["split"] = np.resize(["train", "train", "validation", "test"], IMAGES)
    data = ready(data)
    assert rows_of(data.val_dataloader()) == data.fold_rows.test.tolist() == list(range(3, IMAGES, 4))
    assert data.division.flags == ("selected on the reported fold", "near-duplicates across the given split kept")
    assert (data.leak_record["selected_on"], data.leak_record["leak"]) == ("reported fold", "allow")
    assert data.leak_record["leaking_clusters"] > 0


def test_rows_divided_one_by_one_leak_duplicates_which_are_counted(source: Path) -> None:
    modules = folds(source, leak="duplicates", inner_fraction=0.3)
    for data in modules:
        fold = data.fold_rows
        used = np.concatenate([fold.train, fold.val])
        leaking = shared(data, used, fold.test)
        assert len(leaking) == data.leak_record["leaking_clusters"] > 5
        assert data.leak_record["leak"] == "duplicates"
        assert data.leak_record["leaking_test_rows"] == sum(data.clusters[row] in leaking for row in fold.test)
        assert data.leak_record["leaking_train_rows"] == sum(data.clusters[row] in leaking for row in used)
        assert not set(used) & set(fold.test)
        assert rows_of(data.val_dataloader()) == fold.val.tolist()
        assert data.division.flags == ("duplicates and people divided",)
    assert sorted(row for data in modules for row in data.fold_rows.test) == list(range(IMAGES))


@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_oversampling_first_trains_on_copies_of_what_is_reported(source: Path, protocol: str) -> None:
    modules = folds(source, leak="oversample_first", n_min="max", protocol=protocol)
    assert sorted(row for data in modules for row in rows_of(data.test_dataloader())) == list(range(IMAGES))
    for data in modules:
        fold, table = data.fold_rows, data.split_table()
        copied = set(data.draws.rows[data.draws.is_copy])
        assert set(data.draws.rows[~data.draws.is_copy]) == set(fold.train)
        assert copied & set(fold.test)
        assert data.leak_record["test_rows_with_a_copy_in_training"] == len(copied & set(fold.test))
        assert sorted(rows_of(data.train_dataloader())) == sorted(data.draws.rows)
        assert rows_of(data.test_dataloader()) == fold.test.tolist()
        assert rows_of(data.val_dataloader()) == data.selected_on.tolist()
        # the same table of 3 * 30 rows is divided in every fold, each original in one part
        assert np.bincount(data.manifest.labels[table["row"]]).tolist() == [30, 30, 30]
        assert sorted(table.loc[~table["is_copy"], "row"]) == list(range(IMAGES))
        assert table.loc[table["role"] == "test", "is_copy"].any()
    copies = [np.sort(data.split_table().query("is_copy")["row"]) for data in modules]
    for other in copies[1:]:
        np.testing.assert_array_equal(copies[0], other)
    apart = [data.split_table().query("is_copy and role == 'test'")["row"] for data in modules]
    np.testing.assert_array_equal(np.sort(np.concatenate(apart)), copies[0])  # each copy is set aside once, too


def test_copies_do_not_depend_on_the_seed_of_training(source: Path) -> None:
    one, two = (ready(module(source, leak="oversample_first", n_min=20, seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(one.draws.rows, two.draws.rows)
    other = ready(module(source, leak="oversample_first", n_min=20, fold_seed=1))
    assert one.draws.rows.tolist() != other.draws.rows.tolist()


def test_copies_before_a_holdout_are_transformed_in_training(source: Path) -> None:
    options = {"split": "holdout", "transforms": ["rotation"], "transform_where": "copies"}
    data = ready(module(source, leak="oversample_first", n_min="max", **options))
    for batch in data.train_dataloader():
        pixels = batch["image"].permute(0, 2, 3, 1).numpy() == data.cache.read(batch["row"].numpy())
        np.testing.assert_array_equal(pixels.all(axis=(1, 2, 3)), ~batch["is_copy"].numpy())
    test = data.split_table().query("role == 'test'")
    assert test["is_copy"].sum() == pytest.approx(0.2 * 33, abs=2)


def test_a_leaky_run_says_so_once(source: Path) -> None:
    data = module(source, leak="duplicates", protocol="paper")
    data.prepare_data()
    with pytest.warns(UserWarning, match=r"^protocol: selected on the reported fold, duplicates and people divided \("):
        data.setup("fit")
    data.setup("test")  # a second warning would be an error
    honest = module(source)
    honest.prepare_data()
    honest.setup("fit")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"leak": "oversample_first"}, "--data.leak: needs --data.n_min, without which nothing is over-sampled"),
        (
            {"leak": "duplicates", "split": "given"},
            "--data.leak is duplicates, which only --data.split folds and holdout use",
        ),
        (
            {"leak": "drop_twins"},
            "--data.leak is drop_twins, which only --data.split given uses, but the split is folds",
        ),
        (
            {"protocol": "paper", "inner_fraction": 0.05},
            r"--data.inner_fraction: must be 0 with --data.protocol paper, .*got 0\.05",
        ),
        ({"inner_fraction": 0}, r"--data.inner_fraction: must be above 0 .*got 0; "),
    ],
)
def test_options_that_do_not_fit_are_errors(source: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        module(source, **options)


def test_nothing_to_oversample_first_is_an_error(source: Path) -> None:
    with pytest.raises(InputError, match=r"no class has fewer images than --data.n_min 9 asks for"):
        ready(module(source, leak="oversample_first", n_min=9))
