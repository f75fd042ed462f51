"""Our training step beside MaxText's, both compiled for one TPU v5e: the same small model, precision, batch and kind of
remat.

    make tpu-maxtext          # or: python -m tests.benchmarks.maxtext [--only NAME ...] [--json FILE], with libtpu

MaxText's figures are those of its own step (August 2026), with the same jax 0.10.2 and libtpu 0.0.42.1.  Peak memory is
the compiler's; cycles are its estimates, added over the program with every loop as often as it runs.  Kernels and waits
have no estimate, so what kernels run is listed beside them.  Both: 12 layers of width 768, 12 heads of 64, SwiGLU of
2,048, 32,768 tokens, a head of its own, RMSNorm, RoPE, segments, float32 parameters and moments, bfloat16 compute,
AdamW with clipping, splash attention, layers scanned.
"""

import dataclasses

from models import GLU, Attention, Block, LogitsHead, PreNorm, RMSNorm, RoPE, Stack, TokenEmbed, Transformer
from models.structure import replace
from tests.benchmarks.measure import finish, note, parser, report, selected
from train.data.tasks.corpus import Corpus
from train.experiment import Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, Cosine
from train.plan.step import plan_step

EXPERIMENT = Experiment(
    model=Transformer(
        embed=TokenEmbed(32_768, 768),
        stack=Stack(
            Block(
                mixer=Attention(12, causal=True, position=RoPE()),
                feedforward=GLU(8 / 3),
                residual=PreNorm(RMSNorm(1e-5)),
            ),
            repeats=12,
            norm=RMSNorm(1e-5),
            scan=True,
        ),
        head=LogitsHead(tied=False, chunk=1024),
    ),
    objective=NextToken(),
    data=Corpus("shakespeare_plays", length=1024),
    optimizer=AdamW(Cosine(3e-4), b2=0.95, decay=0.1, clip=1.0),
    batch_size=8,
    steps=1000,
    precision="bfloat16",
)


@dataclasses.dataclass(frozen=True)
class Theirs:
    """Our name for their remat policy, their name for it, and their figures."""

    remat: str
    policy: str
    peak: float  # MiB
    megacycles: float


ROWS = {
    "dots": Theirs("dots", "minimal", 4707, 132.9),
    "context": Theirs("context", "minimal, context saved", 4959, 138.6),
    "full": Theirs("full", "full", 2493, 155.6),
}


def main() -> None:
    """Compiles and prints the table."""
    options = parser(__doc__).parse_args()
    rows, figures = list[tuple[str, ...]](), dict[str, dict[str, float]]()
    for name in selected(ROWS, options.only):
        theirs = ROWS[name]
        plan = plan_step(replace(EXPERIMENT, "model.stack.remat", theirs.remat), name, "v5e:1x1")
        peak, megacycles = plan.peak / 2**20, plan.cycles / 1e6
        figures[name] = {
            "peak_mib": peak,
            "megacycles": megacycles,
            "peak_ratio": peak / theirs.peak,
            "cycles_ratio": megacycles / theirs.megacycles,
            "teraflops": plan.flops / 1e12,
            "compile_seconds": plan.compile_seconds,
        }
        note(f"{name}: {figures[name]}")
        rows.append(
            (
                f"{name} ({theirs.policy})",
                f"{peak:,.0f}",
                f"{theirs.peak:,.0f}",
                f"{peak / theirs.peak:.2f}",
                f"{megacycles:.1f}",
                f"{theirs.megacycles:.1f}",
                f"{megacycles / theirs.megacycles:.2f}",
                ", ".join(f"{times} {kernel.removeprefix('splash_mha_')}" for kernel, times in plan.kernels.items()),
            )
        )
    heads = ("remat (theirs)", "peak MiB", "theirs", "ratio", "Mcycles", "theirs", "ratio", "our kernels")
    report(heads, rows, "MaxText's small model, 8 x 1,024 on TPU v5e:1x1")
    ratios = {name: (found["peak_ratio"], found["cycles_ratio"]) for name, found in figures.items()}
    finish(
        figures,
        options.json,
        [f"{name}: ratios {both}" for name, both in ratios.items() if max(both) > 1 or min(both) > 0.9],
    )


if __name__ == "__main__":
    main()
