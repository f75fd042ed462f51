"""Manoeuvres of a vehicle on a highway, in clips of 2.8 seconds from above, of five classes: 2,000 / 400 clips.

python -m train video_manoeuvres
morphax predict runs/video_manoeuvres VIDEO.mp4 FOLDER

2 minutes on one CPU core, after the traffic is simulated once by highway-env (`pip install 'morphax[drive]'`), 1
minute; accuracy 0.980, 0.985, 0.975 (seeds 0, 1, 2), of each manoeuvre 0.950 or more, and 0.688, 0.695, 0.748 with the
frames of each clip shuffled.  Logistic regression on the pixels of all frames gives 0.943, on those of the first and
the last 0.958: where the vehicle ends says most (`python -m tests.benchmarks.baselines --only video_manoeuvres`).

On Colab's TPU v5e-1: precision=bfloat16 batch_size=128, 7.4 ms a step or more, 307 MiB, by the compiler
(`make tpu-configs`)."""

from configs.video_motion import make_model
from train.data.tasks.clips import Clips
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Cosine
from train.review.clips import ClipClasses


def experiment() -> Experiment:
    """2 times two layers of width 64 over 4 x 4 x 8 tubelets of 2 frames and 8 x 8 pixels, 32 clips a step."""
    return Experiment(
        model=make_model((4, 4, 8), frames=2, size=8, width=64, repeats=2, classes=5),
        objective=Classification(),
        data=Clips("highway_manoeuvres/whole", size=(32, 64)),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=32,
        epochs=20,
        evaluation=Evaluation(batch_size=50, metric="accuracy", greater=True),
        review=ClipClasses(),
    )
