"""vicc against numbers of the published code: run `python -m tests.parity --help`."""
