"""A table of text and its four forms: for a terminal, Markdown, LaTeX and HTML."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jinja2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

Format = Literal["text", "markdown", "latex", "html"]
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "→": r"$\rightarrow$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_WIDE = 10_000  # columns of a terminal that cuts nothing
_SHORT = 6  # signs of a cell that is never folded, such as "R@10" or "+13.0"


@dataclass(frozen=True)
class Sheet:
    """A title, a header, groups of rows, and notes below.

    Attributes:
        sections: rows of cells, each as long as the header; the first cell names the row.
    """

    title: str
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    notes: Sequence[str] = field(default_factory=list)


def render(sheet: Sheet, form: Format) -> str:
    """The sheet as text of that form, ending in a newline."""
    return {"text": _text, "markdown": _markdown, "latex": _latex, "html": _html}[form](sheet)


def rich_table(sheet: Sheet) -> Table:
    """The sheet for a terminal."""
    names, *values = map(_one_line, sheet.header)
    cells = [row for rows in sheet.sections for row in rows]
    columns = [Column(escape(names), overflow="fold")]
    for place, name in enumerate(values, start=1):
        # Short cells stay whole: what must give way on a narrow terminal are names and intervals.
        longest = max((len(row[place]) for row in cells), default=0)
        columns.append(Column(escape(name), justify="right", overflow="fold", min_width=min(longest, _SHORT)))
    table = Table(*columns, title=escape(_one_line(sheet.title)), box=box.SIMPLE_HEAD)
    for rows in sheet.sections:
        for row in rows:
            table.add_row(*(escape(_one_line(cell)) for cell in row))
        table.add_section()
    return table


def _text(sheet: Sheet) -> str:
    console = Console(file=io.StringIO(), width=_WIDE)
    console.print(rich_table(sheet), highlight=False)
    file = console.file
    assert isinstance(file, io.StringIO)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join([*lines, *map(_one_line, sheet.notes)]) + "\n"


def _markdown(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_markdown_cell, cells))} |"

    rule = "|---|" + "---:|" * (len(sheet.header) - 1)
    rows = [line(row) for rows in sheet.sections for row in rows]
    notes = [f"- {_markdown_cell(note)}" for note in sheet.notes]
    title = [f"**{_markdown_cell(sheet.title)}**", ""]
    return "\n".join([*title, line(sheet.header), rule, *rows, *([""] if notes else []), *notes]) + "\n"


def _latex(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_text, cells)) + r" \\"

    body = [text for rows in sheet.sections if rows for text in (r"\midrule", *map(line, rows))]
    return "\n".join(
        [
            f"% {_one_line(sheet.title)}",
            "% Needs the package booktabs.",
            rf"\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
            r"\toprule",
            line(sheet.header),
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_latex_text(note)}" for note in sheet.notes),
            "",
        ]
    )


def _html(sheet: Sheet) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vicc.evaluation", "."),
        autoescape=True,  # names and labels come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("sheet.html.jinja").render(sheet=sheet)


def _markdown_cell(text: str) -> str:
    """As text, whatever signs of Markdown or HTML are in it."""
    plain = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\`*_[]|" else sign for sign in plain)


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
