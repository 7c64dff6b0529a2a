"""`python -m vicc` is `vicc`."""

from vicc.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
