"""What the backward pass finds kept, and what it computes again, by names.  arXiv:1604.06174."""

from collections.abc import Callable
from typing import Any

import jax

from models.kernels import SAVED

_policies = jax.checkpoint_policies
_products = _policies.dots_with_no_batch_dims_saveable  # of parameters; those of activations alone, as scores, have a batch
POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": _products,
    "context": _policies.save_from_both_policies(_products, _policies.save_only_these_names(SAVED)),
    "offload": _policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    **{name: getattr(_policies, name) for name in dir(_policies) if not name.startswith(("_", "save_", "offload_"))},
}
