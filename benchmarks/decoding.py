"""How many pictures five folds decode against one: a picture should be decoded once for all of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from benchmarks.report import Figure, say
from datamodules.emotion import EmotionDataModule
from datamodules.synthetic import DrawnFaces, prepare

EPOCHS = 2


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count every picture that this process opens, whichever code does."""
    opened, count = Image.open, [0]

    def counting(*args: Any, **kwargs: Any) -> Image.Image:  # noqa: ANN401
        count[0] += 1
        return opened(*args, **kwargs)

    Image.open = counting  # type: ignore[assignment]
    try:
        yield count
    finally:
        Image.open = opened


def read_all(source: Path, cache: Path, folds: int) -> tuple[int, int]:
    """Go through ``folds`` of five folds from an empty cache as training and evaluation do.

    Returns:
        Pictures opened, and pictures decoded by the cache's own count.
    """
    decoded = 0
    with counted() as count:
        for fold in tqdm(range(folds), desc="folds", delay=1, disable=None):
            data = EmotionDataModule(
                f"folder:{source}", 32, fold=fold, batch_size=32, cache_dir=str(cache), num_workers=0, seed=0
            )
            data.prepare_data()
            data.setup("fit")
            train = data.train_dataloader()
            for loader in (*[train] * EPOCHS, data.val_dataloader(), data.test_dataloader()):
                for _ in loader:
                    pass
            decoded = sum(_decoded(folder) for folder in cache.iterdir() if folder.is_dir())
        return count[0], decoded


def _decoded(folder: Path) -> int:
    return int(json.loads((folder / "meta.json").read_text())["images_decoded"])


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return the decodes of five folds over those of one; few pictures, so that this process decodes them itself."""
    largest = 10 if toy else 30
    spec = DrawnFaces(largest=largest, ratio=1, annotators=0)
    source = folder / "faces"
    prepared = prepare(spec, folder / "drawn")
    for row in range(len(prepared)):
        target = source / str(prepared.table["label"].iat[row]) / f"{row}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(prepared.file(row).read_bytes())
    say(f"{len(prepared)} pictures, {EPOCHS} epochs, val and test part of each fold; duplicates searched")
    one_opened, one_decoded = read_all(source, folder / "one", 1)
    five_opened, five_decoded = read_all(source, folder / "five", 5)
    detail = {
        "pictures": len(prepared),
        "opened_one_fold": one_opened,
        "opened_five_folds": five_opened,
        "cache_says_one_fold": one_decoded,
        "cache_says_five_folds": five_decoded,
    }
    ratio = max(five_opened / max(one_opened, 1), five_decoded / max(one_decoded, 1))
    about = "pictures decoded for 5 folds over those for 1, counted at Pillow's door"
    return [Figure("decodes_of_five_folds", ratio, about, at_least=1, at_most=1, detail=detail)]
