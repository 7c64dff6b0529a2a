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


def text_table(sheet: Sheet) -> TextTable:
    """The sheet for a terminal, without its notes."""
    header = [_one_line(name) for name in sheet.header]
    sections = [[[_one_line(cell) for cell in row] for row in rows] for rows in sheet.sections]
    return TextTable(header, sections, title=_one_line(sheet.title), numbers=True)


def _text(sheet: Sheet) -> str:
    lines = [line.text for line in layout(text_table(sheet), _WIDE)]
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
        loader=jinja2.PackageLoader("vicc.results", "."),
        autoescape=True,  # names and labels come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("formats.html.jinja").render(sheet=sheet)


def _markdown_cell(text: str) -> str:
    """As text, whatever signs of Markdown or HTML are in it."""
    plain = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\`*_[]|" else sign for sign in plain)


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
