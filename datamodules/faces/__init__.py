"""Finding faces in photographs and cutting them out: detectors, boxes, crops."""
