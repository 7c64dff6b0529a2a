"""A checkpoint to numbers: features, retrieval, tables, the report."""
