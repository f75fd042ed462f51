"""A vehicle that imitates experts: behaviour cloning on a simulated highway, 528 drives of 40 seconds.

python -m train drive_highway
    # 3 minutes on one CPU core; 0 of 50 drives crash, reward 0.983 to 0.992 of the expert's (seeds 0-2)
python -m train drive_highway data.path=FOLDER     # your own trajectories, a .npz file each
morphax predict runs/drive_highway DRIVE.npz

All drives stay on the road to their end; the mean squared error of the actions on held-out drives is 0.0195 (seed 0).
In the same drives 64 % of those without any action crash, with 0.70 of the expert's reward; a linear regression of the
expert's actions on its observations crashes in none, with 0.94 of its reward:
`python -m tests.benchmarks.baselines --only drive_highway`.

On Colab's TPU v5e-1: precision=bfloat16 batch_size=512, 1.0 ms a step or more, 114 MiB, by the compiler
(`make tpu-configs`)."""

from models import (
    MLP,
    Attention,
    Block,
    EveryToken,
    FeatureEmbed,
    LayerNorm,
    PreNorm,
    RoPE,
    Stack,
    Transformer,
    ValueHead,
)
from train.data.tasks.drives import Drives
from train.experiment import Evaluation, Experiment
from train.objectives import MeanSquaredError
from train.optimizers import AdamW, Cosine
from train.review.driving import ClosedLoop


def experiment() -> Experiment:
    """2 layers of width 64 over two seconds of observations, no past actions (arXiv:1905.11979); 128 windows a step."""
    block = Block(mixer=Attention(4, causal=True, position=RoPE()), feedforward=MLP(), residual=PreNorm(LayerNorm()))
    return Experiment(
        model=Transformer(
            embed=FeatureEmbed(64),
            stack=Stack(block, repeats=2, norm=LayerNorm()),
            head=ValueHead(2, EveryToken()),
        ),
        objective=MeanSquaredError(),
        data=Drives("highway_drives/expert", balance=0.3),
        optimizer=AdamW(Cosine(2e-3, warmup=0.05, end=0.01), decay=0.05, clip=1.0),
        batch_size=128,
        steps=3000,
        evaluation=Evaluation(every=1000, batch_size=512),
        review=ClosedLoop(),
    )
