"""Write a small folder of drawn faces with the faults of real ones: a duplicate under two labels, and a broken file."""

import shutil
from pathlib import Path

from PIL import Image

from datamodules.synthetic import draw, parse_spec

spec = parse_spec("largest=80,ratio=4,size=64,seed=3")
root = Path("my_images")
for row in range(len(spec)):
    folder = root / spec.label_of(row)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(spec, row).image).save(folder / f"{row:04d}.png")
first = sorted((root / "happy").iterdir())[0]
shutil.copy(first, root / "surprise" / "copied_by_mistake.png")
shutil.copy(first, root / "happy" / "copied_again.png")
(root / "sad" / "broken.png").write_bytes(first.read_bytes()[:100])
