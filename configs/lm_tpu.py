"""A language model for one TPU v5e, which Colab lends: 488 million parameters, bfloat16, splash attention.

python -m train lm_tpu                          # on the TPU; your own text: data.path=book.txt
morphax plan lm_tpu                             # anywhere, with the extra `tpu`
morphax generate runs/lm_tpu "ROMEO:" --temperature 0.8

Its shape lets the chip work at full rate: a step of 16,384 bytes needs 49.6 TFLOP (52.1 executed, as attention is
recomputed in the backward pass), and by the compiler for v5e:1x1 takes at least 410 ms (585 million cycles, and the
kernels' 4.1 TFLOP at full rate) and 10.6 of 15.75 GiB: at most an MFU of 61.3 %, 39,900 bytes a second.  The reasons,
each from such a plan:
- width 3,072: matmuls grow with its square, everything else with the width; at 2,048 and ten layers (scanned) the
  ceiling is 51 %, not 55 %.
- feedforward with a squared ReLU (arXiv:2109.08668): the vector unit has no bfloat16, and SwiGLU's backward pass keeps
  it so busy that the matrix unit waits.  With SwiGLU at 2.75 times the width (scanned) it is 53 %, not 55 %.
- layers as a loop: scanning would copy the activations kept for the backward pass, and end at 55 %, though it
  compiles in 70 s instead of 100.
- heads of 128 fill a vector; four heads of keys and values (arXiv:2305.13245).

Never run on a TPU: the text is small for such a model, which will memorise it after a few epochs of the 1,000 steps."""

from models import MLP, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.activation import squared_relu
from train.data.tasks.corpus import Corpus
from train.experiment import Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, WarmupStableDecay
from train.review.language import Language


def experiment() -> Experiment:
    """5 layers of width 3,072 with 24 heads of 128, 16 windows of 1,024 bytes a step."""
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
