"""The one exception meant for a person's eyes."""


class ViccError(Exception):
    """A mistake in what the user gave: one sentence on what was found, what was expected and what
    to do.

    The command line prints it without a traceback and ends with status 2.
    """


class Diverged(ViccError):  # noqa: N818 - reads as what it is
    """Training has left the finite numbers.

    Attributes:
        step: the first step that shows it; None where it is the one that is being made.
    """

    def __init__(self, what: str, *, step: int | None = None) -> None:
        super().__init__(
            f"{what}: training has diverged. The last checkpoint is kept, which is from before. Try a smaller learning "
            "rate, a longer warm-up or --precision fp32."
        )
        self.step = step
