"""MiniLM fine-tuned to classify news stories by topic: Reuters R8, 5,485 / 2,189 stories, 8 topics.

python -m train topics_bert     # accuracy 0.979, macro-F1 0.942 on two CPU cores, 28 minutes at 13 stories a second
#                               and 0.976, 0.935 on one, where sums are in another order, 49 minutes (seed 0 both times)
python -m tests.benchmarks.baselines --only topics_bert     # TF-IDF and logistic regression: 0.969, 0.914

On Colab's TPU v5e-1: precision=bfloat16 batch_size=128, 25.8 ms a step or more, 1,784 MiB, by the compiler
(`make tpu-configs`)."""

from configs.sentiment_bert import WEIGHTS
from models import ClassHead, MeanPool, bert
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Linear
from train.review.classes import Classes
from train.weights import HuggingFace


def experiment() -> Experiment:
    """Four epochs of 16 stories a step, the first 128 tokens of each."""
    return Experiment(
        model=bert.minilm(ClassHead(8, MeanPool())),
        initial=HuggingFace(WEIGHTS),
        objective=Classification(),
        data=Text("reuters_r8", tokenizer=f"{WEIGHTS}/tokenizer.json", length=128, truncate=True),
        optimizer=AdamW(Linear(1e-4, warmup=0.06), decay=0.01, clip=1.0),
        batch_size=16,
        epochs=4,
        evaluation=Evaluation(metric="accuracy", greater=True),
        review=Classes(),
    )
