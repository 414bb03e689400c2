"""Our own face detector: one class, one stage, anchor-free, over a feature pyramid; leaves as ONNX."""

from lightning_modules.face_detector.network import FaceDetector

__all__ = ["FaceDetector"]
