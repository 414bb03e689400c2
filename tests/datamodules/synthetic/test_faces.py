"""Drawn faces: the same wherever they are drawn, true to what is said about them, and different by emotion."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.synthetic import EMOTIONS, DrawnFaces, draw, parse_spec, prepare
from datamodules.synthetic.action_units import MISTAKEN_FOR, express, vote
from datamodules.synthetic.geometry import AGES, GENDERS, SKINS

SPEC = DrawnFaces(largest=40, ratio=4, size=48, seed=3)


def test_counts_fall_geometrically() -> None:
    counts = DrawnFaces(largest=1000, ratio=10).counts
    assert (counts[0], counts[-1]) == (1000, 100)
    assert np.allclose(counts[1:] / counts[:-1], 10 ** (-1 / 7), atol=0.01)
    labels = [SPEC.label_of(row) for row in range(len(SPEC))]
    assert [labels.count(name) for name in SPEC.classes] == SPEC.counts.tolist()


def test_row_is_the_same_alone_and_after_others() -> None:
    alone = draw(SPEC, 57)
    for row in (3, 56, 58):
        draw(SPEC, row)
    np.random.seed(1)
    again = draw(SPEC, 57)
    assert np.array_equal(alone.image, again.image)
    assert np.array_equal(alone.votes, again.votes)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert np.array_equal(alone.image, pool.submit(draw, SPEC, 57).result().image)


def test_seed_and_row_change_the_picture() -> None:
    one = draw(SPEC, 5).image
    assert one.shape == (48, 48, 3)
    assert one.dtype == np.uint8
    assert not np.array_equal(one, draw(SPEC, 6).image)
    assert not np.array_equal(one, draw(DrawnFaces(largest=40, ratio=4, size=48, seed=4), 5).image)


def test_regions_lie_where_landmarks_and_box_say() -> None:
    for row in range(0, len(SPEC), 7):
        face = draw(SPEC, row)
        x0, y0, x1, y1 = face.box
        assert 0 <= x0 < x1 <= 48
        assert 0 <= y0 < y1 <= 48
        left, right, nose, mouth_left, mouth_right = face.landmarks
        assert left[0] < right[0]
        assert mouth_left[0] < mouth_right[0]
        assert left[1] < nose[1] < mouth_left[1] + 6
        assert np.all((face.landmarks[:, 0] > x0) & (face.landmarks[:, 0] < x1))
        centres = {name: np.argwhere(mask).mean(0)[::-1] for name, mask in face.masks.items() if mask.any()}
        assert set(centres) == {"eyes", "brows", "nose", "mouth", "face"}
        assert np.linalg.norm(centres["eyes"] - (left + right) / 2) < 5
        assert np.linalg.norm(centres["mouth"] - (mouth_left + mouth_right) / 2) < 6
        assert centres["brows"][1] < centres["eyes"][1] < centres["nose"][1] < centres["mouth"][1]
        assert not (face.masks["eyes"] & face.masks["mouth"]).any()


def test_masks_cover_the_painted_features() -> None:
    """The mouth differs in colour from the skin around it: the mask must hold that difference, not its mirror image."""
    spec = DrawnFaces(largest=40, ratio=1, size=96, seed=0, confusion=0, classes=("happy", "surprise"))
    inside, outside = [], []
    for row in range(40, 60):
        face = draw(spec, row)
        grey = face.image.astype(float).mean(2)
        ring = np.zeros_like(face.masks["mouth"])
        ys, xs = np.nonzero(face.masks["mouth"])
        ring[max(ys.min() - 3, 0) : ys.max() + 4, max(xs.min() - 3, 0) : xs.max() + 4] = True
        inside.append(grey[face.masks["mouth"]].std())
        outside.append(grey[ring & ~face.masks["mouth"]].std())
    assert np.mean(inside) > 1.3 * np.mean(outside)


def test_person_looks_the_same_in_every_image() -> None:
    spec = DrawnFaces(largest=60, ratio=2, size=32, subjects=5)
    people: dict[int, set] = {}
    for row in range(80):
        face = draw(spec, row)
        people.setdefault(face.subject, set()).add((face.age, face.gender, face.skin))
    assert set(people) == set(range(5))
    assert all(len(seen) == 1 for seen in people.values())


def test_childlike_moves_the_features_of_children_alone() -> None:
    plain, more = (DrawnFaces(largest=60, size=48, seed=2, childlike=value) for value in (1.0, 2.3))
    eyes: dict[bool, list[float]] = {True: [], False: []}
    for row in range(60):
        one, other = draw(plain, row), draw(more, row)
        eyes[one.age == "child"].append(float((other.landmarks - one.landmarks)[:2, 1].mean()))
        assert (one.age, one.gender, one.skin, one.label) == (other.age, other.gender, other.skin, other.label)
    assert min(eyes[True]) > 0.5  # pixels further down
    assert max(np.abs(eyes[False])) == 0


def test_people_vary() -> None:
    faces = [draw(DrawnFaces(largest=100, size=32), row) for row in range(100)]
    for name, values in (("age", AGES), ("gender", GENDERS), ("skin", SKINS)):
        assert {getattr(face, name) for face in faces} == set(values)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_annotators_see_the_emotion_and_its_likeness(emotion: str) -> None:
    generator = np.random.default_rng(0)
    votes = {
        confusion: sum(vote(generator, express(generator, emotion, confusion), EMOTIONS, 10) for _ in range(200)) / 2000
        for confusion in (0.0, 0.5, 1.0)
    }
    own = EMOTIONS.index(emotion)
    assert np.argmax(votes[0.0]) == own
    assert votes[0.0][own] > votes[1.0][own]  # more confusion, less agreement
    assert votes[0.5][own] > 0.35
    likely = [name for name in EMOTIONS if name in MISTAKEN_FOR[emotion] or emotion in MISTAKEN_FOR[name]]
    other = [name for name in EMOTIONS if name not in likely and name != emotion]
    share = dict(zip(EMOTIONS, votes[0.5], strict=True))
    assert np.mean([share[name] for name in likely]) > np.mean([share[name] for name in other])


def test_prepare_writes_once_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DrawnFaces(largest=6, ratio=2, size=32, subjects=4)
    manifest = prepare(spec, tmp_path)
    assert len(manifest) == len(spec)
    assert manifest.classes == spec.classes
    assert manifest.groups == ("age", "gender", "skin")
    assert manifest.votes is not None
    assert manifest.votes.shape == (len(spec), 8)
    assert manifest.subjects is not None
    row = len(spec) - 1
    with Image.open(manifest.file(row)) as picture:
        assert np.array_equal(np.asarray(picture), draw(spec, row).image)
    boxes = pd.read_csv(manifest.root / "boxes.csv")
    assert boxes["path"].tolist() == manifest.table["path"].tolist()
    assert boxes.loc[row, ["nose_x", "nose_y"]].tolist() == pytest.approx(draw(spec, row).landmarks[2], abs=0.01)

    monkeypatch.setattr("datamodules.synthetic.files.draw", None)  # a second call must not draw
    assert prepare(spec, tmp_path).fingerprint() == manifest.fingerprint()


def test_prepare_in_processes_gives_the_same_set(tmp_path: Path) -> None:
    spec = DrawnFaces(largest=20, ratio=2, size=32)
    one, two = prepare(spec, tmp_path / "a", workers=0), prepare(spec, tmp_path / "b", workers=2)
    assert one.fingerprint() == two.fingerprint()
    assert one.file(99).read_bytes() == two.file(99).read_bytes()
    assert one.subjects is None
    assert not list((tmp_path / "b").glob(".*"))


def test_prepare_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    """Processes that import such a script run into ``prepare`` themselves; it must neither hang nor fail."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom datamodules.synthetic import DrawnFaces, prepare\n"
        f"print(len(prepare(DrawnFaces(largest=8, ratio=1, size=32), Path({str(tmp_path / 'set')!r}), workers=2)))\n"
    )
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=known, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "64"


