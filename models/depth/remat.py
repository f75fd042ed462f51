"""Rematerialisation policies by name: activations that are saved, and those recomputed.  arXiv:1604.06174."""

from collections.abc import Callable

import jax

from models.backend.kernels import SAVED

_policies = jax.checkpoint_policies
# products with parameters; those of activations alone, such as scores, have batch dimensions
_products = _policies.dots_with_no_batch_dims_saveable
POLICIES: dict[str, Callable[..., bool] | None] = {
    "full": None,
    "dots": _products,
    "context": _policies.save_from_both_policies(_products, _policies.save_only_these_names(SAVED)),
    "offload": _policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    **{name: getattr(_policies, name) for name in dir(_policies) if not name.startswith(("_", "save_", "offload_"))},
}
# None keeps everything; each line keeps less in the device's memory than the one before
ORDER: tuple[tuple[str | None, ...], ...] = (
    (None, "everything_saveable"),
    ("checkpoint_dots", "dots_saveable"),
    ("context", "offload"),
    ("dots", "checkpoint_dots_with_no_batch_dims", "dots_with_no_batch_dims_saveable"),
    ("full", "nothing_saveable"),
)


def keeps_less(policy: str, than: str | None) -> bool:
    """Tells if a policy saves less than another, or than None.  False for two policies of jax outside ORDER."""
    first, second = (next((rank for rank, same in enumerate(ORDER) if name in same), 0) for name in (policy, than))
    return first > second
