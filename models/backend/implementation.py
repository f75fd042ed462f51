"""Choice of the program that computes attention or a recurrence, by platform and call; results are the same."""

import dataclasses
from typing import Literal, get_args

import flax.linen as nn

Implementation = Literal["xla", "fused", "splash"]
Recurrent = Literal["xla", "pallas"]

SHORTEST = 256  # row length from which splash is worth its padding to blocks of 128 or more
# largest width of a head whose blocks of 512 tokens fit VMEM, forward and backward, in float32
SPLASH_WIDTH = 256
# largest state of a head, in numbers, whose kernels fit VMEM and compile in half a minute
STATE = 512 * 1024
SMALL = ("TPU v2", "TPU v3", "TPU v4")  # their VMEM of 16 MiB is too small for recurrence kernels
FLOAT32_KERNELS = ("TPU v2", "TPU v3")  # their kernels multiply float32 alone
FUSED_CAPABILITY = 8.0  # Ampere, the first with cuDNN's kernel
FUSED_WIDTH = 128  # largest width of a head that cuDNN takes on every GPU that it serves


@dataclasses.dataclass(frozen=True)
class Call:
    """The properties of an attention call that decide which implementations can compute it.

    length: the smaller number of queries and sources in a row; a chunk counts as a row.
    width: the larger width of a head's keys and values.
    dtype: the type of queries, keys and values.
    even: True if both lengths are even.
    masked: True if a GPU's kernel needs the mask as an array.
    capped: True if scores are bounded.
    special: features of the call that only "xla" computes, in words.
    kind: the device kind; empty if unknown.
    capability: the GPU's compute capability; empty if unknown.
    """

    length: int
    width: int
    dtype: str
    even: bool = True
    masked: bool = False
    capped: bool = False
    special: tuple[str, ...] = ()
    kind: str = ""
    capability: str = ""


def is_captured(module: object) -> bool:
    """Tells if the intermediate values of a module are watched: then it computes all of them, as its equation says."""
    return (
        isinstance(module, nn.Module)
        and module.scope is not None
        and module.scope.is_mutable_collection("intermediates")
    )


def explain_refusal(implementation: Implementation, call: Call, platform: str) -> str | None:
    """Explains in a clause why an implementation cannot compute a call on a platform; None if it can."""
    if implementation == "xla":
        return None
    if call.special:
        return f"it has no {call.special[0]}"
    if implementation == "splash":
        if platform not in ("tpu", "cpu"):
            return f"it runs on TPU, and interpreted on CPU, and this is {platform}"
        if call.dtype not in ("float32", "bfloat16"):
            return f"it takes float32 or bfloat16, and this is {call.dtype}"
        if call.dtype == "bfloat16" and call.kind.startswith(FLOAT32_KERNELS):
            return f"a {call.kind} multiplies no bfloat16 in kernels"
        return (
            f"its heads are {SPLASH_WIDTH} wide at most, and these are {call.width}"
            if call.width > SPLASH_WIDTH
            else None
        )
    if call.capped:
        return "it has no bound of scores"
    if platform != "gpu":
        return None
    if call.capability and not _newer(call.capability):
        least = FUSED_CAPABILITY
        return f"it runs on NVIDIA's GPUs of compute capability {least} or more, and this one's is {call.capability}"
    if call.dtype not in ("float16", "bfloat16"):
        return f"on GPU it takes float16 or bfloat16, and this is {call.dtype}"
    if call.width > FUSED_WIDTH:
        return f"on GPU its heads are {FUSED_WIDTH} wide at most, and these are {call.width}"
    return (
        "on GPU it hides tokens in rows of even length only, and these are odd"
        if call.masked and not call.even
        else None
    )


def _newer(capability: str) -> bool:
    try:
        return float(capability) >= FUSED_CAPABILITY
    except ValueError:  # another vendor's, such as gfx942
        return False


def choose_implementation(call: Call, asked: Implementation | None, platform: str) -> Implementation:
    """Chooses the implementation of a call: `asked` if it is set; otherwise splash on TPU or fused on GPU, or xla.

    Splash and fused are chosen if they can compute the call.  "xla" is the definition and computes every call; "fused"
    is `jax.nn.dot_product_attention`, on GPU by cuDNN; "splash" a Pallas kernel for TPU, interpreted on CPU.  The two
    keep no weights: memory grows with t in place of t^2.  Raises ValueError for a name that there is none of, and for
    an implementation that cannot compute the call.
    """
    if asked is None:
        if platform == "tpu" and call.length >= SHORTEST and explain_refusal("splash", call, platform) is None:
            return "splash"
        return "fused" if platform == "gpu" and explain_refusal("fused", call, platform) is None else "xla"
    if asked not in get_args(Implementation):
        raise ValueError(
            f"Attention's implementation is {asked!r}; give one of {', '.join(get_args(Implementation))}, or None to"
            " choose."
        )
    if (reason := explain_refusal(asked, call, platform)) is not None:
        raise ValueError(
            f"Attention's implementation {asked!r} cannot compute this: {reason}; give 'xla', or None to choose."
        )
    return asked


def choose_recurrence(asked: Recurrent | None, length: int, state: int, platform: str, kind: str = "") -> Recurrent:
    """Chooses the program of a recurrence over `length` tokens with `state` numbers a head: `asked`, or Pallas on TPU.

    "xla" computes all chunks at once with intermediates in HBM; "pallas" is a kernel for TPU, interpreted on CPU, that
    runs through the chunks with the state in VMEM, if rows are long enough and the state fits the chip's VMEM.
    Raises ValueError for a name that there is none of, and for a program that cannot compute the call.
    """
    if asked not in (None, *get_args(Recurrent)):
        raise ValueError(
            f"A recurrence's implementation is {asked!r}; give one of {', '.join(get_args(Recurrent))}, or None to"
            " choose."
        )
    reason = None
    if platform not in ("tpu", "cpu"):
        reason = f"runs on TPU, or interpreted on CPU, not on {platform}"
    elif kind.startswith(SMALL):
        reason = f"does not fit the vector memory of a {kind}"
    elif state > STATE:
        reason = f"takes heads whose state has {STATE:,} numbers at most, and these have {state:,}"
    if asked == "pallas" and reason is not None:
        raise ValueError(f"A recurrence's kernel {reason}; give 'xla', or None to choose.")
    if asked is None:
        return "pallas" if platform == "tpu" and reason is None and length >= SHORTEST else "xla"
    return asked
