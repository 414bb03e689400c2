"""Transforms of training images: the ten of the paper, and four policies for comparison.

The paper's names are Keras layers, so their semantics are kept: one value for the whole image, bilinear, edges
filled by reflection, output as large as the input. Its magnitudes are for 224 pixels and are scaled to the input size.
"""

import os
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for a newer version

import albumentations as A
import cv2
import numpy as np

from datamodules.errors import did_you_mean, invalid

Policy = Literal["one_of", "mild", "trivial_augment", "rand_augment", "aug_mix"]
BasePolicy = Literal["none", "mild", "trivial_augment", "rand_augment", "aug_mix"]
PAPER_SIZE = 224
LARGEST_MAGNITUDE = 3.0  # a zoom of 1 +- 0.9 still shows something, one of 1 +- 1 nothing
GREY = 128
REFLECT = {"border_mode": cv2.BORDER_REFLECT, "interpolation": cv2.INTER_LINEAR, "p": 1.0}


class KernelBlur(A.ImageOnlyTransform):
    """Gaussian blur by an odd kernel drawn from ``kernels``; its sigma follows from the kernel as in OpenCV."""

    def __init__(self, kernels: Sequence[int], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.kernels = tuple(kernels)

    def get_params(self) -> dict[str, Any]:
        """Draw the kernel's side."""
        return {"kernel": self.py_random.choice(self.kernels)}

    def apply(self, img: np.ndarray, kernel: int = 3, **params: Any) -> np.ndarray:  # noqa: ANN401
        """Blur one image."""
        return cv2.GaussianBlur(img, (kernel, kernel), 0, borderType=cv2.BORDER_REFLECT)


class GreySquare(A.ImageOnlyTransform):
    """Cutout: one grey square of side 0 to ``largest``, wholly inside the image."""

    def __init__(self, largest: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.largest = largest

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw side and place."""
        height, width = params["shape"][:2]
        side = self.py_random.randint(0, min(self.largest, height, width))
        return {
            "side": side,
            "top": self.py_random.randint(0, height - side),
            "left": self.py_random.randint(0, width - side),
        }

    def apply(self, img: np.ndarray, side: int = 0, top: int = 0, left: int = 0, **params: Any) -> np.ndarray:  # noqa: ANN401
        """Cover part of one image."""
        out = img.copy()
        out[top : top + side, left : left + side] = GREY
        return out


class MeanContrast(A.ImageOnlyTransform):
    """Contrast as in Keras: each channel's distance from its own mean is multiplied by 1 +- ``amount``."""

    def __init__(self, amount: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.amount = amount

    def get_params(self) -> dict[str, Any]:
        """Draw the factor."""
        return {"factor": self.py_random.uniform(1 - self.amount, 1 + self.amount)}

    def apply(self, img: np.ndarray, factor: float = 1.0, **params: Any) -> np.ndarray:  # noqa: ANN401
        """Change the contrast of one image."""
        means = np.asarray(cv2.mean(img)[:3])
        steps = (np.arange(256)[:, None] - means) * factor + means  # (256, 3): one table a channel
        table = np.clip(np.rint(steps), 0, 255).astype(np.uint8)
        return cv2.LUT(img, table[None])


class Zoom(A.ImageOnlyTransform):
    """Zoom as in Keras: distances from the centre are multiplied by 1 +- ``amount`` to find where a pixel comes from.

    So it is the content that is scaled by the inverse, to 1 / 1.3 up to 1 / 0.7 of its size with an amount of 0.3.
    """

    def __init__(self, amount: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.amount = amount

    def get_params(self) -> dict[str, Any]:
        """Draw the factor."""
        return {"factor": self.py_random.uniform(1 - self.amount, 1 + self.amount)}

    def apply(self, img: np.ndarray, factor: float = 1.0, **params: Any) -> np.ndarray:  # noqa: ANN401
        """Zoom one image."""
        height, width = img.shape[:2]
        centre = (1 - factor) * (width - 1) / 2, (1 - factor) * (height - 1) / 2
        sources = np.array([[factor, 0, centre[0]], [0, factor, centre[1]]])  # of the pixels of the result
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(img, sources, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT)


def _scaled(pixels: float, size: int) -> int:
    return round(pixels * size / PAPER_SIZE)


def _blur(size: int, magnitude: float) -> A.BasicTransform:
    # odd and at least 3: a kernel of 1 would do nothing, which is where 3 at small inputs would end
    sides = {max(3, 2 * (_scaled(side * magnitude, size) // 2) + 1) for side in (3, 5, 7)}
    return KernelBlur(sorted(sides))


def _crop(size: int, magnitude: float) -> A.BasicTransform:
    side = max(1, _scaled(PAPER_SIZE - 24 * magnitude, size))
    return A.RandomSizedCrop(min_max_height=(side, side), size=(size, size), interpolation=cv2.INTER_LINEAR, p=1.0)


def _flip(size: int, magnitude: float) -> A.BaseCompose:
    return A.Sequential([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], p=1.0)


def _rotation(size: int, magnitude: float) -> A.BasicTransform:
    return A.Affine(rotate=(-45 * magnitude, 45 * magnitude), **REFLECT)


def _translation(size: int, magnitude: float) -> A.BasicTransform:
    shift = 0.3 * magnitude
    return A.Affine(translate_percent={"x": (-shift, shift), "y": (-shift, shift)}, **REFLECT)


def _cutout(size: int, magnitude: float) -> A.BasicTransform:
    return GreySquare(_scaled(70 * magnitude, size))


def _contrast(size: int, magnitude: float) -> A.BasicTransform:
    return MeanContrast(0.3 * magnitude)


def _height(size: int, magnitude: float) -> A.BasicTransform:
    """Stretch along one axis about the centre. Keras changes the image's size, which a fixed input cannot."""
    stretch = (1 - 0.3 * magnitude, 1 + 0.3 * magnitude)
    return A.Affine(scale={"x": (1.0, 1.0), "y": stretch}, keep_ratio=False, **REFLECT)


def _width(size: int, magnitude: float) -> A.BasicTransform:
    stretch = (1 - 0.3 * magnitude, 1 + 0.3 * magnitude)
    return A.Affine(scale={"x": stretch, "y": (1.0, 1.0)}, keep_ratio=False, **REFLECT)


def _zoom(size: int, magnitude: float) -> A.BasicTransform:
    return Zoom(0.3 * magnitude)


def _erasing(size: int, magnitude: float) -> A.BasicTransform:
    return A.Erasing(scale=(0.02, max(0.02, 0.33 * magnitude)), ratio=(0.3, 3.3), fill=GREY, p=1.0)


TRANSFORMS: dict[str, Callable[[int, float], A.BasicTransform | A.BaseCompose]] = {
    "blur": _blur,
    "crop": _crop,
    "flip": _flip,
    "rotation": _rotation,
    "translation": _translation,
    "cutout": _cutout,
    "contrast": _contrast,
    "height": _height,
    "width": _width,
    "zoom": _zoom,
    "erasing": _erasing,
}
"""Name to a builder that takes input size and magnitude (1: the paper's): the paper's ten, and random erasing."""


def _trivial_augment() -> A.BaseCompose:
    """One operation of uniform strength, after TrivialAugment (https://arxiv.org/abs/2103.10158)."""
    return A.OneOf(
        [
            A.NoOp(p=1.0),
            A.AutoContrast(p=1.0),
            A.Equalize(p=1.0),
            A.Posterize(num_bits=(2, 8), p=1.0),
            A.Solarize(threshold_range=(0.0, 1.0), p=1.0),
            A.ColorJitter(brightness=0, contrast=0, saturation=(0.1, 1.9), hue=0, p=1.0),
            A.ColorJitter(brightness=0, contrast=(0.1, 1.9), saturation=0, hue=0, p=1.0),
            A.ColorJitter(brightness=(0.1, 1.9), contrast=0, saturation=0, hue=0, p=1.0),
            A.Sharpen(alpha=(0.0, 0.9), lightness=(1.0, 1.0), p=1.0),
            A.Affine(rotate=(-30, 30), **REFLECT),
            A.Affine(shear={"x": (-17, 17), "y": (0, 0)}, **REFLECT),
            A.Affine(shear={"x": (0, 0), "y": (-17, 17)}, **REFLECT),
            A.Affine(translate_percent={"x": (-0.14, 0.14), "y": (0, 0)}, **REFLECT),
            A.Affine(translate_percent={"x": (0, 0), "y": (-0.14, 0.14)}, **REFLECT),
        ],
        p=1.0,
    )


def _rand_augment() -> A.BaseCompose:
    """Two operations, after RandAugment (https://arxiv.org/abs/1909.13719) with N 2 and M 9.

    Unlike the paper's, they are two different ones, and M is the largest strength: that of an operation on positions or
    colours is drawn uniformly up to it, in both directions.
    """
    return A.SomeOf(_operations(0.3), n=2, p=1.0)


def _operations(strength: float) -> list[A.BasicTransform]:
    """Return RandAugment's operations on colours and positions, of a strength in (0, 1]; 1 is its largest."""
    bits, less, more = round(8 - 4 * strength), 1 - 0.9 * strength, 1 + 0.9 * strength
    degrees, shift = 30 * strength, 0.33 * strength
    return [
        A.NoOp(p=1.0),
        A.AutoContrast(p=1.0),
        A.Equalize(p=1.0),
        A.Posterize(num_bits=bits, p=1.0),
        A.Solarize(threshold_range=(1 - strength, 1 - strength), p=1.0),
        A.ColorJitter(brightness=0, contrast=0, saturation=(less, more), hue=0, p=1.0),
        A.ColorJitter(brightness=0, contrast=(less, more), saturation=0, hue=0, p=1.0),
        A.ColorJitter(brightness=(less, more), contrast=0, saturation=0, hue=0, p=1.0),
        A.Sharpen(alpha=(0.0, 0.9 * strength), lightness=(1.0, 1.0), p=1.0),
        A.Affine(rotate=(-degrees, degrees), **REFLECT),
        A.Affine(shear={"x": (-17 * strength, 17 * strength), "y": (0, 0)}, **REFLECT),
        A.Affine(shear={"x": (0, 0), "y": (-17 * strength, 17 * strength)}, **REFLECT),
        A.Affine(translate_percent={"x": (-shift, shift), "y": (0, 0)}, **REFLECT),
        A.Affine(translate_percent={"x": (0, 0), "y": (-shift, shift)}, **REFLECT),
    ]


CHAINS, DEEPEST = 3, 3  # of AugMix


class AugMix(A.ImageOnlyTransform):
    """Mean of the image and of three chains of one to three operations (https://arxiv.org/abs/1912.02781).

    The weights of the chains are drawn from a Dirichlet distribution, that of the image from a beta distribution, both
    with parameters 1. The operations have a moderate strength. The consistency loss of the paper is not used.
    """

    def __init__(self, strength: float = 0.3, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.strength = strength
        self._operations = _operations(strength)

    def get_params(self) -> dict[str, Any]:
        """Draw the weights, the operations of each chain, and a seed for what they draw."""
        drawn = self.random_generator
        chains = [drawn.integers(len(self._operations), size=drawn.integers(1, DEEPEST + 1)) for _ in range(CHAINS)]
        weights = drawn.dirichlet(np.ones(CHAINS))
        return {"chains": chains, "weights": weights, "own": drawn.beta(1, 1), "seed": int(drawn.integers(2**32))}

    def apply(
        self,
        img: np.ndarray,
        chains: Sequence[np.ndarray] = (),
        weights: Sequence[float] = (),
        own: float = 1.0,
        seed: int = 0,
        **params: Any,  # noqa: ANN401
    ) -> np.ndarray:
        """Mix one image."""
        random_generator, py_random = np.random.default_rng(seed), random.Random(seed)
        for operation in self._operations:
            operation.set_random_state(random_generator, py_random)
        mixed = own * img.astype(np.float32)
        for chain, weight in zip(chains, weights, strict=True):
            image = img
            for number in chain:
                image = self._operations[number](image=image)["image"]
            mixed += (1 - own) * weight * image
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def build_transform(
    names: Sequence[str],
    size: int,
    policy: Policy = "one_of",
    *,
    base: BasePolicy = "none",
    erasing: float = 0.0,
    magnitude: float = 1.0,
) -> A.Compose | None:
    """Return the transform of training images (size, size, 3) uint8, or None if there is none.

    Args:
        names: Transforms of which ``one_of`` draws one for each image, all equally likely; may be empty.
        size: Side of the images.
        policy: ``one_of``; ``mild``, flip and small affine move; ``trivial_augment``, one operation of any strength;
            ``rand_augment``, two of a moderate strength; ``aug_mix``, a mean of the image and of chains of operations.
        base: Policy that is applied first.
        erasing: Probability of a grey rectangle over 2 to 33 % of the image, at the end.
        magnitude: Factor on the paper's magnitudes of the named transforms; a flip has none.

    Raises:
        InputError: An unknown name, names with a policy that uses none, a probability outside [0, 1], or a magnitude
            out of range or without a transform.
    """
    if unknown := [name for name in names if name not in TRANSFORMS]:
        rule = f"must be among {', '.join(TRANSFORMS)}"
        raise invalid("--data.transforms", rule, ", ".join(unknown), did_you_mean(unknown[0], TRANSFORMS))
    if names and policy != "one_of":
        rule = f"must be empty with --data.policy {policy}, which draws from transforms of its own"
        raise invalid("--data.transforms", rule, list(names), "add --data.transforms '[]', or use --data.policy one_of")
    if not 0 <= erasing <= 1:
        raise invalid("--data.erasing", "must be a probability, in 0 to 1", erasing)
    if not 0 < magnitude <= LARGEST_MAGNITUDE:
        raise invalid("--data.magnitude", f"must be above 0 and at most {LARGEST_MAGNITUDE:g}", magnitude)
    if magnitude != 1 and not names:
        raise invalid(
            "--data.magnitude", "applies to --data.transforms, of which there are none", magnitude, "leave it out"
        )
    steps: list[A.BasicTransform | A.BaseCompose] = [*_policy(base)]
    if policy != "one_of":
        steps += _policy(policy)
    elif names:
        steps.append(A.OneOf([TRANSFORMS[name](size, magnitude) for name in names], p=1.0))
    if erasing:
        steps.append(A.Erasing(scale=(0.02, 0.33), ratio=(0.3, 3.3), fill=GREY, p=erasing))
    return A.Compose(steps) if steps else None


def _policy(name: str) -> list[A.BasicTransform | A.BaseCompose]:
    if name == "none":
        return []
    if name == "mild":
        shift = {"x": (-0.08, 0.08), "y": (-0.08, 0.08)}
        affine = A.Affine(rotate=(-10, 10), scale=(0.9, 1.1), keep_ratio=True, translate_percent=shift, **REFLECT)
        return [A.HorizontalFlip(p=0.5), affine]
    if name == "trivial_augment":
        return [_trivial_augment()]
    if name == "rand_augment":
        return [A.HorizontalFlip(p=0.5), _rand_augment()]
    if name == "aug_mix":
        return [A.HorizontalFlip(p=0.5), AugMix()]
    raise invalid("--data.policy", "must be one_of, mild, trivial_augment, rand_augment or aug_mix", name)


def reseed(transform: A.Compose, *seed: int) -> None:
    """Seed the random generators of the transform with ``seed``.

    Not ``set_random_seed``: that gives every step a generator of its own with one and the same seed, so that steps
    would draw the same numbers: the flipped images would be the erased ones.
    """
    state = np.random.SeedSequence(seed)
    transform.set_random_state(np.random.default_rng(state), random.Random(int(state.generate_state(1, np.uint64)[0])))
