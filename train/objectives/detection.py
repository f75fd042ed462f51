"""Object detection as set prediction: box operations, matching, and the objective."""

import dataclasses
from typing import NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.contracts import Batch, Tree
from train.sums import Sums, sum_up


def to_corners(boxes: jax.Array) -> jax.Array:
    """Converts boxes (..., 4): centre x, centre y, width, height -> left, top, right, bottom."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def to_centres(boxes: jax.Array) -> jax.Array:
    """Converts boxes (..., 4): left, top, right, bottom -> centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def compute_overlap(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes intersection over union and its generalised form IoU - (hull - union) / hull.  arXiv:1902.09630.

    Boxes by their corners: (..., 4) and (..., 4) -> (...), broadcast; from 0 to 1 and from -1 to 1, 0 and 0 for two
    boxes without area.
    """
    low, high = jnp.maximum(first[..., :2], second[..., :2]), jnp.minimum(first[..., 2:], second[..., 2:])
    both = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    union = (
        jnp.prod(first[..., 2:] - first[..., :2], axis=-1) + jnp.prod(second[..., 2:] - second[..., :2], axis=-1) - both
    )
    outer = jnp.maximum(first[..., 2:], second[..., 2:]) - jnp.minimum(first[..., :2], second[..., :2])
    hull = jnp.prod(outer, axis=-1)
    shared = jnp.where(union > 0, both / jnp.where(union > 0, union, 1), 0)
    return shared, shared - jnp.where(hull > 0, (hull - union) / jnp.where(hull > 0, hull, 1), 0)


def match_objects(cost: jax.Array, present: jax.Array) -> jax.Array:
    """Matches each object to a query of its own, at least total cost: cost (q, m), present (m,) -> (m,).

    The Hungarian algorithm.  An object that is not present costs the same everywhere, and takes a query that is left.
    """
    rows, columns = optax.assignment.hungarian_algorithm(jnp.where(present > 0, cost, 0))
    return jnp.zeros(cost.shape[1], jnp.int32).at[columns].set(rows.astype(jnp.int32))


Object = dict[str, float | list[float]]  # its probability by its label, and its `box`


class Detected(TypedDict):
    """Objects of an image; if there is none, the threshold `least` and the likeliest object below it."""

    objects: list[Object]
    least: NotRequired[float]
    likeliest: NotRequired[Object]


@dataclasses.dataclass(frozen=True)
class SetPrediction:
    """Detection as set prediction: each object is matched to one query, and other queries learn background.

    arXiv:2005.12872.  loss = `label` focal + `distance` |box - truth|_1 + `area` (1 - GIoU), each an image's sum over
    its number of objects (1 if it has none), averaged over images.  focal = sum over queries and classes of
    -a (1 - p)^2 log p if the class is matched and -(1 - a) p^2 log(1 - p) otherwise, a = 1/4 (arXiv:1708.02002).
    Objects are matched at the least total of `label` (focal cost) + `distance` |.|_1 - `area` GIoU (arXiv:2010.04159).
    Outputs: `logits` (b, q, c), `boxes` (b, q, 4) of centre x, centre y, width, height as fractions of the image.
    Reads `boxes` (b, m, 4), `box_labels` and `present` (b, m), and `weights` (b,).
    """

    label: float = 2.0
    distance: float = 5.0
    area: float = 2.0
    least: float = 0.3  # probability of an answer

    def __post_init__(self) -> None:
        if min(self.label, self.distance, self.area) < 0 or not 0 <= self.least <= 1:
            raise ValueError(
                f"SetPrediction weighs label {self.label}, distance {self.distance}, area {self.area} and answers"
                f" from {self.least}; weights are not below 0, least goes from 0 to 1."
            )

    def __call__(self, outputs: Tree, batch: Batch) -> Sums:
        logits, boxes = (outputs[name].astype(jnp.float32) for name in ("logits", "boxes"))
        if boxes.shape[1] < batch["boxes"].shape[1]:
            raise ValueError(
                f"the model has {boxes.shape[1]} queries and data.most is {batch['boxes'].shape[1]} objects a picture;"
                f" give it more queries, or set data.most={boxes.shape[1]}"
            )
        weights = batch["weights"] if "weights" in batch else jnp.ones(logits.shape[0])
        parts = jax.vmap(self._score_image)(logits, boxes, batch["boxes"], batch["box_labels"], batch["present"])
        names = ("loss", "label_loss", "distance_loss", "area_loss", "overlap")
        return {name: sum_up(part * weights, weights) for name, part in zip(names, parts, strict=True)}

    def _score_image(
        self, logits: jax.Array, boxes: jax.Array, truth: jax.Array, labels: jax.Array, present: jax.Array
    ) -> tuple[jax.Array, ...]:
        probabilities = jax.nn.sigmoid(logits)
        yes = -0.25 * jnp.square(1 - probabilities) * jax.nn.log_sigmoid(logits)  # (q, c)
        no = -0.75 * jnp.square(probabilities) * jax.nn.log_sigmoid(-logits)
        apart = jnp.abs(boxes[:, None] - truth[None]).sum(-1)  # (q, m)
        joint = compute_overlap(to_corners(boxes)[:, None], to_corners(truth)[None])[1]
        cost = self.label * (yes - no)[:, labels] + self.distance * apart - self.area * joint
        query = match_objects(jax.lax.stop_gradient(cost), present)
        hot = jnp.zeros_like(logits).at[query, labels].max(present)
        count = jnp.maximum(present.sum(), 1)
        shared, general = compute_overlap(to_corners(boxes[query]), to_corners(truth))
        label = jnp.sum(jnp.where(hot > 0, yes, no)) / count
        distance = jnp.sum(present * jnp.abs(boxes[query] - truth).sum(-1)) / count
        area = jnp.sum(present * (1 - general)) / count
        total = self.label * label + self.distance * distance + self.area * area
        return total, label, distance, area, jnp.sum(present * shared) / count

    def answer(self, output: Tree, names: tuple[str, ...]) -> Detected:
        """The objects of probability `least` or more, most probable first.

        Boxes are left, top, right, bottom as fractions of the image.  If there is none, `least` and the most probable
        object below it.
        """
        boxes, labels, probabilities = rank_boxes(output, 100)
        names = names or tuple(map(str, range(output["logits"].shape[-1])))
        ranked: list[Object] = [
            {names[label]: probability, "box": [round(side, 4) for side in box]}
            for box, label, probability in zip(boxes.tolist(), labels.tolist(), probabilities.tolist(), strict=True)
        ]
        objects = ranked[: int((probabilities >= self.least).sum())]
        if objects or not ranked:
            return {"objects": objects}
        return {"objects": [], "least": self.least, "likeliest": ranked[0]}


def rank_boxes(output: Tree, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks pairs of a query and a class of one image by probability, and returns the first `most`.

    Boxes (n, 4) by their corners, labels (n,), probabilities (n,).
    """
    logits = np.asarray(output["logits"], np.float64)
    probabilities = 1 / (1 + np.exp(-logits)).reshape(-1)
    order = np.argsort(-probabilities, kind="stable")[:most]
    queries, labels = np.divmod(order, logits.shape[1])
    boxes = np.asarray(to_corners(jnp.asarray(output["boxes"])[queries]))
    return boxes.clip(0, 1), labels, probabilities[order]
