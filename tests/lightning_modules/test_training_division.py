"""The hash of a division, by which a resumed run sees that its data have changed."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.emotion import EmotionDataModule
from lightning_modules.training import division_hash


def test_a_division_is_another_when_an_image_plays_another_role(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        for number in range(24):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name / f"{number}.png")

    def division(last_of_training: int) -> str:
        """Hash of a given split whose validation part begins with the image after this one."""
        numbers = np.arange(24)
        split = np.where(numbers <= last_of_training, "train", np.where(numbers < 16, "validation", "test"))
        rows = [f"{name}/{n}.png,{name},{part}" for n, part in enumerate(split) for name in ("happy", "sad")]
        table = tmp_path / "split.csv"
        table.write_text("\n".join(["path,label,split", *rows]))
        return division_hash(EmotionDataModule(str(table), size=32, split="given", near_duplicates=False))

    assert division(11) == division(11)
    assert division(11) != division(12)
