"""Results as tables for people."""

from rich.table import Table

from vicc.evaluation.retrieve import RetrievalResult, Row


def retrieval_table(result: RetrievalResult) -> Table:
    """R@k in percent with 95 % intervals, one line a row of the result."""
    protocol = result.protocol
    table = Table(
        title=f"retrieval: {protocol['queries']} test videos search {protocol['gallery']} training videos, "
        f"{protocol['classes']} classes, split {protocol['split']}"
        + (", frames shuffled" if protocol["shuffled_frames"] else ""),
        caption="R@k: share of queries with one of their class among the k nearest; in brackets the 95 % interval",
    )
    ks = list(result.rows[0].recall)
    table.add_column("")
    for k in ks:
        table.add_column(f"R@{k}", justify="right")
    previous = result.rows[0].kind
    for row in result.rows:
        if row.kind != previous:
            table.add_section()
            previous = row.kind
        name = f"{row.name} ({' + '.join(protocol['fused'])})" if row.kind == "fused" else row.name
        table.add_row(name, *(_cell(row, k) for k in ks))
    return table


def _cell(row: Row, k: str) -> str:
    if row.interval is None:
        return f"{100 * row.recall[k]:.1f}"
    low, high = row.interval[k]
    return f"{100 * row.recall[k]:.1f} ({100 * low:.0f}–{100 * high:.0f})"
