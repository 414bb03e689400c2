"""Report of an explanation: the verdict comes first, every file it names exists, unusual input is handled."""

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from emotion.explanation.faithfulness import ReportOptions
from emotion.explanation.methods import ExplainedImages
from emotion.explanation.regions import FRAME
from emotion.explanation.report import Summary, write_report

SIDE = 30
CLASSES = ("happy", "슬픔", "a<b>|c")
MOUTH = (slice(20, 25), slice(10, 20))
HALVES = (slice(10, 15), slice(15, 20))  # of the mouth, in every second image
SEGMENTS = np.arange(36).reshape(6, 6).repeat(5, 0).repeat(5, 1)
QUICK = ReportOptions(steps=6, draws=2, resamples=100, permutations=99, seeds=1, n=4)


def network(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each image's own class is the more probable, the brighter its half of the mouth."""
    bright = np.array([image[MOUTH[0], HALVES[row % 2]].mean() for image, row in zip(images, rows, strict=True)]) / 255
    answer = np.repeat((1 - bright)[:, None] / 2, 3, axis=1)
    answer[np.arange(len(rows)), rows % 3] = bright
    return answer.astype(np.float32)


def _explained(count: int = 18, *, inverted: bool = False) -> ExplainedImages:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (count, SIDE, SIDE, 3), dtype=np.uint8)
    images[:, MOUTH[0], MOUTH[1]] += 180
    masks = np.zeros((count, SIDE, SIDE), bool)
    for parity, half in enumerate(HALVES):
        masks[parity::2, MOUTH[0], half] = True
    maps = masks + 0.1 * generator.random((count, 36))[:, SEGMENTS]
    label = np.array(CLASSES, object)[np.arange(count) % 3]
    table = pd.DataFrame({"row": range(count), "path": [f"{i}.png" for i in range(count)], "fold": 0, "label": label})
    table = table.assign(
        predicted=label, cluster=range(count), gender=["여", "남 | <i>"] * (count // 2) + [""] * (count % 2)
    )
    return ExplainedImages(
        table=table,
        classes=CLASSES,
        images=images,
        maps=(-maps if inverted else maps).astype(np.float32),
        target=np.arange(count) % 3,
        segments=np.repeat(SEGMENTS[None], count, axis=0).astype(np.int32),
        landmarks=np.repeat(FRAME[None] * SIDE, count, axis=0).astype(np.float32),
        masks=masks,
        method="lime",
        options={"fill": "mean", "seed": 7, "samples": 50},
    )


def _again(explained: ExplainedImages, asked: list[tuple[str, int]] | None = None) -> Callable[[str, int], np.ndarray]:
    def explain(method: str, seed: int) -> np.ndarray:
        if asked is not None:
            asked.append((method, seed))
        return explained.maps + np.random.default_rng(seed).random((len(explained), 36))[:, SEGMENTS] * 0.2

    return explain


def _report(explained: ExplainedImages, folder: Path, **options: object) -> Summary:
    return write_report(explained, network, _again(explained), folder, replace(QUICK, **options))  # type: ignore[arg-type]


class _Page(HTMLParser):
    """What a browser would load, and which tags there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_true_explanation_holds_and_everything_that_is_named_is_written(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    explained = _explained()
    options = replace(QUICK, by=("gender",), methods=("grad-cam", "lime"), title="Wo? <script>")
    found = write_report(explained, network, _again(explained, asked), tmp_path, options)
    assert asked == [("grad-cam", 7), ("lime", 8)]  # another method, and the same with another seed
    assert found.holds
    assert found.first.startswith("HOLDS")
    assert found.lines[0] == found.first
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {file.name for file in (*found.files, *found.with_people)}
    assert {file.name for file in found.with_people} == {"overlays.png", "overlays-gender.png"}
    assert names >= {"report.md", "report.html", "images.csv", "regions.csv", "region-differences.csv", "agreement.csv"}
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.splitlines()[0].startswith(
        "**HOLDS against random orders, a centred blob and the map of another image (18 images)"
    )
    assert "<script>" not in markdown
    assert all(f"({name})" in markdown for name in names if name.endswith(".png"))
    numbers = found.numbers
    assert numbers["explain/holds"] == 1
    assert numbers["explain/deletion/better_by"] == pytest.approx(
        numbers["explain/deletion/chance"] - numbers["explain/deletion"]
    )
    assert numbers["explain/deletion/blob/better_by"] > 0
    assert numbers["explain/insertion/other_image/p"] < 0.05
    assert numbers["explain/pointing"] == 1
    assert numbers["explain/density/mouth"] > 3 > numbers["explain/density/rest"]
    assert numbers["explain/agreement/method_grad-cam/rank"] < 1
    assert all(np.isfinite(value) for value in numbers.values())
    images = pd.read_csv(tmp_path / "images.csv")
    assert len(images) == 18
    assert images["random_area"].mean() == pytest.approx(numbers["explain/deletion/chance"])


def test_an_explanation_that_is_wrong_says_so_on_its_first_line(tmp_path: Path) -> None:
    found = _report(_explained(inverted=True), tmp_path)
    assert not found.holds
    assert found.first.startswith(
        "FAILS: it did not beat random orders (deletion and insertion), a centred blob (deletion"
    )
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("**FAILS: it did not beat random orders")
    page = _Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "FAILS: it did not beat random orders" in page.text
    assert found.numbers["explain/holds"] == 0


def test_the_page_escapes_what_others_wrote_and_holds_no_face(tmp_path: Path) -> None:
    _report(_explained(), tmp_path, by=("gender",), title="<script>alert(1)</script>")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert not page.tags & {"script", "i", "b"}
    assert "남 | <i>" in page.text
    assert "a<b>|c" in page.text
    beside = {source for source in page.sources if not source.startswith("data:image/png;base64,")}
    assert beside == {"overlays.png", "overlays-gender.png"}
    rows = [line for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert any("남 \\| &lt;i&gt;" in row for row in rows)


def test_groups_are_compared_and_wrong_answers_left_out(tmp_path: Path) -> None:
    explained = _explained(24)
    explained.maps[1::2] += 0.3 * (SEGMENTS < 6)  # the second group looks at the forehead and hair, too
    explained.table.loc[[0, 3], "predicted"] = "슬픔"
    found = _report(explained, tmp_path, by=("gender",), permutations=999)
    tests = pd.read_csv(tmp_path / "region-differences.csv").set_index("region")
    assert tests.loc["rest", "p_holm"] < 0.05
    assert tests.loc["rest", "images"] + tests.loc["rest", "other_images"] == 22
    assert any(line.startswith("group differences at p Holm < .05: ") for line in found.lines)
    assert "Do groups of gender differ?" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_maps_of_zeros_are_told_and_crash_nothing(tmp_path: Path) -> None:
    explained = _explained()
    explained.maps[:] = 0
    found = write_report(
        explained, network, lambda method, seed: explained.maps, tmp_path, replace(QUICK, by=("gender",))
    )
    assert not found.holds
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "18 of 18 maps are constant: they explain nothing." in text
    assert "Not defined for 18 images" in text
    assert "nothing is known about the regions of the face" in text
    assert "pointing game): not defined" in "\n".join(found.lines)
    assert "explain/pointing" not in found.numbers


def test_one_image_has_numbers_and_no_interval(tmp_path: Path) -> None:
    found = _report(_explained(1), tmp_path)
    assert found.first.startswith("NOT DECIDED: too few images were tried (1 cluster, ")
    assert "explain/deletion/low" not in found.numbers
    assert "1 of 4" not in found.first


def test_without_landmarks_images_are_laid_on_each_other_as_they_are(tmp_path: Path) -> None:
    explained = _explained()
    explained.landmarks[:] = np.nan
    found = _report(explained, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No image has landmarks, so the images are not aligned." in text
    assert "No image has landmarks, so nothing is known about the regions" in text
    assert not any(file.name.startswith("regions") for file in found.files)


def test_images_without_landmarks_are_counted_and_classes_never_right_are_named(tmp_path: Path) -> None:
    explained = _explained()
    explained.landmarks[[0, 1, 4]] = np.nan
    explained.table.loc[2::3, "predicted"] = "happy"  # the third class is never predicted
    _report(explained, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "3 correctly predicted images have no landmarks and are left out." in text
    assert "No image was predicted correctly: a&lt;b&gt;\\|c." in text
    assert "12 of them predicted correctly" in text
    assert "Correctly predicted images with landmarks: 9 in 9 clusters, fewer than 10" in text


def test_no_correct_image_at_all_is_told(tmp_path: Path) -> None:
    explained = _explained()
    explained.table["predicted"] = np.roll(explained.table["label"].to_numpy(object), 1)
    found = _report(explained, tmp_path, by=("gender",))
    assert found.holds  # what the map of a wrong answer says may well be true
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "0 of them predicted correctly" in text
    assert "No correctly predicted image has landmarks and positive importance" in text


def test_what_cannot_be_reported_is_refused_before_anything_is_shown(tmp_path: Path) -> None:
    def never(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        pytest.fail("nothing may be computed")

    explained = _explained()
    for wrong, options, match in (
        (explained, {"by": ("gendr",)}, "no column 'gendr' to group by; did you mean gender"),
        (explained, {"fill": "mean"}, "the curves need another fill than the explainer"),
        (explained, {"n": 0}, "n: must be at least 1, got 0"),
        (
            replace(explained, maps=np.full_like(explained.maps, np.nan)),
            {},
            "maps: must be finite, those of lime are not",
        ),
        (replace(explained, table=explained.table.iloc[:0]), {}, "images: must be at least one, got none"),
    ):
        with pytest.raises(InputError, match=match):
            write_report(wrong, never, _again(explained), tmp_path, replace(QUICK, **options))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out: .*file cannot be written to \(.*\); choose another folder"):
        _report(_explained(6), tmp_path / "file")


def test_a_leaky_protocol_stands_above(tmp_path: Path) -> None:
    explained = _explained(6)
    explained.table["run_protocol"] = "paper (selects on the fold it reports)"
    _report(explained, tmp_path)
    assert "Protocol of the run: paper" in (tmp_path / "report.md").read_text(encoding="utf-8")
