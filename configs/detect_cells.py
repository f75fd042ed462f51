"""Blood cells detected in microscope images: BCCD, 205 / 72 images, three kinds of cells.

python -m train detect_cells     # 11 minutes on one CPU core; mAP50 0.782, 0.799, mAP 0.426, 0.429 (seeds 0, 1)
morphax predict runs/detect_cells IMAGE.jpg
python -m tests.benchmarks.baselines --only detect_cells
    # mAP50 0.275, mAP 0.108: connected regions, logistic regression

On Colab's TPU v5e-1: precision=bfloat16 batch_size=32, 8.9 ms a step or more, 440 MiB, by the compiler
(`make tpu-configs`)."""

from configs.detect_digits import make_model
from train.data.tasks.boxes import Boxes
from train.data.transforms.augment import Augment
from train.experiment import Evaluation, Experiment
from train.objectives import SetPrediction
from train.optimizers import AdamW, Cosine
from train.review.detections import Detections


def experiment() -> Experiment:
    """4 layers of width 128 over 12 x 16 cells of 16 pixels; 8 images a step, cropped, flipped and colour-jittered."""
    return Experiment(
        model=make_model(3, (12, 16), 128, (24, 48, 96, 128), 4),
        objective=SetPrediction(),
        data=Boxes(
            "bccd",
            size=(192, 256),
            augment=Augment(scale=(0.5, 1.2), mirror=True, upside=True, operations=1, magnitude=3),
        ),
        optimizer=AdamW(Cosine(1e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=8,
        steps=3000,
        evaluation=Evaluation(every=500, batch_size=24),
        review=Detections(),
    )
