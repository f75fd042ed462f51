"""Mixtures of experts: routers, routed and soft experts, product-key memory, grouped matmuls."""
