"""Pictures changed at random for training: crops, flips, RandAugment, erasing, mixtures.  All chance comes from the
caller's generator.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from train.data.batches import Arrays
from train.data.readers.pixels import View


@dataclasses.dataclass(frozen=True)
class Augment:
    """What training may see in the place of a picture.

    `shift`: moved by up to this share of its side, up and down, left and right, with black beyond.  `scale`: a crop of
    this share of the
    area, from least to most, of a shape between 3:4 and 4:3 (arXiv:1409.4842); above 1 it zooms out.  `mirror` and
    `upside`: turned over
    in half of the cases.  `operations` of RandAugment at `magnitude` of 10 (arXiv:1909.13719).  `erase`: the chance
    that a rectangle of
    a fiftieth to a third of the area becomes noise (arXiv:1708.04896).  `mixup` (arXiv:1710.09412) and `cutmix`
    (arXiv:1905.04899):
    parameters of Beta(a, a) by which two pictures and their classes are mixed; with both, each batch draws which.
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
        """Whether pictures are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def mixture(self, classes: int, name: str) -> Callable[[Arrays, np.random.Generator], Arrays] | None:
        """How to mix a batch whose pictures or clips have this name, with so many classes; None where nothing is
        mixed.
        """
        return (lambda batch, chance: self.mixed(batch, chance, classes, name)) if self.mixes else None

    def view(self, chance: np.random.Generator) -> View:
        """Which part of a picture is seen, and which way up."""
        height = width = 1.0
        if self.scale is not None:
            area, shape = chance.uniform(*self.scale), np.exp(chance.uniform(np.log(3 / 4), np.log(4 / 3)))
            height, width = np.sqrt(area / shape), np.sqrt(area * shape)
        top, left = (min(0.0, 1 - side) + chance.random() * abs(1 - side) for side in (height, width))
        if self.shift:
            top, left = top + chance.uniform(-self.shift, self.shift), left + chance.uniform(-self.shift, self.shift)
        mirror, upside = self.mirror and chance.random() < 0.5, self.upside and chance.random() < 0.5
        return View(float(top), float(left), float(height), float(width), bool(mirror), bool(upside))

    def colours(self, image: np.ndarray, chance: np.random.Generator, geometry: bool = True) -> np.ndarray:
        """A picture after RandAugment and erasing; without `geometry` only what leaves everything in its place."""
        if self.operations:
            image = randaugmented(image, chance, self.operations, self.magnitude, geometry)
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

    def mixed(self, batch: Arrays, chance: np.random.Generator, classes: int, name: str = "image") -> Arrays:
        """A batch whose pictures are mixed with those of the batch reversed, with `targets` (b, c) that say in which
        shares.
        """
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


def _signed(value: float, chance: np.random.Generator) -> float:
    return value if chance.random() < 0.5 else -value


def randaugmented(
    image: np.ndarray, chance: np.random.Generator, operations: int, magnitude: float, geometry: bool = True
) -> np.ndarray:
    """A picture after so many operations drawn at random, at `magnitude` from 0 to 10.  RandAugment,
    arXiv:1909.13719.
    """
    from PIL import Image, ImageEnhance, ImageOps

    part, grey = magnitude / 10, image.shape[2] == 1

    def enhanced(kind: Any) -> Callable[[Any], Any]:
        return lambda picture: kind(picture).enhance(max(0.05, 1 + _signed(0.9 * part, chance)))

    def sheared(picture: Any) -> Any:
        amount, across = _signed(0.3 * part, chance), chance.random() < 0.5
        turned = (1, amount, 0, 0, 1, 0) if across else (1, 0, 0, amount, 1, 0)
        return picture.transform(picture.size, Image.Transform.AFFINE, turned, Image.Resampling.BILINEAR)

    steady: list[Callable[[Any], Any]] = [
        lambda picture: picture,
        ImageOps.autocontrast,
        ImageOps.equalize,
        lambda picture: ImageOps.solarize(picture, int(256 - 128 * part)),
        lambda picture: ImageOps.posterize(picture, int(8 - 4 * part)),
        enhanced(ImageEnhance.Contrast),
        enhanced(ImageEnhance.Brightness),
        enhanced(ImageEnhance.Sharpness),
    ]
    steady += [] if grey else [enhanced(ImageEnhance.Color)]
    moving = [sheared, lambda picture: picture.rotate(_signed(30 * part, chance), Image.Resampling.BILINEAR)]
    known = [*steady, *moving] if geometry else steady
    picture = Image.fromarray(image[..., 0] if grey else image)
    for _ in range(operations):
        picture = known[chance.integers(len(known))](picture)
    made = np.asarray(picture)
    return made[..., None] if grey else made
