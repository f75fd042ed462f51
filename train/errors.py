"""The exception for input that cannot be used."""


class InputError(ValueError):
    """Input of the user's that cannot be used; the message is one sentence that says what, and what to do."""

    def _render_traceback_(self) -> list[str]:
        return [f"morphax: {self}"]  # what a notebook shows
