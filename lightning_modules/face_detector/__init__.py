"""Face detector: one class, one stage, anchor-free, with a feature pyramid; exported as ONNX."""

from lightning_modules.face_detector.network import FaceDetector

__all__ = ["FaceDetector"]
