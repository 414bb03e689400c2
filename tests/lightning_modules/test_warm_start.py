"""Further training begins with all weights of a run, and not with one that knows what will be reported."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.errors import InputError
from datamodules.splits.protocol import SeenImages
from lightning_modules import warm_start
from lightning_modules.checkpoints import CONFIG_KEY, store_in_checkpoint
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.warm_start import check_resumed, check_weights, note_known_val, start_from_weights, write_soup

SMALL: dict[str, Any] = {"backbone": "test_resnet", "weights": "none"}
CONTENTS = [f"{row:032x}"[::-1] for row in range(6)]


def images(**changes: Any) -> Any:
    """Six images: two near-duplicates, two of one person, and two to report on."""
    plan = SimpleNamespace(protocol=changes.pop("protocol", "honest"))
    usual = {
        "manifest": SimpleNamespace(fingerprint=lambda: "same", table=()), "contents": CONTENTS, "plan": plan,
        "clusters": np.array([0, 0, 1, 1, 2, 3]), "fold_rows": SimpleNamespace(test=np.array([4, 5])),
        "seen_before": SeenImages(),
    }  # fmt: skip
    return cast(Any, SimpleNamespace(**{**usual, **changes}))


ELSEWHERE = "ff" * 16  # the content of an image that is not among these
OTHERS = SeenImages.of([ELSEWHERE], [])


def kept(
    folder: Path, classes: list[str], seen: SeenImages | None = OTHERS, **options: object
) -> tuple[EmotionClassifier, Path]:
    model = EmotionClassifier(classes, **{**SMALL, **options})  # type: ignore[arg-type]
    data = {"size": 32, "fit": "crop", **({"seen": seen.state()} if seen else {})}
    content = {CONFIG_KEY: model.plain, "state_dict": model.state_dict(), "EmotionDataModule": data}
    torch.save(content, folder / "best.ckpt")
    return model, folder / "best.ckpt"


def test_backbone_and_head_are_those_of_the_file(tmp_path: Path) -> None:
    known, path = kept(tmp_path, ["happy", "sad"])
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    heads = [one.head.state_dict().values() for one in (model, known)]
    assert not all(torch.equal(one, other) for one, other in zip(*heads, strict=True))
    start_from_weights(model, images(), str(path))
    for name, tensor in known.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_another_model_is_refused(tmp_path: Path) -> None:
    _, path = kept(tmp_path, ["happy", "sad"])
    with pytest.raises(
        InputError, match=r"--run.start_from .* was trained on the classes happy, sad; the data has sad, happy"
    ):
        start_from_weights(EmotionClassifier(["sad", "happy"], **SMALL), images(), str(path))
    dense = EmotionClassifier(["happy", "sad"], head="dense_dense", **SMALL)
    with pytest.raises(InputError, match=r"best.ckpt has head 'linear', this run 'dense_dense'; give both the same"):
        start_from_weights(dense, images(), str(path))
    with pytest.raises(InputError, match="no such file"):
        start_from_weights(dense, images(), "gone.ckpt")


@pytest.mark.parametrize(
    ("trained", "selected", "known"),
    [
        ([0, 1, 2], [3], 0),
        ([0, 1, 4], [3], 1),
        ([0, 1], [4, 5], 2),
        ([], [], 0),
    ],
)
@pytest.mark.parametrize("by", ["file", "run", "ckpt_path", "weights"])
def test_a_model_that_has_seen_what_is_reported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[int], selected: list[int], known: int, by: str
) -> None:
    """Whichever data set it was trained on, and whichever option names it."""
    seen = SeenImages.of([*(CONTENTS[row] for row in trained), ELSEWHERE], [CONTENTS[row] for row in selected])
    _, path = kept(tmp_path, ["happy", "sad"], seen)
    monkeypatch.setattr(warm_start, "find_trained_run", lambda run: run)
    monkeypatch.setattr(warm_start, "run_checkpoint", lambda run: path)
    data = images(manifest=SimpleNamespace(fingerprint=lambda: "of no other run", table=()))
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    begin: dict[str, Callable[[], None]] = {
        "file": lambda: start_from_weights(model, data, str(path)),
        "run": lambda: start_from_weights(model, data, "abc"),
        "ckpt_path": lambda: check_resumed(model, data, str(path)),
        "weights": lambda: check_weights(data, str(path)),
    }
    if known:
        with pytest.raises(InputError, match=f"was trained or selected on {known} of the 2 images that this run"):
            begin[by]()
        return
    begin[by]()
    assert data.seen_before.among([ELSEWHERE]).all()  # a model that begins with this one has seen them, too
    assert data.seen_before.among(CONTENTS).tolist() == [row in trained + selected for row in range(6)]


def test_images_of_one_cluster_with_the_reported_ones_count_too(tmp_path: Path) -> None:
    _, path = kept(tmp_path, ["happy", "sad"], SeenImages.of([CONTENTS[0]], []))
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    start_from_weights(model, images(), str(path))
    with pytest.raises(InputError, match=r"on 1 of the 2 images .* \(or on near-duplicates of them or images of the"):
        start_from_weights(model, images(clusters=np.array([0, 0, 1, 1, 0, 3])), str(path))


def test_weights_that_were_trained_on_the_val_part_are_noted_and_promise_nothing() -> None:
    val = {"selected_on": np.array([2, 3])}
    for seen in (SeenImages(), SeenImages.of(CONTENTS[:2], CONTENTS[2:4])):  # selecting on it once more is no harm
        assert note_known_val(images(seen_before=seen, **val), ("risk", 0.1)) == ""
    known = images(seen_before=SeenImages.of([CONTENTS[3]], []), **val)  # 2 is of the same cluster
    assert "were trained on 2 of the 2 images of its val part" in note_known_val(known, None)
    with pytest.raises(InputError, match=r"^--run.risk 0.1: .* so it would not hold; leave it out, or divide"):
        note_known_val(known, ("risk", 0.1))
    assert note_known_val(images(seen_before=known.seen_before, protocol="paper", **val), None) == ""


def test_a_run_that_selects_on_what_it_reports_may_begin_with_one_that_did(tmp_path: Path) -> None:
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    _, path = kept(tmp_path, ["happy", "sad"], SeenImages.of(CONTENTS[:4], CONTENTS[4:]))
    start_from_weights(model, images(protocol="paper"), str(path))
    _, path = kept(tmp_path, ["happy", "sad"], SeenImages.of(CONTENTS[3:5], CONTENTS[4:]))
    with pytest.raises(InputError, match="on 1 of the 2 images"):
        start_from_weights(model, images(protocol="paper"), str(path))


def test_a_file_that_does_not_say_what_it_has_seen_is_refused(tmp_path: Path) -> None:
    _, path = kept(tmp_path, ["happy", "sad"], None)
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    with pytest.raises(
        InputError, match=r"does not record which images .* name the run that wrote the file instead, or"
    ):
        start_from_weights(model, images(), str(path))
    with pytest.raises(InputError, match=r"^--ckpt_path: .* does not record .* use --run.start_from with the run"):
        check_resumed(model, images(), str(path))
    torch.save({"state_dict": model.backbone.state_dict()}, tmp_path / "published.pth")
    check_weights(images(), str(tmp_path / "published.pth"))


@pytest.mark.parametrize(
    ("roles", "tags", "config", "message"),
    [
        ({"train": [0, 1, 2], "val": [3], "test": [4, 5]}, {}, {}, None),
        ({"train": [0, 1, 4], "val": [3], "test": [5]}, {}, {}, "on 1 of the 2 images"),
        ({"train": [0, 1], "val": [4, 5], "test": [3]}, {}, {}, "on 2 of the 2 images"),
        ({"train": [0, 1], "test": [4, 5]}, {"selected_on": "reported fold"}, {}, "on 2 of the 2 images"),
        ({"train": [0, 1]}, {"manifest": "other"}, {}, "does not record"),  # rows mean other images there
        ({"train": [0, 1]}, {}, {"run": {"start_from": "earlier"}}, "does not record"),
    ],
)
def test_of_an_older_run_its_split_table_tells(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    roles: dict[str, list[int]],
    tags: dict[str, str],
    config: dict[str, Any],
    message: str | None,
) -> None:
    _, path = kept(tmp_path, ["happy", "sad"], None)
    split = pd.DataFrame([{"role": role, "row": row} for role, rows in roles.items() for row in rows])
    row = {f"tags.{name}": value for name, value in {"manifest": "same", **tags}.items()}
    monkeypatch.setattr(warm_start, "find_trained_run", lambda run: run)
    monkeypatch.setattr(warm_start, "run_checkpoint", lambda run: path)
    monkeypatch.setattr(warm_start, "run_row", lambda run: row)
    monkeypatch.setattr(warm_start, "run_config", lambda run: config)
    monkeypatch.setattr(warm_start, "load_table", lambda *_: split)
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    if message is None:
        start_from_weights(model, images(), "abc")
        return
    with pytest.raises(InputError, match=message):
        start_from_weights(model, images(), "abc")


class Fixed:
    """A network that answers every image alike."""

    def __init__(self, answer: list[float], trained: list[int], size: int = 8) -> None:
        self.answer, self.size, self.fit, self.faces = answer, size, "crop", None
        self.seen = SeenImages.of([CONTENTS[row] for row in trained], [])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        assert images.shape[1:] == (self.size, self.size, 3)
        return np.tile(np.array(self.answer, np.float32), (len(images), 1))


def taught(monkeypatch: pytest.MonkeyPatch, members: list[Fixed], share: float = 0.5, **changes: Any) -> np.ndarray:
    teacher = SimpleNamespace(members=members, classes=["happy", "sad"], faces=None)
    monkeypatch.setattr("lightning_modules.predictor.Predictor", SimpleNamespace(load=lambda *sources: teacher))
    monkeypatch.setattr(warm_start.FaceCrops, "of", lambda *_: None)
    labels = np.array([0, 1, 0, 1, 0, 1])
    manifest = SimpleNamespace(fingerprint=lambda: "same", table=(), labels=labels, votes=None)
    cache = SimpleNamespace(read=lambda rows: np.zeros((len(rows), 8, 8, 3), np.uint8))
    data = images(
        manifest=manifest, classes=["happy", "sad"], read_options=SimpleNamespace(votes="ignore"), size=8, fit="crop",
        draws=SimpleNamespace(rows=np.array([0, 1, 2, 3, 3])), cache=cache, **changes,
    )  # fmt: skip
    warm_start.learn_from_teacher(data, ["a run"], share)
    assert data.seen_before.among(CONTENTS).any()  # a model that learns from another has seen its images, too
    targets: np.ndarray = data.targets
    return targets


def test_a_teacher_answers_by_the_networks_that_did_not_train_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Fixed([0.9, 0.1], [1, 2]), Fixed([0.5, 0.5], [0, 2]), Fixed([0.1, 0.9], [0, 1, 2])]
    targets = taught(monkeypatch, members, share=0.25)
    answers = [0.9, 0.5, 0.5, 0.5]  # by the first, by the second, by all who saw it, by all of whom nobody did
    expected = [0.75 * (row % 2 == 0) + 0.25 * answer for row, answer in enumerate(answers)]
    np.testing.assert_allclose(targets[:4, 0], expected, atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1)
    np.testing.assert_array_equal(targets[4:], np.eye(2))  # rows that are not trained on keep their labels


def test_a_teacher_that_has_seen_what_is_reported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--run.teacher: a run was trained or selected on 1 of the 2 images"):
        taught(monkeypatch, [Fixed([0.5, 0.5], [0, 1]), Fixed([0.5, 0.5], [0, 4])])


def test_a_soup_is_the_mean_of_the_weights_and_knows_what_all_have_seen(tmp_path: Path) -> None:
    models = []
    for row in range(2):
        (tmp_path / str(row)).mkdir()
        torch.manual_seed(row)
        models.append(kept(tmp_path / str(row), ["happy", "sad"], SeenImages.of([CONTENTS[row]], [])))
    soup = tmp_path / "soup.ckpt"
    store_in_checkpoint(models[1][1], {"decisions": {"temperature": 2.0}})
    assert write_soup([str(path) for _, path in models], soup) == (["happy", "sad"], [str(models[1][1])])
    state = EmotionClassifier.from_checkpoint(soup).state_dict()
    for name, value in state.items():
        both = [model.state_dict()[name] for model, _ in models]
        torch.testing.assert_close(value, (both[0] + both[1]) / 2 if value.is_floating_point() else both[0])
    seen = SeenImages.read(torch.load(soup, weights_only=True)["EmotionDataModule"]["seen"])
    assert seen is not None
    assert seen.among(CONTENTS).tolist() == [True, True, False, False, False, False]


def test_a_soup_of_other_networks_is_refused(tmp_path: Path) -> None:
    _, first = kept(tmp_path, ["happy", "sad"])
    (tmp_path / "other").mkdir()
    _, other = kept(tmp_path / "other", ["happy", "sad"], backbone="resnet10t")
    with pytest.raises(InputError, match=r"option model.backbone is 'test_resnet' in .* weights cannot be averaged"):
        write_soup([str(first), str(other)], tmp_path / "soup.ckpt")
    with pytest.raises(InputError, match=r"RUN: must be at least two runs"):
        write_soup([str(first)], tmp_path / "soup.ckpt")
    _, other = kept(tmp_path / "other", ["happy", "sad"], None)
    with pytest.raises(InputError, match=r"does not record which images it was trained on"):
        write_soup([str(first), str(other)], tmp_path / "soup.ckpt")
    assert not (tmp_path / "soup.ckpt").exists()


def test_a_damaged_model_or_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    _, first = kept(tmp_path, ["happy", "sad"])
    damaged = tmp_path / "damaged.ckpt"
    content = torch.load(first, weights_only=True)
    del content["state_dict"]["head.1.bias"]
    torch.save(content, damaged)
    with pytest.raises(InputError, match=r"damaged.ckpt has other tensors than .*, such as 'head.1.bias'"):
        write_soup([str(first), str(damaged)], tmp_path / "soup.ckpt")
    with pytest.raises(InputError, match=r"--output: .*soup.ckpt cannot be written"):
        write_soup([str(first), str(first)], tmp_path / "gone" / "soup.ckpt")
    assert not (tmp_path / "soup.ckpt").exists()
