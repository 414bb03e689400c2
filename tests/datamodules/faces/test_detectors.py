"""Every detector: the same promises, what each finds on drawn faces, and files that are none."""

import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from spots import spot_model, spotted

from datamodules.errors import InputError
from datamodules.faces.boxes import overlaps
from datamodules.faces.detectors import Detector, Faces, open_detector
from datamodules.synthetic import DrawnFaces, draw

ODD = [(1, 1), (20_000, 20), (20, 20_000), (3, 500), (31, 33)]  # width, height


@pytest.fixture(params=["haar", "own", "yunet"])
def detector(request: pytest.FixtureRequest, spots: Path) -> Detector:
    names = {"haar": lambda: "haar", "own": lambda: str(spots), "yunet": lambda: request.getfixturevalue("yunet")}
    return open_detector(names[request.param]())


def portrait(row: int = 9, size: int = 256, around: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a drawn face with grey around it, its box and its landmarks."""
    face = draw(DrawnFaces(largest=4, size=size, ratio=1), row)
    image = np.pad(face.image, ((around, around), (around, around), (0, 0)), constant_values=128)
    return image, face.box + around, face.landmarks + around


def test_pictures_of_any_shape(detector: Detector) -> None:
    images = [np.zeros((height, width, 3), np.uint8) for width, height in ODD]

    found = detector.detect(images)

    assert [len(faces.boxes) for faces in found] == [0] * len(ODD)
    for faces in found:
        assert (faces.boxes.shape, faces.scores.shape, faces.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert detector.detect([]) == []


def test_what_is_found_does_not_depend_on_the_others(detector: Detector) -> None:
    face = cv2.cvtColor(cv2.cvtColor(portrait()[0], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # grey images as well
    images = [face, spotted(red=[(40, 40), (96, 64)]), spotted(100, 90), face[::2, ::2]]
    images = [np.ascontiguousarray(image) for image in images]

    together = detector.detect(images)

    for image, faces in zip(images, together, strict=True):
        alone = detector.detect([image])[0]
        for one, other in zip(alone, faces, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)
    assert any(len(faces.boxes) for faces in together)
    assert together[0].boxes.dtype == np.float32


def test_haar_finds_a_drawn_face_and_knows_no_eyes() -> None:
    image, box, _ = portrait()
    faces = open_detector("haar").detect([image])[0]

    assert overlaps(faces.boxes, box[None]).max() > 0.5
    assert np.isnan(faces.landmarks).all()
    assert faces.scores.max() > 0


def test_haar_without_its_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "CascadeClassifier")  # as in OpenCV 5
    with pytest.raises(InputError, match=r"comes without haarcascade_\w+\.xml; install opencv-python-headless 4"):
        open_detector("haar")


def test_our_own_detector_finds_what_it_was_made_for(spots: Path) -> None:
    detector = open_detector(str(spots))
    small = spotted(red=[(40, 40)], green=[(112, 80)])
    large = cv2.resize(small, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)

    for image, factor in ((small, 1), (large, 3)):  # the second is searched on a copy of 160 pixels
        faces = detector.detect([image])[0]
        order = np.argsort(faces.boxes[:, 0])
        # two strides around the middle of the cell: (44, 44) at stride 8, (120, 88) at stride 16
        expected = np.array([[28, 28, 60, 60], [88, 56, 152, 120]]) * factor
        np.testing.assert_allclose(faces.boxes[order], expected, atol=0.01)
        np.testing.assert_allclose(faces.scores, 1 / (1 + np.exp(-(255 * 3 - 500) / 32)), atol=1e-4)
    assert detector.name == "spots"


def test_a_face_at_the_border_reaches_beyond_it(spots: Path) -> None:
    faces = open_detector(str(spots)).detect([spotted(red=[(0, 120)])])[0]
    assert faces.boxes.tolist() == [[-12, 108, 20, 140]]


def test_yunet_finds_drawn_faces_with_their_eyes(yunet: str) -> None:
    drawn = [portrait(row) for row in range(0, 32, 5)]
    found: list[Faces] = open_detector(yunet).detect([image for image, _, _ in drawn])

    for faces, (_, box, landmarks) in zip(found, drawn, strict=True):
        assert len(faces.boxes) == 1
        assert overlaps(faces.boxes, box[None]).max() > 0.5
        eyes = np.linalg.norm(faces.landmarks[0, :2] - landmarks[:2], axis=1)
        assert eyes.max() < 0.1 * (box[3] - box[1])  # left and right are ours, not exchanged
        assert faces.scores[0] > 0.6


def test_yunet_is_never_given_a_sliver(yunet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There OpenCV reads memory that nobody has written: at times it sees a face, most often none."""
    detector = open_detector(yunet)
    sizes: list[tuple[int, int]] = []

    class Net:
        def setInputSize(self, size: tuple[int, int]) -> None:
            sizes.append(size)

        def detect(self, image: np.ndarray) -> tuple[int, None]:
            assert image.shape[1::-1] == sizes[-1]
            return 0, None

    monkeypatch.setattr(detector, "_net", Net())
    detector.detect(
        [np.zeros((1, 320, 3), np.uint8), np.zeros((320, 1, 3), np.uint8), np.zeros((90, 200, 3), np.uint8)]
    )
    assert sizes == [(320, 64), (64, 320), (200, 90)]


def test_yunet_finds_a_face_that_the_border_cuts(yunet: str) -> None:
    image, box, _ = portrait(around=0)
    middle = round(float(box[0] + box[2]) / 2)
    faces = open_detector(yunet).detect([np.ascontiguousarray(image[:, middle - 40 :])])[0]
    assert len(faces.boxes) == 1


@pytest.mark.parametrize("name", ["yunet", "yunet:", "yunet:/nowhere/yunet.onnx"])
def test_without_yunets_file_it_says_where_to_get_it(name: str) -> None:
    with pytest.raises(InputError, match=r"face_detection_yunet_2023mar\.onnx of the OpenCV Zoo"):
        open_detector(name)


@pytest.mark.parametrize("name", ["dlib", "", "haar:x", "model.pt"])
def test_no_such_detector(name: str) -> None:
    with pytest.raises(InputError, match=r"faces must be haar, yunet:FILE or FILE.onnx .*, got"):
        open_detector(name)


def test_files_that_are_no_detector(spots: Path, tmp_path: Path) -> None:
    whole = spots.read_bytes()
    (tmp_path / "short.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    onnx.save(spot_model(kind="classifier"), str(tmp_path / "other.onnx"))
    for name, words in (
        ("short", "is not an ONNX model or was cut short"),
        ("text", "is not an ONNX model or was cut short"),
        ("empty", r"is empty \(0 bytes\); copy it again"),
        ("folder", "cannot read the detector's file .*: Is a directory"),
        ("absent", "cannot read the detector's file .*: No such file"),
        ("other", "is not a face detector that was trained here"),
    ):
        with pytest.raises(InputError, match=words):
            open_detector(str(tmp_path / f"{name}.onnx"))


def test_files_that_are_not_yunet(spots: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").touch()
    for file in (spots, tmp_path / "text.onnx"):
        with pytest.raises(InputError, match=r"cannot use .* as YuNet \(cut short, another model"):
            open_detector(f"yunet:{file}")
    with pytest.raises(InputError, match=r"is empty \(0 bytes\)"):
        open_detector(f"yunet:{tmp_path / 'empty.onnx'}")


def test_yunet_cut_short_or_taken_for_our_own(yunet: str, tmp_path: Path) -> None:
    file = Path(yunet.removeprefix("yunet:"))
    whole = file.read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / "short.onnx").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"cannot use .* as YuNet \(cut short, another model"):
            open_detector(f"yunet:{tmp_path / 'short.onnx'}")
    with pytest.raises(InputError, match=r"not a face detector that was trained here .*; give YuNet as yunet:FILE"):
        open_detector(str(file))


def test_another_file_under_the_same_name_is_another_detector(spots: Path, tmp_path: Path) -> None:
    model = spot_model()
    model.doc_string = "trained again"
    copy = tmp_path / spots.name
    onnx.save(model, str(copy))
    assert open_detector(str(copy)).identity != open_detector(str(spots)).identity
    os.replace(copy, tmp_path / "renamed.onnx")
    assert open_detector(str(tmp_path / "renamed.onnx")).identity != open_detector(str(spots)).identity
