"""Trains and tests the tiny task in as many processes as asked for, and writes what came out.

Started as a script by test_two_processes.py: ``two_processes.py DEVICES FOLDER``.
"""

import json
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from tiny_task import Squares, TinyTask, classifier, trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_modules.losses import CrossEntropy


class SharedTask(TinyTask):
    """Shares rows out as the real data does: none padded, none lost."""

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        sampler = DistributedSampler(Squares(24), world, rank, shuffle=False)
        return DataLoader(Squares(24), batch_size=8 // world, sampler=sampler)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        sampler = UnrepeatedDistributedSampler(Squares(13), num_replicas=world, rank=rank, shuffle=False)
        return DataLoader(Squares(13), batch_size=5, sampler=sampler)

    test_dataloader = val_dataloader


class Spread(pl.Callback):
    """Notes by how much the processes' weights differ after training."""

    def __init__(self) -> None:
        self.largest = 0.0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        flat = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()])
        if trainer.world_size > 1:
            both = pl_module.all_gather(flat)
            self.largest = float((both[0] - both[1]).abs().max())


def main(devices: int, folder: Path) -> None:
    """Train with a backbone that thaws, then test one checkpoint that both numbers of processes load."""
    strategy = "ddp" if devices > 1 else "auto"  # gloo, on a CPU
    options = {"devices": devices, "strategy": strategy, "use_distributed_sampler": False}
    spread = Spread()
    model = classifier(freeze="all", thaw_after_epochs=1, learning_rate=1e-2)
    before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    fit = trainer(3, callbacks=[spread], gradient_clip_val=1.0, **options)
    fit.fit(model, datamodule=SharedTask())
    moved = sum(not torch.equal(before[name], value.cpu()) for name, value in model.backbone.named_parameters())

    fixed = classifier(loss=CrossEntropy([1.0, 2.0, 4.0]))  # weights: the mean of batch means would be wrong
    test = trainer(1, **options)
    (metrics,) = test.test(fixed, datamodule=SharedTask(), verbose=False)
    if test.is_global_zero:
        assert fixed.test_predictions is not None
        rows, prob = fixed.test_predictions["row"].tolist(), fixed.test_predictions["prob"].tolist()
        result = {"metrics": metrics, "rows": rows, "prob": prob, "spread": spread.largest, "moved": moved}
        (folder / f"{devices}.json").write_text(json.dumps(result | {"layers": len(before)}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), Path(sys.argv[2]))
