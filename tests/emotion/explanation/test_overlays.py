"""Overlays: only correct images, aligned and counted; the texts of the figure do not overlap."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage.transform import SimilarityTransform

from emotion.explanation.faithfulness import top_superpixels
from emotion.explanation.methods import ALL_IMAGES, ExplainedImages
from emotion.explanation.overlays import SIDE, choose_cells, overlay, overlay_figure
from emotion.explanation.regions import FRAME
from results.reports.figures import drawable, fonts

CLASSES = ("happy", "sad")


def _explained(count: int, landmarks: np.ndarray | None = None, classes: tuple[str, ...] = CLASSES) -> ExplainedImages:
    table = pd.DataFrame({"label": np.array(classes, object)[np.arange(count) % len(classes)]})
    table = table.assign(predicted=table["label"], cluster=np.arange(count), row=np.arange(count))
    segments = np.arange(64).reshape(8, 8).repeat(5, 0).repeat(5, 1)
    return ExplainedImages(
        table=table,
        classes=classes,
        images=np.full((count, 40, 40, 3), 128, np.uint8),
        maps=np.zeros((count, 40, 40), np.float32),
        target=np.arange(count) % len(classes),
        segments=np.repeat(segments[None], count, axis=0).astype(np.int32),
        landmarks=np.repeat(FRAME[None] * 40, count, axis=0).astype(np.float32) if landmarks is None else landmarks,
        masks=None,
        method="lime",
        options={},
    )


def _all(count: int) -> np.ndarray:
    return np.full(count, ALL_IMAGES, object)


def test_only_correct_images_are_taken_and_what_is_missing_is_counted() -> None:
    explained = _explained(40)
    explained.table.loc[[0, 2, 4], "predicted"] = "sad"  # three of the 20 happy ones are wrong
    explained.landmarks[[6, 8]] = np.nan
    happy, sad = choose_cells(explained, _all(40), [ALL_IMAGES], n=10)
    assert (happy.correct, happy.left_out, happy.images, len(happy.rows)) == (17, 2, 20, 10)
    assert not set(happy.rows) & {0, 2, 4, 6, 8}
    assert (explained.table["label"].to_numpy()[happy.rows] == "happy").all()
    assert (sad.correct, sad.left_out, len(sad.rows)) == (20, 0, 10)
    again, other = (choose_cells(explained, _all(40), [ALL_IMAGES], n=10, seed=seed)[0].rows for seed in (0, 1))
    assert again.tolist() == happy.rows.tolist()
    assert other.tolist() != happy.rows.tolist()


def test_eight_correct_images_are_used_though_ten_were_wanted() -> None:
    group = np.array(["a"] * 16 + ["b"] * 24, object)
    drawn = {(one.name, one.group): one for one in choose_cells(_explained(40), group, ["a", "b"], n=10)}
    assert len(drawn["happy", "a"].rows) == 8
    assert len(drawn["happy", "b"].rows) == 10


def test_images_of_different_clusters_come_first() -> None:
    explained = _explained(20)
    explained.table["cluster"] = [0] * 14 + [1, 1, 2, 2, 3, 3]
    (cell, _) = choose_cells(explained, _all(20), [ALL_IMAGES], n=4)
    assert sorted(explained.table["cluster"].to_numpy()[cell.rows]) == [0, 1, 2, 3]


def test_a_cell_without_any_correct_image_is_empty_and_drawn() -> None:
    explained = _explained(6)
    explained.table["predicted"] = "happy"  # sad is never predicted
    happy, sad = choose_cells(explained, _all(6), [ALL_IMAGES])
    assert (len(happy.rows), len(sad.rows), sad.images) == (3, 0, 3)
    drawn = [overlay(explained, one) for one in (happy, sad)]
    figure = overlay_figure(drawn, CLASSES, [ALL_IMAGES], n=10, title="t", faces=False)
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["none correct"]
    assert [axes.get_xlabel() for axes in figure.axes][:2] == ["3 of 10", "0 of 10"]


def test_what_turned_faces_share_turns_dark() -> None:
    """Faces lie anywhere in their images; all mark the left eye, and each another place beside it."""
    generator, count = np.random.default_rng(0), 6
    landmarks = np.stack(
        [
            SimilarityTransform(scale=25, rotation=angle, translation=generator.uniform(6, 12, 2))(FRAME)
            for angle in np.linspace(-0.4, 0.4, count)
        ]
    )
    explained = _explained(2 * count, landmarks.repeat(2, axis=0).astype(np.float32))
    rows, columns = np.mgrid[:40, :40]
    for i in range(2 * count):
        eye = np.hypot(columns + 0.5 - landmarks[i // 2, 1, 0], rows + 0.5 - landmarks[i // 2, 1, 1]) < 3
        elsewhere = (rows // 4 == 9) & (columns // 4 == i // 2)
        explained.segments[i] = np.where(eye, 1, np.where(elsewhere, 2, 0)) + 3 * (rows > 20)
        explained.maps[i] = eye * 2.0 + elsewhere * 1.0
    drawn = overlay(explained, choose_cells(explained, _all(2 * count), [ALL_IMAGES])[0], top=2)
    x, y = (FRAME[1] * SIDE).astype(int)
    assert drawn.marks[y, x] == pytest.approx(1)
    assert drawn.marks[int(FRAME[0, 1] * SIDE), int(FRAME[0, 0] * SIDE)] == 0  # the other eye
    assert drawn.aligned


def test_images_are_used_as_they_are_when_none_has_landmarks() -> None:
    explained = _explained(4, np.full((4, 5, 2), np.nan, np.float32))
    explained.maps[:, :5, :5] = 1.0
    cell, _ = choose_cells(explained, _all(4), [ALL_IMAGES])
    drawn = overlay(explained, cell)
    assert (len(cell.rows), cell.left_out, drawn.aligned) == (2, 0, False)
    assert drawn.marks[5, 5] == 1
    assert drawn.marks[SIDE - 5, SIDE - 5] == 0


def test_an_image_marks_its_most_important_superpixels_and_none_that_speaks_against() -> None:
    segments = np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1)
    picture = np.where(segments == 3, 5.0, np.where(segments == 7, 4.0, np.where(segments == 9, 3.0, -1.0)))
    assert set(segments[top_superpixels(picture, segments, 2)]) == {3, 7}
    assert set(segments[top_superpixels(picture, segments, 5)]) == {3, 7, 9}
    assert not top_superpixels(np.zeros((8, 8)), segments, 5).any()


def _assert_apart(figure: Figure, path: Path) -> None:
    """Nothing that is written stands on something else that is written, or beyond the border."""
    canvas = FigureCanvasAgg(figure)
    figure.savefig(path)  # warnings are errors: a missing glyph ends the test
    renderer = canvas.get_renderer()
    written = list(figure.texts)
    for axes in figure.axes:
        written += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *axes.get_yticklabels()]
    boxes = [text.get_window_extent(renderer) for text in written if text.get_text() and not text.get_rotation() % 90]
    assert len(boxes) > 4
    assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))
    every = [text.get_window_extent(renderer) for text in written if text.get_text()]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in every)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in every)


@pytest.mark.parametrize("faces", [True, False])
@pytest.mark.parametrize(
    ("classes", "groups"),
    [
        (("happy", "sad"), (ALL_IMAGES,)),
        (("중립", "분노", "embarrassed and flustered"), (ALL_IMAGES,)),
        (("중립", "embarrassed and flustered"), ("여성", "남성")),
        (("happy",), tuple(f"a group with a long name {i}" for i in range(7))),
    ],
)
def test_names_do_not_stand_on_each_other(
    classes: tuple[str, ...], groups: tuple[str, ...], faces: bool, tmp_path: Path
) -> None:
    count = 4 * len(classes)
    explained = _explained(count, classes=classes)
    group = np.array(groups, object)[np.arange(count) // len(classes) % len(groups)]
    drawn = [overlay(explained, one) for one in choose_cells(explained, group, groups)]
    title = "integrated-gradients, marks by gender x age of the person"
    _assert_apart(overlay_figure(drawn, classes, groups, n=10, title=title, faces=faces), tmp_path / "overlay.png")


def test_a_name_that_no_font_has_gets_a_number_and_a_korean_emotion_a_word() -> None:
    names = drawable(["𒀀𒀁", "x" * 40], "group")
    assert names == ["group 1", "x" * 21 + "…"]
    (emotion,) = drawable(["기쁨"])
    assert emotion == ("기쁨" if len(fonts()) > 1 else "happy")
