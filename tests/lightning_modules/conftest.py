"""Lets the tests of this folder share ``tiny_task``, which importlib mode alone would not find."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
