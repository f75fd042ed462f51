"""A language model of Shakespeare's characters at nanoGPT's recipe for a CPU, whose loss on tiny Shakespeare is 1.88.

python -m train lm_shakespeare
    # 5 MB, four plays held out: loss 1.669 (seed 0), 2.41 bits a character
python -m train lm_shakespeare data.dataset=tiny_shakespeare
    # nanoGPT's text: 1.626, 1.629, 1.618 (seeds 0, 1, 2), 2.33 to 2.35 bits
morphax generate runs/lm_shakespeare "ROMEO:" --temperature 0.8
python -m tests.benchmarks.baselines --only lm_shakespeare
    # 5-grams, which see across windows: 1.659; tiny Shakespeare 1.669

On Colab's TPU v5e-1: precision=bfloat16 batch_size=64, 1.6 ms a step or more, 100 MiB, by the compiler
(`make tpu-configs`)."""

from configs import tiny_lm
from train.experiment import Evaluation, Experiment
from train.optimizers import AdamW, Cosine
from train.review.language import Language


def experiment() -> Experiment:
    """4 layers of width 128, windows of 64 characters, 12 a step, 2,000 steps, no dropout."""
    return Experiment(
        model=tiny_lm.experiment().model,
        objective=tiny_lm.experiment().objective,
        data=tiny_lm.experiment().data,
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.1), b2=0.99, decay=0.1),
        batch_size=12,
        steps=2000,
        evaluation=Evaluation(every=500),
        review=Language(),
    )
