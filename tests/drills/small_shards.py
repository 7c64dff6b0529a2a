"""`vicc`, with shards so small that a drill fills several: python -m tests.drills.small_shards prepare ..."""

import sys
from functools import partial

from vicc.cli import main
from vicc.data.store import StoreWriter
from vicc.prepare import build

if __name__ == "__main__":
    build.StoreWriter = partial(StoreWriter, shard_bytes=1 << 20)  # type: ignore[misc, assignment]
    sys.exit(main())
