"""Metrics for Prometheus, in its text form, by its own client library."""

import jax
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of a server."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "morphax_requests", "Requests by path and status.", ("path", "status"), registry=registry
        )
        self.seconds = Histogram("morphax_request_seconds", "Seconds of requests.", ("path",), registry=registry)
        self.waiting = Gauge("morphax_waiting", "Questions and prompts that wait.", ("run",), registry=registry)
        self.rows = Histogram("morphax_batch_rows", "Questions in a batch.", ("run",), buckets=ROWS, registry=registry)
        self.tokens = Counter("morphax_tokens", "Generated tokens.", ("run",), registry=registry)
        self.busy = Gauge("morphax_slots_busy", "Slots that generate.", ("run",), registry=registry)
        self.step = Gauge(
            "morphax_checkpoint_step", "Step of the checkpoint that answers.", ("run",), registry=registry
        )
        self.reloads = Counter("morphax_reloads", "Checkpoints loaded since the start.", ("run",), registry=registry)
        self.compilations = Counter("morphax_compilations", "Programs compiled.", registry=registry)
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **details: str | int) -> None:
        del duration_secs, details
        if event == "/jax/core/compile/backend_compile_duration":
            self.compilations.inc()

    def render(self) -> bytes:
        """The text form."""
        return generate_latest(self.registry)
