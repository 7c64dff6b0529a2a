"""A table of text and its four forms: for a terminal, Markdown, LaTeX and HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jinja2

from vicc.text_table import TextTable, layout

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
_WIDE = 10_000  # columns, so that a file has each row in one line


@dataclass(frozen=True)
class FormattedTable:
    """A title, a header, groups of rows, and notes below, yet to be written as text, Markdown,
    LaTeX or HTML.

    Attributes:
        sections: rows of cells, each as long as the header; the first cell names the row.
    """

    title: str
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    notes: Sequence[str] = field(default_factory=list)


def render(table: FormattedTable, form: Format) -> str:
    """The table as text of that form, ending in a newline."""
    return {"text": _text, "markdown": _markdown, "latex": _latex, "html": _html}[form](table)


def text_table(table: FormattedTable) -> TextTable:
    """The table for a terminal, without its notes."""
    header = [_one_line(name) for name in table.header]
    sections = [[[_one_line(cell) for cell in row] for row in rows] for rows in table.sections]
    return TextTable(header, sections, title=_one_line(table.title), numbers=True)


def _text(table: FormattedTable) -> str:
    lines = [line.text for line in layout(text_table(table), _WIDE)]
    return "\n".join([*lines, *map(_one_line, table.notes)]) + "\n"


def _markdown(table: FormattedTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_markdown_cell, cells))} |"

    rule = "|---|" + "---:|" * (len(table.header) - 1)
    rows = [line(row) for rows in table.sections for row in rows]
    notes = [f"- {_markdown_cell(note)}" for note in table.notes]
    title = [f"**{_markdown_cell(table.title)}**", ""]
    return "\n".join([*title, line(table.header), rule, *rows, *([""] if notes else []), *notes]) + "\n"


def _latex(table: FormattedTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_text, cells)) + r" \\"

    body = [text for rows in table.sections if rows for text in (r"\midrule", *map(line, rows))]
    return "\n".join(
        [
            f"% {_one_line(table.title)}",
            "% Needs the package booktabs.",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            line(table.header),
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_latex_text(note)}" for note in table.notes),
            "",
        ]
    )


def _html(table: FormattedTable) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vicc.results", "."),
        autoescape=True,  # names and labels come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("formats.html.jinja").render(table=table)


def _markdown_cell(text: str) -> str:
    """As text, whatever signs of Markdown or HTML are in it."""
    plain = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\`*_[]|" else sign for sign in plain)


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
