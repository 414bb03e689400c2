"""Finding faces in photographs and cutting them out: detectors, boxes, crops."""

from datamodules.faces.detector import Detector, Faces, open_detector

__all__ = ["Detector", "Faces", "open_detector"]
