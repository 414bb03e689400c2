"""Features are computed once; a head learns, is reproducible, and keeps the weights of its best epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.emotion import EmotionDataModule
from datamodules.readers import ReadOptions
from lightning_modules.backbones import build_backbone
from sweeps.studies import frozen_features
from sweeps.studies import frozen_features as features_of
from sweeps.studies.frozen_features import Head, Part, features, train_head


def part(images: int, seed: int, noise: float = 0.5) -> Part:
    """Three classes round three corners."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(images) % 3
    return Part(torch.eye(3)[y] + noise * torch.randn(images, 3, generator=generator), y)


def trained(seed: int = 0, epochs: int = 12, rate: float = 0.01) -> Head:
    return train_head(
        part(60, 1), part(30, 2), part(90, 3), classes=3, width=16, learning_rate=rate, epochs=epochs, batch_size=16,
        seed=seed, marks=(2, 12),
    )  # fmt: skip


def test_a_head_learns_and_the_same_seed_gives_the_same_head() -> None:
    one, again, other = trained(), trained(), trained(seed=1)
    assert one.marks[12] > 0.75
    assert one.probabilities == pytest.approx(again.probabilities, abs=0)
    assert one.history == again.history
    assert not np.allclose(one.probabilities, other.probabilities)
    assert one.probabilities.sum(1) == pytest.approx(np.ones(90), abs=1e-5)
    assert set(one.marks) == {2, 12}
    assert {len(curve) for curve in one.history.values()} == {12}


def test_the_epoch_is_selected_on_the_part_that_is_selected_on() -> None:
    head = trained(epochs=12)
    curve = head.history["val/f1_macro"]
    assert head.best == max(curve)
    best = int(np.argmax(curve)) + 1
    shorter = trained(epochs=best)  # the same steps up to there
    assert head.probabilities == pytest.approx(shorter.probabilities)
    assert (shorter.history["val/f1_macro"][-1]) == max(curve)


@pytest.fixture
def faces(tmp_path: Path) -> EmotionDataModule:
    return EmotionDataModule("drawn:largest=4,ratio=1,size=32", size=32, cache_dir=str(tmp_path), num_workers=0)


def test_features_are_those_of_the_backbone_and_computed_once(
    faces: EmotionDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features(faces, "test_resnet", "none")
    torch.manual_seed(0)
    model, width, expected = build_backbone("test_resnet", "none")
    assert found.shape == (len(faces.manifest), width)
    pixels = torch.stack([torch.tensor(np.array(faces.cache.pixels[row])) for row in range(3)]).float() / 255  # type: ignore[index]
    if pixels.shape[-1] == 3:
        pixels = pixels.movedim(-1, 1)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (expected.mean, expected.std))
    with torch.inference_mode():
        reference = model.eval()((pixels - mean) / std)
    assert found[:3] == pytest.approx(reference.numpy(), abs=1e-4)

    def refuse(*_: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(features_of, "build_backbone", refuse)
    assert (features(faces, "test_resnet", "none") == found).all()
    with pytest.raises(AssertionError):  # other features than those that are kept
        features(faces, "test_resnet", "none", flipped=True)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Four images, two of each class."""
    for number in range(4):
        place = tmp_path / "noise" / ("happy", "sad")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        _draw(place, number)
    return tmp_path / "noise"


def _draw(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.mark.parametrize("change", ["pixels", "backbone", "weights", "size", "fit", "read", "flipped"])
def test_features_are_kept_by_all_that_they_depend_on(noise: Path, tmp_path: Path, change: str) -> None:
    torch.save(build_backbone("test_resnet", "none")[0].state_dict(), tmp_path / "w.pth")
    options: dict[str, Any] = {"size": 32, "cache_dir": str(tmp_path / "cache"), "num_workers": 0}
    asked: dict[str, Any] = {"backbone": "test_resnet", "weights": str(tmp_path / "w.pth")}
    before = features(EmotionDataModule(str(noise), **options), **asked)
    assert (features(EmotionDataModule(str(noise), **options), **asked) == before).all()
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1
    if change == "pixels":
        _draw(noise / "happy" / "0.png", 9)  # the same path and label
    elif change == "weights":
        torch.save(build_backbone("test_resnet", "none")[0].state_dict(), tmp_path / "w.pth")
    elif change == "backbone":
        asked = {"backbone": "test_vit", "weights": "none"}
        options["size"] = 160
    elif change == "flipped":
        asked["flipped"] = True
    else:
        options |= {"size": {"size": 48}, "fit": {"fit": "pad"}, "read": {"read": ReadOptions(part=0.5)}}[change]
    after = features(EmotionDataModule(str(noise), **options), **asked)
    assert after.shape != before.shape or not np.allclose(after, before)
    if change == "pixels":
        assert np.allclose(after[1:], before[1:], atol=1e-5)


def test_untrained_features_do_not_depend_on_what_ran_before(noise: Path, tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        data = EmotionDataModule(str(noise), size=32, cache_dir=str(tmp_path / str(seed)), num_workers=0)
        found.append(features(data, "test_resnet", "none"))
    assert (found[0] == found[1]).all()


def test_features_and_heads_are_computed_on_the_best_device(
    faces: EmotionDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device computes nothing, so that nothing can be copied back from it: a stand-in for a GPU."""
    monkeypatch.setattr(features_of, "best_device", lambda: torch.device("meta"))
    with pytest.raises(NotImplementedError, match="meta tensor"):
        features(faces, "test_resnet", "none")
    monkeypatch.setattr(frozen_features, "best_device", lambda: torch.device("meta"))
    with pytest.raises((NotImplementedError, RuntimeError), match=r"[Mm]eta"):
        trained(epochs=1)
