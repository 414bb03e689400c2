"""Tables of boxes, drawn scenes and augmentation with boxes: what comes out, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.face_boxes import BoxesDataModule, build_augmentation
from datamodules.files.images import fit_to_square
from datamodules.manifest import to_square
from datamodules.synthetic.files import prepare_scenes
from datamodules.synthetic.scenes import draw_scene, parse_scenes
from datamodules.transforms import reseed

HEADER = "path,x0,y0,x1,y1\n"


def pictures(folder: Path, count: int = 12, width: int = 90, height: int = 60) -> None:
    """Grey noise with a white rectangle at 30, 12 .. 60, 42."""
    generator = np.random.default_rng(0)
    for number in range(count):
        image = generator.integers(0, 90, (height, width, 3)).astype(np.uint8)
        image[12:42, 30:60] = 255
        cv2.imwrite(str(folder / f"사진 {number}.png"), image)


def table(folder: Path, rows: list[str], name: str = "boxes.csv") -> Path:
    path = folder / name
    path.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def good_rows(count: int = 12) -> list[str]:
    return [f"사진 {number}.png,30,12,60,42" for number in range(count)]


def white(image: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(image.min(-1) > 200)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_a_folder_with_a_table_becomes_batches_whose_boxes_lie_on_the_faces(tmp_path: Path) -> None:
    pictures(tmp_path)
    table(tmp_path, [*good_rows(11), "사진 11.png,,,,"])
    data = BoxesDataModule(str(tmp_path), size=96, batch_size=4, augment=False, num_workers=0, outer_fraction=0.4)
    data.setup("fit")
    seen: list[int] = []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch["image"].shape[1:] == (3, 96, 96)
            for image, boxes, row in zip(batch["image"], batch["boxes"], batch["row"].tolist(), strict=True):
                seen.append(row)
                assert len(boxes) == (row != 11)
                if len(boxes):
                    np.testing.assert_allclose(boxes[0], white(image.permute(1, 2, 0).numpy()), atol=0.6)
    assert sorted(seen) == list(range(12))
    roles = data.split_table()
    assert roles.groupby("row")["role"].nunique().max() == 1
    assert roles["faces"].sum() == 11


def test_the_square_is_that_of_the_pixels() -> None:
    image = np.zeros((50, 130, 3), np.uint8)
    image[10:40, 65:91] = 255
    square = fit_to_square(image, 64, "pad")
    (box,) = to_square(np.array([[65, 10, 91, 40]], np.float32), 130, 50, 64)
    found = white(square * (square != 128))
    np.testing.assert_allclose(box, found, atol=1)


def test_boxes_over_the_border_are_cut_there(tmp_path: Path) -> None:
    pictures(tmp_path)
    table(tmp_path, [*good_rows(11), "사진 11.png,-5,12,20,75"])
    data = BoxesDataModule(str(tmp_path), size=96, num_workers=0)
    assert data.clipped == 1
    (box,) = data.boxes[11]
    np.testing.assert_allclose(box, to_square(np.array([[0, 12, 20, 60]], np.float32), 90, 60, 96)[0])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("사진 0.png,95,12,120,42", r"1 boxes lie outside .* \[95.0, 12.0, 120.0, 42.0\] in '사진 0.png', .* 90 x 60"),
        ("사진 0.png,60,12,30,42", r"row 1 below the header: x0 < x1 and y0 < y1 must hold .* got 60, 12, 30, 42"),
        ("사진 0.png,30,12,,42", r"row 1 below the header: it needs all four corners, or none for no face"),
        ("사진 0.png,30,zwölf,60,42", r"row 1 below the header: y0 must be a number, got 'zwölf' for '사진 0.png'"),
        ("사진 0.png,30,NA,60,42", r"row 1 below the header: y0 must be a number, got 'NA'"),
        ("사진 0.png,30,inf,60,42", r"row 1 below the header: its corners must be finite numbers, got 30, inf"),
        ("other.png,30,12,60,42", r"path must be a file in"),
        ("../other.png,30,12,60,42", r"path may not leave"),
    ],
)  # fmt: skip
def test_wrong_rows_are_refused(tmp_path: Path, row: str, message: str) -> None:
    pictures(tmp_path)
    table(tmp_path, [row, *good_rows()[1:]])
    with pytest.raises(InputError, match=message):
        _ = BoxesDataModule(str(tmp_path), size=96).boxes


def test_a_table_without_any_face_or_of_other_columns_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path)
    with pytest.raises(InputError, match=r"has no boxes.csv beside its images; give the table with --data.boxes"):
        _ = BoxesDataModule(str(tmp_path), size=96).boxes
    table(tmp_path, [f"사진 {number}.png,,,," for number in range(12)])
    with pytest.raises(InputError, match=r"has no face at all \(12 images\)"):
        _ = BoxesDataModule(str(tmp_path), size=96).boxes
    (tmp_path / "other.csv").write_text("path,x,y,width,height\n사진 0.png,1,2,3,4\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"lacks x0, y0, x1, y1"):
        _ = BoxesDataModule(str(tmp_path), str(tmp_path / "other.csv"), size=96).boxes
    with pytest.raises(InputError, match=r"boxes: no file"):
        _ = BoxesDataModule(str(tmp_path), str(tmp_path / "none.csv"), size=96).boxes


def test_a_manifest_brings_its_own_pictures_and_split(tmp_path: Path) -> None:
    from datamodules.manifest import Manifest, make_manifest

    pictures(tmp_path)
    paths = [f"사진 {number}.png" for number in range(12)]
    split = ["train"] * 7 + ["validation"] * 2 + ["test"] * 3
    labels = ["happy", "sad"] * 6
    manifest = make_manifest(pd.DataFrame({"path": paths, "label": labels, "split": split}), tmp_path, name="set")
    saved = manifest.save(tmp_path / "manifest.csv")
    # images that differ in noise alone are near duplicates, so every one gets its own pattern
    for number, path in enumerate(paths):
        image = cv2.imdecode(np.fromfile(tmp_path / path, np.uint8), cv2.IMREAD_COLOR)
        image[:, (number % 4) * 8 : (number % 4) * 8 + 6] = 255
        image[(number // 4) * 4 + 44 : (number // 4) * 4 + 48] = 200
        cv2.imencode(".png", image)[1].tofile(tmp_path / path)
    boxes = table(tmp_path, good_rows(), "elsewhere.csv")
    data = BoxesDataModule(str(saved), str(boxes), size=96, split="given")
    data.setup("fit")
    assert isinstance(data.manifest, Manifest)
    assert data.fold.test.tolist() == [9, 10, 11]
    assert data.fold.val.tolist() == [7, 8]
    table(tmp_path, [*good_rows(), "사진 99.png,1,1,2,2"], "elsewhere.csv")
    with pytest.raises(InputError, match=r"1 rows name images that are not in set, first row 12, '사진 99.png'"):
        _ = BoxesDataModule(str(saved), str(boxes), size=96).boxes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "--data.size: must be a multiple of 32"),
        ({"batch_size": 1}, "--data.batch_size: must be at least 2, .*got 1"),
        ({"outer_fraction": 0.0}, "--data.outer_fraction: must be above 0 and below 1, got 0.0"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BoxesDataModule(**options)


def test_scenes_are_written_once_with_the_boxes_that_were_drawn(tmp_path: Path) -> None:
    spec = parse_scenes("scenes:images=4,size=128,others=2,dim=0.5")
    folder = prepare_scenes(spec, tmp_path)
    before = (folder / "boxes.csv").stat().st_mtime_ns
    assert prepare_scenes(spec, tmp_path) == folder
    assert (folder / "boxes.csv").stat().st_mtime_ns == before
    written = pd.read_csv(folder / "boxes.csv")
    scene = draw_scene(spec, 2)
    rows = written[written["path"] == "000002.png"]
    np.testing.assert_allclose(rows[["x0", "y0", "x1", "y1"]], scene.boxes, atol=0.01)
    image = cv2.imread(str(folder / "000002.png"))[:, :, ::-1]
    np.testing.assert_array_equal(image, scene.image)
    (folder / "000001.png").unlink()
    prepare_scenes(spec, tmp_path)
    assert (folder / "000001.png").is_file()
    with pytest.raises(InputError, match=r"unknown key 'image'.*did you mean images\?"):
        parse_scenes("scenes:image=4")
    with pytest.raises(InputError, match=r"dim must be a number, got 'much'"):
        parse_scenes("scenes:dim=much")


def test_augmentation_moves_boxes_with_their_faces() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[30:60, 40:64] = (255, 0, 255)
    transform = build_augmentation()
    distances, moved = [], 0
    for seed in range(60):
        reseed(transform, seed)
        out = transform(image=image, bboxes=np.array([[40, 30, 64, 60]], np.float32))
        colours = out["image"].astype(int)
        seen = colours.max(-1) - colours.min(-1) > 130  # the square is the only thing in colour
        if not len(out["bboxes"]) or not seen.any():
            continue
        centre = np.argwhere(seen).mean(0)[::-1] + 0.5
        box = np.asarray(out["bboxes"][0])
        distances.append(np.abs((box[:2] + box[2:]) / 2 - centre).max())
        moved += np.abs(box - [40, 30, 64, 60]).max() > 1
    assert len(distances) > 30
    assert moved > 25
    assert np.median(distances) < 2
    assert np.max(distances) < 6


def test_batches_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    pictures(tmp_path)
    table(tmp_path, good_rows())

    def batches(seed: int, epoch: int = 0) -> list[np.ndarray]:
        data = BoxesDataModule(str(tmp_path), size=96, batch_size=4, num_workers=0, seed=seed)
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        return [batch["image"].numpy() for batch in loader]

    one, same, other, later = batches(1), batches(1), batches(2), batches(1, 1)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[0], later[0])
