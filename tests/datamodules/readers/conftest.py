"""Files for readers."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """Makes files that no reader has to decode, below a folder, and returns the folder."""

    def make(*files: str, under: str = "set") -> Path:
        root = tmp_path / under
        root.mkdir(exist_ok=True)
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"not read here")
        return root

    return make
