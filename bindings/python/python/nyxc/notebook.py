"""Reports as notebooks show them: HTML without scripts or files of its own."""

from __future__ import annotations

from html import escape
from typing import Any, Dict, List

#: Kinds of bytes in the order of the bar, with their colours.
_KINDS = {
    "weights": "#4c78a8", "constants": "#9ecae9", "activations": "#f58518", "workspace": "#ffbf79", "io": "#54a24b",
    "state": "#b279a2", "staging": "#bab0ac", "reserve": "#e45756",
}
_COLUMNS = ("name", "op", "format", "where", "weight_bytes", "kernel", "reason")
_NUMBER = "text-align:right"


def _bar(ledger: Dict[str, int], budget: int) -> str:
    """The ledger as parts of the budget, and what each is."""
    parts, keys = [], []
    for kind, colour in _KINDS.items():
        size = ledger.get(kind, 0)
        if not size:
            continue
        share = 100 * size / max(budget, sum(ledger.values()), 1)
        parts.append(f'<span style="display:inline-block;height:1em;width:{share:.3f}%;background:{colour}" '
                     f'title="{kind}: {size:,} bytes"></span>')
        keys.append(f'<span style="color:{colour}">&#9632;</span> {kind} {size:,}')
    return (f'<div style="background:#eee;white-space:nowrap;overflow:hidden;line-height:0">{"".join(parts)}</div>'
            f'<p>{" &nbsp; ".join(keys)} &nbsp; of {budget:,} bytes</p>')


def _table(columns: List[str], rows: List[List[Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, int):
            return f'<td style="{_NUMBER}">{value:,}</td>'
        return f"<td>{escape(str(value))}</td>"

    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def program(report: Dict[str, Any]) -> str:
    """The report of a compilation: the ledger against the budget, what proves the choice, formats, and a row a node,
    those of the most bytes first."""
    nodes = report["nodes"]
    formats: Dict[str, List[int]] = {}
    for node in nodes:
        if node["format"]:
            known = formats.setdefault(node["format"], [0, 0])
            known[0] += 1
            known[1] += node["weight_bytes"]
    certificate = report["certificate"]
    gap = certificate.get("gap")
    proof = "" if gap is None else f", {gap:.2%} from the best at most"
    rows = [[node[column] for column in _COLUMNS] for node in sorted(nodes, key=lambda node: -node["weight_bytes"])]
    by_format = [[name, n, size] for name, (n, size) in sorted(formats.items(), key=lambda item: -item[1][1])]
    return (
        f"<h4>{escape(report['model'])} for {escape(report['target'])}</h4>"
        f"<p>peak {report['planned_peak_bytes']:,} of {report['budget_bytes']:,} bytes, {report['f32_bytes']:,} in f32; "
        f"predicted relative error {report['predicted_error']:.3g}{proof}</p>"
        f"{_bar(report['ledger'], report['budget_bytes'])}"
        f"{_table(['format', 'nodes', 'weight bytes'], by_format)}"
        f"<details><summary>{len(nodes)} nodes</summary>"
        f'<div style="max-height:30em;overflow:auto">{_table(list(_COLUMNS), rows)}</div></details>')


def text(text: str) -> str:
    """Text as it is."""
    return f'<pre style="max-height:30em;overflow:auto">{escape(text)}</pre>'
