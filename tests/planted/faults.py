"""Faults of one line, each with the tests that should see it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """In `file`, the text `old`, which stands there once, becomes `new`; `tests` are what pytest is given."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


VECTOR, POSITION = "tests/laws/test_vector.py", "tests/laws/test_position.py"
RESIDUALS, STACK, CONVOLUTION = "tests/laws/test_residuals.py", "tests/laws/test_stack.py", "tests/laws/test_convolution.py"

PARTS: tuple[Fault, ...] = (
    Fault("models/norm.py", "jnp.square(centred).mean(-1, keepdims=True)", "jnp.square(wide).mean(-1, keepdims=True)", (VECTOR,)),
    Fault("models/norm.py", "constant(math.sqrt(x.shape[-1]))", "constant(float(x.shape[-1]))", (VECTOR,)),
    Fault(
        "models/norm.py",
        "return (wide * jax.lax.rsqrt(jnp.square(wide).sum(",
        "return (wide * jax.lax.rsqrt(jnp.square(wide).mean(",
        (VECTOR,),
    ),
    Fault(
        "models/dropout.py",
        "x * jnp.asarray(LEVELS / keep, x.dtype)",
        "x",
        (f"{VECTOR}::test_dropout_keeps_the_mean_drops_at_its_rate_and_is_off_in_evaluation",),
    ),
    Fault("models/position.py", "turns(positions / self.factor,", "turns(positions * self.factor,", (POSITION,)),
    Fault("models/position.py", "self.factor ** (k / max(k - 2, 1))", "self.factor ** (k / max(k - 1, 1))", (POSITION,)),
    Fault("models/position.py", "(0.1 * math.log(self.factor) + 1)", "(0.2 * math.log(self.factor) + 1)", (POSITION,)),
    Fault("models/position.py", "place = positions // stride % size if index", "place = positions // stride if index", (POSITION,)),
    Fault("models/residual.py", "alpha = (2 * ctx.depth) ** 0.25", "alpha = (2 * ctx.depth) ** 0.5", (RESIDUALS,)),
    Fault("models/residual.py", "jnp.asarray(ctx.layer + 1, jnp.float32)", "jnp.asarray(ctx.layer + 2, jnp.float32)", (RESIDUALS,)),
    Fault("models/residual.py", "self.rate * (ctx.layer + 1) / ctx.depth", "self.rate * ctx.layer / ctx.depth", (RESIDUALS,)),
    Fault("models/residual.py", "self.initial * d**0.5 * step", "self.initial * step", (RESIDUALS,)),
    Fault("models/streams.py", "ctx.layer + 2, 2)", "ctx.layer + 1, 2)", (RESIDUALS,)),
    Fault("models/streams.py", "logits = logits - jax.nn.logsumexp(logits, axis=-2, keepdims=True)", "pass", (RESIDUALS,)),
    Fault("models/streams.py", "(ctx.layer * ctx.branches + ctx.branch) % n", "(ctx.layer + ctx.branch) % n", (RESIDUALS, STACK)),
    Fault(
        "models/stack.py",
        'split_rngs={"params": not self.tied, "dropout": True}',
        'split_rngs={"params": not self.tied, "dropout": False}',
        (STACK,),
    ),
    Fault(
        "models/convolution.py",
        "crosses = owners == owners[:, half - 1 : half]",
        "crosses = owners >= owners[:, half - 1 : half]",
        (CONVOLUTION,),
    ),
    Fault("models/convolution.py", "jnp.sqrt(2 * rates / self.length)", "jnp.sqrt(rates / self.length)", (CONVOLUTION,)),
    Fault(
        "models/mixing.py",
        "place = jnp.arange(t) - own.argmax(-1)",
        "place = jnp.arange(t) + 0 * own.argmax(-1)",
        ("tests/laws/test_mixing.py",),
    ),
    Fault("models/embed.py", "same = (earlier[..., 1] == segments) & (segments > 0)", "same = segments > 0", ("tests/laws/test_embed.py",)),
    Fault("models/head.py", "member.sum(-1, keepdims=True), 1.0)", "member.sum(-1, keepdims=True), 2.0)", ("tests/laws/test_model.py",)),
    Fault(
        "models/generate.py", "chances, axis=-1) - chances) < self.top_p", "chances, axis=-1)) < self.top_p", ("tests/test_generate.py",)
    ),
    Fault(
        "models/generate.py",
        "tokens.at[:, :, number].set(token), counts + ~done",
        "tokens.at[:, :, number].set(token), counts + 1",
        ("tests/test_generate.py",),
    ),
)

FAULTS: tuple[Fault, ...] = (*PARTS,)
