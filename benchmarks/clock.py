"""A callback that notes when each training began and ended, wherever its process is."""

import json
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.commands import TIMES


class Clock(Callback):
    """Adds a line to a file in the current folder; from the trainer's first hook to its last."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start."""
        self._began = time.time()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop; evaluating is no training."""
        if stage == "fit":
            with Path(TIMES).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"began": self._began, "ended": time.time()}) + "\n")
