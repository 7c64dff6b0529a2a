"""The one exception meant for a person's eyes."""


class ViccError(Exception):
    """A mistake in what the user gave: one sentence on what was found, what was expected and what to do.

    The command line prints it without a traceback and ends with status 2.
    """
