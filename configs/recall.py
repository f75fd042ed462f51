"""Multi-query associative recall in 4 layers of width 64: which mixer can look a value up by its key?

python -m train recall
python -m train recall model.stack.block.mixer="GatedDeltaNet(heads=2)"     # any other mixer
"""

from models import GLU, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from train.data.synthetic import Recall, SelectiveCopy
from train.experiment import Evaluation, Experiment
from train.objective import MaskedLM
from train.optimizer import AdamW, Cosine


def experiment() -> Experiment:
    """32 examples a step; the accuracy counts the tokens that are asked for."""
    return solving(Recall())


def solving(data: Recall | SelectiveCopy) -> Experiment:
    """Training on a task until it is solved.  Embeddings are normalised: as small as they start, the first layer would drown the tokens."""
    block = Block(mixer=Attention(heads=2, causal=True, position=RoPE()), feedforward=GLU(2.0), residual=PreNorm(RMSNorm()))
    return Experiment(
        model=Transformer(TokenEmbed(data.vocab, 64, norm=RMSNorm()), Stack(block, repeats=4, norm=RMSNorm()), LogitsHead()),
        objective=MaskedLM(),
        data=data,
        optimizer=AdamW(Cosine(2e-3, warmup=200), clip=1.0),
        batch_size=32,
        steps=2000,
        evaluation=Evaluation(metric="accuracy", greater=True, every=100, goal=0.97),
    )