def test_no_more_processes_than_cores_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the machine has more cores than are given to us."""
    asked: list[int] = []

    def processes(workers: int) -> nullcontext[None]:
        asked.append(workers)
        raise InputError("far enough")

    monkeypatch.setattr("datamodules.synthetic.files.processes", processes)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    with pytest.raises(InputError, match="far enough"):
        prepare(DrawnFaces(largest=600, ratio=1, size=32), tmp_path)
    assert asked == [3]


def test_prepare_draws_again_what_was_taken_away(tmp_path: Path) -> None:
    spec = DrawnFaces(largest=3, ratio=1, size=32)
    first = prepare(spec, tmp_path)
    first.file(4).unlink()
    assert prepare(spec, tmp_path).file(4).is_file()


def test_prepare_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written to .*EMOTION_CACHE_DIR"):
        prepare(DrawnFaces(largest=2, ratio=1, size=32), tmp_path / "file")


def test_parse_spec() -> None:
    assert parse_spec("") == DrawnFaces()
    assert parse_spec("drawn:largest=20, ratio=2.5,seed=7") == DrawnFaces(largest=20, ratio=2.5, seed=7)
    assert parse_spec("classes=happy+sad,subjects=9") == DrawnFaces(classes=("happy", "sad"), subjects=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("larges=3", "unknown key 'larges'.*did you mean largest"),
        ("ratio=big", "ratio must be a number, got 'big'"),
        ("ratio=0.5", "ratio must be at least 1 and finite, got 0.5"),
        ("size=8", r"size must lie in 32\.\.512, got 8"),
        ("classes=happy", "at least 2 classes"),
        ("classes=happy+bored", "classes must be among neutral"),
        ("subjects=0", "subjects must be at least 1"),
        ("childlike=3", r"childlike must lie in 0\.\.2\.5, got 3.0"),
    ],
)
def test_parse_spec_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_spec(text)
