"""MiniLM fine-tuned for the sentiment of tweets: negative, neutral or positive, 29,814 / 7,383 of them.

python -m train tweets_bert
    # 12 minutes at 84 tweets a second, as two free cores began; accuracy 0.815, macro-F1 0.803 (seed 0)
python -m tests.benchmarks.baselines --only tweets_bert     # TF-IDF and logistic regression: 0.759, 0.740

On Colab's TPU v5e-1: precision=bfloat16 batch_size=128, 9.1 ms a step or more, 819 MiB, by the compiler
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
    """Two epochs of 32 tweets a step, packed into rows of 128 tokens."""
    return Experiment(
        model=bert.minilm(ClassHead(3, MeanPool())),
        initial=HuggingFace(WEIGHTS),
        objective=Classification(),
        data=Text("tweets", tokenizer=f"{WEIGHTS}/tokenizer.json", length=128, truncate=True),
        optimizer=AdamW(Linear(1e-4, warmup=0.06), decay=0.01, clip=1.0),
        batch_size=32,
        epochs=2,
        evaluation=Evaluation(metric="accuracy", greater=True),
        review=Classes(),
    )
