"""A Decision Transformer (arXiv:2106.01345) that drives to a requested return: 528 drives, timid to hasty.

python -m train drive_decision     # 5 to 8 minutes on one CPU core, most of them in the simulator
morphax predict runs/drive_decision DRIVE.npz --set data.asked=160
    # actions that reach 160; by default the return of the drive itself
python -m tests.benchmarks.baselines --only drive_decision
    # linear regression on observation and return: correlation 0.17, 24 % crash

Asked for 140, 148, 156, 164 and 172, each in 50 drives, it reaches 148, 154, 159, 163 and 167 on average (seed 0).  The
rank correlation of returns asked and reached is 0.60, 0.66, 0.71 (seeds 0, 1, 2); 1, 3 and 7 of the 250 drives crash,
0, 0 and 1 leave the road; asked for 172 the reward is 1.01, 0.98, 0.99 of the expert's.  The mean squared error on
held-out drives is 0.0076, 0.0086, 0.0069.

On Colab's TPU v5e-1: precision=bfloat16 batch_size=512, 1.8 ms a step or more, 98 MiB, by the compiler
(`make tpu-configs`)."""

from models import (
    MLP,
    Attention,
    Block,
    EveryToken,
    LayerNorm,
    LearnedPosition,
    PreNorm,
    RoPE,
    Stack,
    TrajectoryEmbed,
    Transformer,
    ValueHead,
)
from train.data.tasks.drives import Drives
from train.experiment import Evaluation, Experiment
from train.objectives import MeanSquaredError
from train.optimizers import AdamW, Cosine
from train.review.driving import ClosedLoop


def experiment() -> Experiment:
    """2 layers of width 64 over return to go, observation and action of ten steps (30 tokens); 64 windows a step."""
    block = Block(mixer=Attention(4, causal=True, position=RoPE()), feedforward=MLP(), residual=PreNorm(LayerNorm()))
    return Experiment(
        model=Transformer(
            embed=TrajectoryEmbed(64, LearnedPosition(200)),
            stack=Stack(block, repeats=2, norm=LayerNorm()),
            head=ValueHead(2, EveryToken(3, 1)),
        ),
        objective=MeanSquaredError(),
        data=Drives("highway_drives/mixed", balance=0.3, horizon=200, middle=0.77, scale=0.07),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=64,
        steps=3000,
        evaluation=Evaluation(every=1000, batch_size=256),
        review=ClosedLoop(asked=(140.0, 148.0, 156.0, 164.0, 172.0)),
    )
