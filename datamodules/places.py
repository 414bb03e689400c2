"""Where files that can be made again are kept: caches, unpacked archives, drawn faces."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder of everything rebuildable: ``$EMOTION_CACHE_DIR``, else ``emotion`` in the user's cache."""
    if chosen := os.environ.get("EMOTION_CACHE_DIR"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").resolve() / "emotion"
