"""K-EmotionNet: a ResNet of 54 weighted layers without bottlenecks, registered with timm as `k_emotionnet`.

The paper on Korean expressions gives the number of layers and that no block has a bottleneck, not how the blocks are
spread. Here: a stem convolution, 26 basic blocks of two convolutions each in four stages of 64, 128, 256 and 512
channels, and the classifier, 1 + 2 * 26 + 1 = 54. The blocks are spread as 4, 6, 12 and 4: like the 3, 4, 6 and 3 of
ResNet-34 (K. He et al., https://arxiv.org/abs/1512.03385), with most of them in the third stage, where deeper ResNets
put theirs. As usual the 1x1 convolutions of shortcuts are not counted, and batch normalisation is no layer.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

__all__ = ["BLOCKS", "k_emotionnet"]

BLOCKS = (4, 6, 12, 4)

default_cfgs = generate_default_cfgs(
    {
        "k_emotionnet": {  # no weights were published
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def k_emotionnet(pretrained: bool = False, **options: Any) -> ResNet:  # noqa: ANN401 - timm's options
    """Build K-EmotionNet with timm's options for a ResNet (``num_classes``, ``in_chans``, ``drop_path_rate`` ...)."""
    shape: dict[str, Any] = {"block": BasicBlock, "layers": BLOCKS}
    model: ResNet = build_model_with_cfg(ResNet, "k_emotionnet", pretrained, **shape | options)
    return model
