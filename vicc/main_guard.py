"""Scripts without `if __name__ == "__main__":`, which each worker process imports and so runs
again.
"""

import sys

from vicc.errors import ViccError

MAIN_GUARD = (
    "In a script of your own, put the calls under if __name__ == '__main__':, since each worker imports the script"
)


def imports_main() -> bool:
    """Whether this is a worker process that is still importing the script that started it."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and bool(getattr(module.current_process(), "_inheriting", False))


def refuse_without_guard() -> None:
    """To be called before workers are started.

    Raises:
        ViccError: this process is a worker that is not ready itself: the script would start anew in
            every one of them.
    """
    if imports_main():
        raise ViccError(f"This script started again in a worker process. {MAIN_GUARD}.")
