"""Numbers from English to French words by a small encoder-decoder from scratch, on pairs made by a rule.

python -m train translate_numbers
    # 130 to 142 s on two CPU cores; exact match 1.000 on 1,000 held-out numbers (seeds 0 to 2)
morphax predict runs/translate_numbers "four hundred and twelve"
python -m tests.benchmarks.baselines --only translate_numbers     # word for word: BLEU 2.4, exact match 0.000

On Colab's TPU v5e-1: precision=bfloat16 batch_size=256, 3.1 ms a step or more, 118 MiB, by the compiler
(`make tpu-configs`)."""

from models import GLU, Attention, Block, EncoderDecoder, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed
from train.data.tasks.pairs import Pairs
from train.experiment import Evaluation, Experiment
from train.objectives import Translation
from train.optimizers import AdamW, Cosine
from train.review.translations import Translations


def make_model(vocab: int, width: int, repeats: int, heads: int = 4, dropout: float = 0.0) -> EncoderDecoder:
    """`repeats` + `repeats` layers, one table of tokens for both languages and the logits."""
    encoder = Block(
        mixer=Attention(heads, position=RoPE()), feedforward=GLU(), residual=PreNorm(RMSNorm()), dropout=dropout
    )
    decoder = Block(
        mixer=Attention(heads, causal=True, position=RoPE()),
        cross=Attention(heads, cross=True),
        feedforward=GLU(),
        residual=PreNorm(RMSNorm()),
        dropout=dropout,
    )
    return EncoderDecoder(
        embed=TokenEmbed(vocab, width, norm=RMSNorm(), dropout=dropout),
        encoder=Stack(encoder, repeats=repeats, norm=RMSNorm()),
        decoder=Stack(decoder, repeats=repeats, norm=RMSNorm()),
        head=LogitsHead(),
    )


def experiment() -> Experiment:
    """2 + 2 layers of width 128, 64 numbers a step."""
    return Experiment(
        model=make_model(vocab=512, width=128, repeats=2),
        objective=Translation(smoothing=0.0),
        data=Pairs("number_words", tokenizer="bpe:512"),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.1), b2=0.98, decay=0.1, clip=1.0),
        batch_size=64,
        steps=1500,
        evaluation=Evaluation(every=500, batch_size=250),
        review=Translations(),
    )
