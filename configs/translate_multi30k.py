"""Image captions from English to German by an encoder-decoder from scratch: Multi30k, 29,000 pairs, test of 2016.

python -m train translate_multi30k
    # BLEU 35.3, chrF 58.1 with 4 beams (seed 0); epochs=6: 36.4, 59.5; epochs=10: 38.1, 61.9
morphax predict runs/translate_multi30k "A man is riding a bicycle."
python -m tests.benchmarks.baselines --only translate_multi30k     # word for word: BLEU 15.9, chrF 53.5

35 minutes on two CPU cores from nothing, data and report included; 42 with epochs=6.

On Colab's TPU v5e-1: precision=bfloat16 batch_size=256, 9.4 ms a step or more, 588 MiB, by the compiler
(`make tpu-configs`)."""

from configs.translate_numbers import make_model
from train.data.tasks.pairs import Pairs
from train.experiment import Evaluation, Experiment
from train.objectives import Translation
from train.optimizers import AdamW, Cosine
from train.review.translations import Translations


def experiment() -> Experiment:
    """3 + 3 layers of width 256 with dropout, 64 pairs a step, eight thousand byte pairs for both languages."""
    return Experiment(
        model=make_model(vocab=8000, width=256, repeats=3, dropout=0.2),
        objective=Translation(smoothing=0.1),
        data=Pairs("multi30k/en-de", tokenizer="bpe:8000", length=64, skip=True),
        optimizer=AdamW(Cosine(1e-3, warmup=0.1, end=0.02), b2=0.98, decay=0.1, clip=1.0),
        batch_size=64,
        epochs=5,
        evaluation=Evaluation(batch_size=128, metric="token_loss"),
        review=Translations(),
    )
