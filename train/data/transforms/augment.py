"""Image augmentation: crops, flips, RandAugment, random erasing, mixup and CutMix, by the caller's random generator."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from train.data.batches import Arrays
from train.data.readers.pixels import View

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from PIL.ImageEnhance import _Enhance

    Operation = Callable[[PILImage], PILImage]


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of training images.

    `shift`: moves an image by up to this fraction of its sides, up or down and left or right, with black beyond.
    `scale`: crops a fraction of the area, from least to most, with an aspect ratio from 3:4 to 4:3 (arXiv:1409.4842);
    above 1 it zooms out.  `mirror` and `upside`: flip left to right, and upside down, with probability 1/2.
    `operations` of RandAugment at `magnitude` out of 10 (arXiv:1909.13719).  `erase`: the probability that a rectangle
    of a fiftieth to a third of the area becomes noise (arXiv:1708.04896).  `mixup` (arXiv:1710.09412) and `cutmix`
    (arXiv:1905.04899): parameters of Beta(a, a) by which two images and their classes are mixed; if both are set, each
    batch draws one of them.
    """

    shift: float = 0.0
    scale: tuple[float, float] | None = None
    mirror: bool = False
    upside: bool = False
    operations: int = 0
    magnitude: float = 5.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 16:
            raise ValueError(
                f"Augment.scale is {self.scale}; give the least and the most of the area, above 0 and at most 16."
            )
        if not (0 <= self.shift < 1 and 0 <= self.erase <= 1 and 0 <= self.magnitude <= 10):
            raise ValueError(
                f"Augment has shift {self.shift}, erase {self.erase} and magnitude {self.magnitude}; shift and erase"
                " go from 0 to 1, magnitude to 10."
            )
        if self.operations < 0 or self.mixup < 0 or self.cutmix < 0:
            raise ValueError(
                f"Augment has operations {self.operations}, mixup {self.mixup}, cutmix {self.cutmix}; none is below 0."
            )

    @property
    def mixes(self) -> bool:
        """True if images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def make_mix(self, classes: int, name: str) -> Callable[[Arrays, np.random.Generator], Arrays] | None:
        """Makes the function that mixes the array `name` of a batch and its labels; None if nothing is mixed."""
        return (lambda batch, chance: self.mix(batch, chance, classes, name)) if self.mixes else None

    def draw_view(self, chance: np.random.Generator) -> View:
        """Draws the crop and the flips of an image."""
        height = width = 1.0
        if self.scale is not None:
            area, shape = chance.uniform(*self.scale), np.exp(chance.uniform(np.log(3 / 4), np.log(4 / 3)))
            height, width = np.sqrt(area / shape), np.sqrt(area * shape)
        top, left = (min(0.0, 1 - side) + chance.random() * abs(1 - side) for side in (height, width))
        if self.shift:
            top, left = top + chance.uniform(-self.shift, self.shift), left + chance.uniform(-self.shift, self.shift)
        mirror, upside = self.mirror and chance.random() < 0.5, self.upside and chance.random() < 0.5
        return View(float(top), float(left), float(height), float(width), bool(mirror), bool(upside))

    def change_colours(self, image: np.ndarray, chance: np.random.Generator, geometry: bool = True) -> np.ndarray:
        """Applies RandAugment and erasing; unless `geometry` only operations that move and erase nothing."""
        if self.operations:
            image = randaugment(image, chance, self.operations, self.magnitude, geometry)
        if geometry and self.erase and chance.random() < self.erase:
            rows, columns, channels = image.shape
            area, shape = chance.uniform(0.02, 1 / 3) * rows * columns, np.exp(chance.uniform(-1.2, 1.2))
            height, width = (
                int(min(side, np.sqrt(part))) for side, part in ((rows, area * shape), (columns, area / shape))
            )
            top, left = chance.integers(0, rows - height + 1), chance.integers(0, columns - width + 1)
            image = image.copy()
            image[top : top + height, left : left + width] = chance.integers(0, 256, (height, width, channels))
        return image

    def mix(self, batch: Arrays, chance: np.random.Generator, classes: int, name: str = "image") -> Arrays:
        """Mixes the images of a batch with those of the batch reversed; `targets` (b, c) are the shares of classes."""
        images, hot = batch[name], np.eye(classes, dtype=np.float32)[batch["labels"]]
        cut = self.cutmix > 0 and (not self.mixup or chance.random() < 0.5)
        form = self.cutmix if cut else self.mixup
        share = chance.beta(form, form)
        if cut:
            rows, columns = images.shape[-3:-1]
            height, width = (int(side * np.sqrt(1 - share)) for side in (rows, columns))
            top, left = chance.integers(0, rows - height + 1), chance.integers(0, columns - width + 1)
            images, share = images.copy(), 1 - height * width / (rows * columns)
            window = (..., slice(top, top + height), slice(left, left + width), slice(None))
            images[window] = batch[name][::-1][window]
        else:
            images = (share * images + (1 - share) * images[::-1]).astype(np.float32)
        return batch | {name: images, "targets": (share * hot + (1 - share) * hot[::-1]).astype(np.float32)}


def _flip_sign(value: float, chance: np.random.Generator) -> float:
    return value if chance.random() < 0.5 else -value


def randaugment(
    image: np.ndarray, chance: np.random.Generator, operations: int, magnitude: float, geometry: bool = True
) -> np.ndarray:
    """Applies random operations to an image, at `magnitude` from 0 to 10.  RandAugment, arXiv:1909.13719."""
    from PIL import Image, ImageEnhance, ImageOps

    part, grey = magnitude / 10, image.shape[2] == 1

    def enhance(kind: "Callable[[PILImage], _Enhance]") -> "Operation":
        return lambda picture: kind(picture).enhance(max(0.05, 1 + _flip_sign(0.9 * part, chance)))

    def shear(picture: "PILImage") -> "PILImage":
        amount, across = _flip_sign(0.3 * part, chance), chance.random() < 0.5
        matrix = (1, amount, 0, 0, 1, 0) if across else (1, 0, 0, amount, 1, 0)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    steady: list[Operation] = [
        lambda picture: picture,
        ImageOps.autocontrast,
        ImageOps.equalize,
        lambda picture: ImageOps.solarize(picture, int(256 - 128 * part)),
        lambda picture: ImageOps.posterize(picture, int(8 - 4 * part)),
        enhance(ImageEnhance.Contrast),
        enhance(ImageEnhance.Brightness),
        enhance(ImageEnhance.Sharpness),
    ]
    steady += [] if grey else [enhance(ImageEnhance.Color)]
    moving: list[Operation] = [
        shear,
        lambda picture: picture.rotate(_flip_sign(30 * part, chance), Image.Resampling.BILINEAR),
    ]
    known = [*steady, *moving] if geometry else steady
    picture = Image.fromarray(image[..., 0] if grey else image)
    for _ in range(operations):
        picture = known[chance.integers(len(known))](picture)
    pixels = np.asarray(picture)
    return pixels[..., None] if grey else pixels
