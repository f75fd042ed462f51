"""A language model for one TPU v5e, as Colab has it: 405 million parameters, bfloat16, splash attention.

python -m train lm_tpu
morphax plan lm_tpu
"""

from models import MLP, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.activation import squared_relu
from train.data.corpus import Corpus
from train.experiment import Evaluation, Experiment
from train.objective import NextToken
from train.optimizer import AdamW, WarmupStableDecay
from train.review.language import Language


def experiment() -> Experiment:
    """8 layers of width 2,048 with heads of 128, 16 windows of 1,024 bytes a step."""
    return Experiment(
        model=Transformer(
            embed=TokenEmbed(vocab=256, width=3072),
            stack=Stack(
                Block(
                    mixer=Attention(heads=24, kv_heads=4, causal=True, position=RoPE()),
                    feedforward=MLP(activation=squared_relu),
                    residual=PreNorm(RMSNorm()),
                ),
                repeats=5,
                norm=RMSNorm(),
                remat="dots",
            ),
            head=LogitsHead(chunk=4096),
        ),
        objective=NextToken(),
        data=Corpus("shakespeare_plays", length=1024),
        optimizer=AdamW(WarmupStableDecay(3e-4, warmup=0.05, decay=0.3), b2=0.95, decay=0.1),
        batch_size=16,
        steps=1000,
        precision="bfloat16",
        evaluation=Evaluation(every=250, batch_size=16),
        review=Language(),
    )
