"""A face detector that was trained here, from its ONNX file; runs without torch.

The file takes ``image``, uint8 RGB (B, 3, H, W), with the preprocessing inside the graph, B free, H and W free or
fixed, and gives the raw output of ``datamodules.faces.boxes``, float32 (B, N, 5). Its metadata says ``kind``
(``face-detector``), ``strides`` (such as ``[8, 16, 32]``), ``long_side`` (the size that it was trained for) and may say
``overlap`` (for the suppression, else 0.5).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from datamodules.errors import InputError
from datamodules.faces.boxes import decode, grid, suppress
from datamodules.faces.detector import Faces, as_faces, read_model, reduced

KIND = "face-detector"
PADDING = 114  # grey below and right of a picture that does not fill whole cells


class OwnDetector:
    """Our detector.

    Args:
        path: the ONNX file.
        score: how sure it must be, 0 to 1.
        overlap: boxes that overlap a better one by more than this are taken away; default as the file says.
        threads: processor threads; default all.

    Raises:
        InputError: the file is missing, damaged or some other model.
    """

    tells_eyes = False

    def __init__(
        self, path: Path, score: float = 0.5, overlap: float | None = None, threads: int | None = None
    ) -> None:
        data = read_model(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its complaints about bad files are raised as well
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen exceptions without a common parent
            msg = f"faces: {path} is no ONNX model or was cut short ({_first_line(error)}); export or copy it again"
            raise InputError(msg) from error
        about = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if about.get("kind") != KIND or len(inputs) != 1 or len(outputs) != 1:
            looks = "; give YuNet as yunet:FILE" if any(one.name == "cls_8" for one in outputs) else ""
            msg = f"faces: {path} is not a face detector that was trained here (its metadata has no kind={KIND}){looks}"
            raise InputError(msg)
        self.strides: tuple[int, ...] = tuple(json.loads(about["strides"]))
        self.long_side = int(about["long_side"])
        self._input = inputs[0].name
        self._fixed = [side if isinstance(side, int) else None for side in inputs[0].shape]
        if self._fixed[2] and self._fixed[3]:
            self.long_side = min(self.long_side, self._fixed[2], self._fixed[3])
        self.score, self.overlap = score, float(about.get("overlap", 0.5)) if overlap is None else overlap
        self.name = path.stem
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.identity = f"own {digest} {self.long_side} {score} {self.overlap}"

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Return the faces of RGB pictures; equally large reduced copies go through the model together."""
        small = [reduced(image, self.long_side) for image in images]
        shapes = [self._padded(copy.shape[0], copy.shape[1]) for copy, _ in small]
        faces: dict[int, Faces] = {}
        for shape in sorted(set(shapes)):
            places = [place for place, own in enumerate(shapes) if own == shape]
            batch = np.full((len(places), *shape, 3), PADDING, np.uint8)
            for row, place in enumerate(places):
                copy = small[place][0]
                batch[row, : copy.shape[0], : copy.shape[1]] = copy
            for raw, place in zip(self._run(batch), places, strict=True):
                faces[place] = self._faces(raw, shape, *small[place])
        return [faces[place] for place in range(len(images))]

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        largest = max(self.strides)
        rows, columns = (-(-side // largest) * largest for side in (height, width))
        return self._fixed[2] or rows, self._fixed[3] or columns

    def _run(self, batch: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        step = self._fixed[0] or len(pixels)
        parts: list[Any] = [
            self._session.run(None, {self._input: pixels[first : first + step]})[0]
            for first in range(0, len(pixels), step)
        ]
        return np.concatenate(parts)

    def _faces(self, raw: np.ndarray, shape: tuple[int, int], small: np.ndarray, back: np.ndarray) -> Faces:
        centres, scales = grid(*shape, self.strides)
        if raw.shape != (len(centres), 5):
            msg = (
                f"faces: {self.name} gives {raw.shape} numbers for {shape[0]} x {shape[1]} pixels where strides "
                f"{self.strides} ask for {(len(centres), 5)}; export it again"
            )
            raise InputError(msg)
        scores = 1 / (1 + np.exp(-np.clip(raw[:, 4], -50, 50)))
        sure = scores >= self.score
        boxes, scores = decode(raw[sure, :4], centres[sure], scales[sure]), scores[sure]
        kept = suppress(boxes, scores, self.overlap)
        return as_faces(boxes[kept], scores[kept], None, small, back)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
