"""Search spaces: what is drawn, the points of a grid, and the format of a file."""

import json
from pathlib import Path

import optuna
import pytest

from datamodules.errors import InputError
from sweeps.spaces import SPACES, Choice, Real, Subset, Whole, build_space, grid, portable, suggest


def drawn(space: dict, times: int = 60) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space) for _ in range(times)]


def test_named_spaces_combine_and_conditions_hold() -> None:
    for options in drawn(build_space(["loss", "optimizer"])):
        loss = options["model.loss"]
        assert ("model.loss.gamma" in options) == (loss == "Focal")
        assert ("model.loss.tau" in options) == (loss == "LogitAdjustment")
        assert 1e-4 <= options["model.learning_rate"] <= 1e-2
        assert next(iter(options)) == "model.loss"


@pytest.mark.parametrize("name", SPACES)
def test_every_named_space_names_real_options(name: str) -> None:
    from datamodules.emotion import EmotionDataModule
    from datamodules.transforms import TRANSFORMS
    from lightning_modules import losses
    from lightning_modules.classifier import EmotionClassifier
    from sweeps.search import check_names

    check_names(SPACES[name])
    for dimension in SPACES[name].values():
        if isinstance(dimension, Subset):
            assert set(dimension.among) <= set(TRANSFORMS)
    if name == "loss":
        for parameter in ("gamma", "tau", "max_margin", "label_smoothing"):
            kind = SPACES[name][f"model.loss.{parameter}"].when["model.loss"][0]
            assert hasattr(losses, str(kind))
            getattr(losses, str(kind))(**{parameter: 0.5})
    assert EmotionDataModule
    assert EmotionClassifier


def test_transforms_and_their_magnitudes_are_searched_together() -> None:
    seen = drawn(build_space(["transforms"]))
    assert {one["data.magnitude"] for one in seen} == {0.25 * step for step in range(1, 9)}
    assert len({tuple(one["data.transforms"]) for one in seen}) > 50


def test_subsets_have_their_least_and_lists_are_values() -> None:
    space = {"data.transforms": Subset(("flip", "zoom", "blur"), least=2), "x": Choice(([1, 2], "a", None, True))}
    options = drawn(space)
    assert {len(one["data.transforms"]) for one in options} == {2, 3}
    assert [1, 2] in [one["x"] for one in options]
    assert all(
        one["data.transforms"] == sorted(one["data.transforms"], key=("flip", "zoom", "blur").index) for one in options
    )


def test_a_grid_holds_each_combination_once() -> None:
    space = {
        "loss": Choice(("A", "B")),
        "gamma": Real(0.5, 1.5, step=0.5, when={"loss": ("B",)}),
        "size": Whole(32, 96, step=32),
    }
    cells = grid(space)
    assert len(cells) == (1 + 3) * 3
    assert {"loss": "B", "gamma": 1.5, "size": 96} in cells
    assert {"loss": "A", "size": 32} in cells
    assert len(grid({"t": Subset(("a", "b", "c"))})) == 7  # none at all becomes the first
    with pytest.raises(InputError, match=r"model.learning_rate: a grid needs finitely many values.*give it a step"):
        grid(SPACES["optimizer"])


def test_a_queued_cell_is_what_is_drawn() -> None:
    space = build_space(["loss"])
    cells = grid(space)
    study = optuna.create_study()
    for cell in cells:
        study.enqueue_trial(cell)
    seen = [suggest(study.ask(), space) for _ in cells]
    assert len({str(one) for one in seen}) == len(cells)


def test_a_file_of_a_few_lines_is_a_space(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "model.learning_rate: {real: [1e-4, 1e-2], log: true}\n"
        "model.loss: {choice: [CrossEntropy, Focal]}\n"
        "model.loss.gamma: {real: [0.5, 5], when: {model.loss: Focal}}\n"
        "data.size: {whole: [32, 96], step: 16}\n"
        "data.transforms: {subset: [flip, rotation], least: 1}\n"
    )
    space = build_space([str(file)])
    assert build_space(json.loads(json.dumps(portable([str(file), "balance"])))) == space | SPACES["balance"]
    assert space["model.learning_rate"] == Real(1e-4, 1e-2, log=True)
    assert space["model.loss.gamma"] == Real(0.5, 5.0, when={"model.loss": ("Focal",)})
    assert space["data.size"] == Whole(32, 96, step=16)
    assert space["data.transforms"] == Subset(("flip", "rotation"), least=1)
    assert len(drawn(build_space([str(file), "balance"]))) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.x: 3\n", "one of choice, subset, real or whole"),
        ("model.x: {real: [1]}\n", "real takes a list of lowest and highest"),
        ("model.x: {real: [2, 1]}\n", "low must be below high"),
        ("model.x: {real: [0, 1], log: true}\n", "above 0 with log"),
        ("model.x: {real: [a, b]}\n", "takes numbers"),
        ("model.x: {whole: [1.5, 3]}\n", r"whole takes whole numbers, got \[1.5, 3\]"),
        ("model.x: {choice: [1], when: Focal}\n", "when takes an option and its values"),
        ("model.x: {subset: [a, b], least: 3}\n", "least must be a whole number from 0 to 2, got 3"),
        ("model.x: {subset: [a, b], least: many}\n", "least must be a whole number from 0 to 2, got 'many'"),
        ("model.x: {choice: [1], least: 2}\n", "one of choice, subset, real or whole"),
        ("model.x: {choice: [1], when: {model.y: 2}}\n", "depends on model.y, which must be listed before it"),
        ("- 1\n", "must contain one option per line"),
        ("a: [\n", "not readable YAML"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        build_space([str(tmp_path / "wrong.yaml")])


def test_unknown_and_doubled_spaces_are_told() -> None:
    with pytest.raises(InputError, match="or a YAML file, got 'nothing'"):
        build_space(["nothing"])
    with pytest.raises(InputError, match=r"model.backbone is in an earlier space"):
        build_space(["backbone", "lite"])
    with pytest.raises(InputError, match="--space: must be at least one of"):
        build_space([])


def test_a_dimension_knows_its_values() -> None:
    assert Choice((48, 64)).contains(48)
    assert not Choice((48, 64)).contains(224)
    rate = Real(1e-4, 1e-2, log=True)
    assert rate.contains(5e-3)
    assert not any(map(rate.contains, (5.0, "5", True)))
    assert Real(0.5, 1.5, step=0.25).contains(0.75)
    assert not Real(0.5, 1.5, step=0.25).contains(0.8)
    assert Whole(2, 8, step=2).contains(6)
    assert not Whole(2, 8, step=2).contains(5)
    assert Subset(("a", "b")).contains(True)
