"""What a GPU must give: the numbers of the CPU, bf16, and DDP. Skipped where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.config import RunConfig
from lightning_modules.training import RunResult, train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("workplace"),
    pytest.mark.filterwarnings("ignore"),
]
WORDS = (
    *("--data", "drawn:largest=60,ratio=2,size=64", "--data.size", "64", "--data.batch_size", "32"),
    *("--model.weights", "none", "--data.n_min", "0.9", "--trainer.max_epochs", "2", "--run.resamples", "100"),
)


def trained(*words: str) -> RunResult:
    result = train(RunConfig.resolve([*WORDS, *words]))
    assert result is not None
    return result


def probabilities(result: RunResult) -> np.ndarray:
    return result.predictions.filter(like="prob_").to_numpy()


def test_a_gpu_gives_the_numbers_of_the_cpu() -> None:
    """One checkpoint, evaluated on both; training in another order of sums would drift apart."""
    from lightning_modules.classifier import EmotionClassifier

    result = trained("--trainer.accelerator", "gpu")
    assert result.folder is not None
    model = EmotionClassifier.from_checkpoint(result.folder / "best.ckpt").eval()
    loader = result.data.evaluation_loader(result.data.fold_rows.test)
    with torch.inference_mode():
        on_cpu = torch.cat([model.probabilities(batch["image"]) for batch in loader])
        on_gpu = torch.cat([model.cuda().probabilities(batch["image"].cuda()).cpu() for batch in loader])
    torch.testing.assert_close(on_cpu, on_gpu, atol=1e-3, rtol=0)
    rows = result.predictions.set_index("row").loc[result.data.fold_rows.test]
    np.testing.assert_allclose(rows.filter(like="prob_").to_numpy(), on_cpu.numpy(), atol=1e-3)


def test_bf16_learns_as_float32_does() -> None:
    full, half = (trained("--trainer.accelerator", "gpu", "--trainer.precision", p) for p in ("32-true", "bf16-mixed"))
    assert half.curves["train/loss"].iloc[-1] == pytest.approx(full.curves["train/loss"].iloc[-1], abs=0.1)


def test_ddp_on_each_device_gives_one_run(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "emotion", "fit", *WORDS, "--trainer.accelerator", "gpu"]
    command += ["--trainer.strategy", "ddp", "--trainer.devices", str(torch.cuda.device_count())]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("macro F1") == 1
