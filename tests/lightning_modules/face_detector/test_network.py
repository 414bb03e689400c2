"""The detector's network: shapes, parts that can be switched, learning, checkpoints, and ONNX without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import onnxruntime
import pytest
import torch
from timm.layers import Conv2dSame

from datamodules.errors import InputError
from datamodules.face_boxes import BoxesDataModule
from datamodules.faces.boxes import grid
from datamodules.faces.detectors import TrainedDetector
from lightning_modules.callbacks import quiet
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.face_detector import FaceDetector
from lightning_modules.face_detector.export import export_onnx, with_fixed_padding
from lightning_modules.face_detector.losses import STRIDES
from lightning_modules.face_detector.network import build_features

TINY: dict[str, Any] = {"backbone": "resnet10t", "weights": "none", "size": 64, "width": 8}


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_any_backbone_gives_one_answer_a_cell(backbone: str) -> None:
    model = FaceDetector(backbone, "none", size=64, width=8).eval()
    with torch.inference_mode():
        raw = model(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert raw.shape == (2, len(grid(64, 64, STRIDES)[0]), 5)
    assert (raw[..., :4] >= 0).all()
    assert raw[..., 4].sigmoid().mean() < 0.05  # untrained, nearly nothing is a face


def test_each_part_can_be_switched_and_changes_the_network() -> None:
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outputs, sizes = [], []
    for enhance, seam in ((False, False), (True, False), (False, True), (True, True)):
        torch.manual_seed(0)
        model = FaceDetector(**TINY, enhance=enhance, seam=seam).eval()
        names = [name for name, _ in model.network.named_parameters()]
        assert any(name.startswith("enhance.") for name in names) == enhance
        assert any(name.startswith("seam.") for name in names) == seam
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
        with torch.inference_mode():
            outputs.append(model(image))
    assert sizes[0] < sizes[1] < sizes[3]
    assert sizes[0] < sizes[2] < sizes[3]
    assert len({tuple(output[0, :3, 0].tolist()) for output in outputs}) == 4


def test_embedded_weights_are_those_of_the_classifier() -> None:
    whole = EmotionClassifier(["a", "b"], "tf_efficientnet_lite0").backbone
    features, _ = build_features("tf_efficientnet_lite0", "embedded", 64)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    inner: Any = whole
    inner.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        whole.eval()(image)
        maps = features.eval()(image)
    torch.testing.assert_close(maps[-1], seen[0], atol=1e-4, rtol=1e-4)  # sums in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BoxesDataModule:
    source = "scenes:images=8,size=96,others=1,distractors=0,smallest=0.3"
    module = BoxesDataModule(  # with a seed of its own: by default it is that of the test that ran before
        source, size=64, batch_size=2, augment=False, num_workers=0, outer_fraction=0.25, seed=0
    )
    module.setup("fit")
    return module


def trained(data: BoxesDataModule, folder: Path, model: FaceDetector, epochs: int) -> list[float]:
    losses: list[float] = []

    class Keep(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    quiet()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, gradient_clip_val=10.0, enable_model_summary=False,
        use_distributed_sampler=False, logger=False, callbacks=[Keep()], enable_checkpointing=False,
        enable_progress_bar=False, limit_val_batches=0, num_sanity_val_steps=0, log_every_n_steps=10,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    return losses


@pytest.fixture(scope="module")
def checkpoint(data: BoxesDataModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    pl.seed_everything(0, verbose=False)
    model = FaceDetector(**TINY, learning_rate=0.01, schedule="constant", warmup=0.0)
    losses = trained(data, folder, model, 12)
    (folder / "losses.json").write_text(json.dumps(losses))
    return folder / "model.ckpt"


def test_training_on_a_few_scenes_lowers_the_loss(checkpoint: Path) -> None:
    losses = json.loads((checkpoint.parent / "losses.json").read_text())
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def test_fine_tuning_starts_where_training_ended(data: BoxesDataModule, checkpoint: Path, tmp_path: Path) -> None:
    model = FaceDetector.from_checkpoint(checkpoint, nwd=0.0, learning_rate=1e-4).train()
    assert model.objective.nwd == 0.0
    assert model.plain["width"] == 8
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, stored[name], rtol=0, atol=0)
    pl.seed_everything(0, verbose=False)
    untrained = trained(data, tmp_path, FaceDetector(**TINY, nwd=0.0, learning_rate=1e-4), 1)
    assert trained(data, tmp_path, model, 1)[0] < 0.9 * untrained[0]  # of the same loss
    with pytest.raises(InputError, match=r"has width 8, this run 16: leave width out"):
        FaceDetector.from_checkpoint(checkpoint, width=16)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    classifier = EmotionClassifier(["a", "b"], "mobilenetv3_small_050", "none")
    content: dict[str, Any] = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(content)
    torch.save(content, tmp_path / "classifier.ckpt")
    with pytest.raises(InputError, match=r"is a checkpoint of a classifier, not of a face detector"):
        FaceDetector.from_checkpoint(tmp_path / "classifier.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"is a checkpoint of something else"):
        FaceDetector.from_checkpoint(tmp_path / "other.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"damaged"):
        FaceDetector.from_checkpoint(tmp_path / "cut.ckpt")
    torn = torch.load(checkpoint, weights_only=True)
    torn["state_dict"].popitem()
    torch.save(torn, tmp_path / "torn.ckpt")
    with pytest.raises(InputError, match=r"its tensors are not those of resnet10t"):
        FaceDetector.from_checkpoint(tmp_path / "torn.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 70}, "--data.size: must be a multiple of 32, got 70"),
        ({"width": 2}, "--model.width: must be at least 4 channels, got 2"),
        ({"learning_rate": 0.0}, "--model.learning_rate: must be above 0"),
        ({"backbone": "resnet_18"}, "--model.backbone: .* got 'resnet_18'; did you mean"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FaceDetector(**{**TINY, **options})


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
import numpy as np
from datamodules.faces.detectors import open_detector
detector = open_detector(sys.argv[1])
detector.score = 0.01
image = np.load(sys.argv[2])
faces = detector.detect([image])[0]
np.savez(sys.argv[3], boxes=faces.boxes, scores=faces.scores)
"""


