"""Blood cells under a microscope with bounding boxes, as a TFDS builder."""

from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import TREES, fetch_tree
from train.data.readers.scenes import read_voc_file

CELLS = ["RBC", "WBC", "Platelets"]
PARTS = {"train": "train", "validation": "val", "test": "test"}


class Bccd(tfds.core.GeneratorBasedBuilder):
    """`image` (480, 640, 3) and `objects`, each a `bbox` and a `label`: 205 / 87 / 72 images, the splits of the source.

    Two boxes without area are left out.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        item = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=CELLS)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(480, 640, 3), encoding_format="jpeg"),
                    "objects": tfds.features.Sequence(item),
                }
            ),
            license=TREES["bccd"].licence,
            homepage="https://github.com/Shenggan/BCCD_Dataset",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        return {part: self._generate_examples(name) for part, name in PARTS.items()}

    def _generate_examples(self, name: str) -> Iterator[KeyExample]:
        folder = fetch_tree("bccd")
        for stem in (folder / "ImageSets" / "Main" / f"{name}.txt").read_text(encoding="ascii").split():
            image, _, objects = read_voc_file(folder / "Annotations" / f"{stem}.xml")
            boxes = []
            for label, (left, top, right, bottom), *_ in objects:
                if right > left and bottom > top:
                    box = tfds.features.BBox(
                        ymin=max(top, 0), xmin=max(left, 0), ymax=min(bottom, 1), xmax=min(right, 1)
                    )
                    boxes.append({"bbox": box, "label": label})
            yield stem, {"image": image, "objects": boxes}