@pytest.mark.slow
def test_the_onnx_file_runs_without_torch_and_says_the_same(checkpoint: Path, tmp_path: Path) -> None:
    model = FaceDetector.from_checkpoint(checkpoint)
    path = tmp_path / "own detector.onnx"
    assert export_onnx(model, path) < 1e-3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    session = onnxruntime.InferenceSession(str(path))
    generator = torch.Generator().manual_seed(5)
    for shape in ((3, 3, 64, 64), (1, 3, 96, 160)):
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            expected = model(image).numpy()
        (raw,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(raw, expected, atol=1e-3)
    picture = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=generator)
    np.save(tmp_path / "image.npy", picture[0].permute(1, 2, 0).numpy())
    with torch.inference_mode():
        ((boxes, scores),) = model.decode(model(picture))
    words = [str(path), str(tmp_path / "image.npy"), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], check=True, cwd=Path(__file__).parents[3])
    found = np.load(tmp_path / "found.npz")
    assert len(scores) > 0
    np.testing.assert_allclose(found["scores"][:100], scores, atol=1e-3)
    np.testing.assert_allclose(np.clip(found["boxes"][:100], 0, 64), boxes, atol=0.05)
    assert TrainedDetector(path).strides == STRIDES


def test_padding_without_formulas_is_the_same() -> None:
    model = FaceDetector(backbone="tf_efficientnet_lite0", weights="none", size=64).eval()
    fixed = with_fixed_padding(model)
    assert any(isinstance(one, Conv2dSame) for one in model.modules())
    generator = torch.Generator().manual_seed(3)
    for high, wide in ((64, 64), (96, 160), (32, 64)):
        image = torch.randint(0, 256, (1, 3, high, wide), dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            torch.testing.assert_close(fixed(image), model(image))


@pytest.mark.slow
def test_a_detector_of_the_default_network_is_exported(tmp_path: Path) -> None:
    model = FaceDetector(backbone="tf_efficientnet_lite0", weights="embedded", size=64).eval()
    assert export_onnx(model, tmp_path / "free.onnx") < 1e-3
    assert export_onnx(model, tmp_path / "fixed.onnx", fixed=True) < 1e-3


def test_a_file_that_cannot_be_written_is_said(checkpoint: Path, tmp_path: Path) -> None:
    model = FaceDetector.from_checkpoint(checkpoint)
    with pytest.raises(InputError, match=r"--output: cannot write .*choose a folder that exists"):
        export_onnx(model, tmp_path / "no folder" / "detector.onnx")
