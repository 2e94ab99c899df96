"""Wraps comments of Rust and GLSL files at 120 columns: paragraphs that have a longer line, from that line on.

    python3 scripts/wrap_comments.py FILE...

Tables, headings, quotations and code in comments stay as they are. `tests/layers.rs` holds files to the limit.
"""

import pathlib
import re
import sys

WIDTH = 120
COMMENT = re.compile(r"^(\s*)(//!|///|//)( ?)(.*)$")
# What no paragraph goes on into, and what begins one of its own.
APART = re.compile(r"^(\s*$|\||#|```|>|:|    )")
ITEM = re.compile(r"^(\s*)([-*]|\d+\.)\s+")


def indent(text):
    return text[: len(text) - len(text.lstrip())]


def filled(words, first, rest):
    """The words in lines, the first of which begins with `first`, the others with `rest`."""
    lines, line, is_empty = [], first, True
    for word in words:
        if not is_empty and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line, is_empty = rest, True
        line += word if is_empty else f" {word}"
        is_empty = False
    return [*lines, line]


def wrapped(text):
    lines, out, i, is_code = text.split("\n"), [], 0, False
    while i < len(lines):
        comment = COMMENT.match(lines[i])
        if not comment:
            is_code = False
        elif comment[4].startswith("```"):
            is_code = not is_code
        if not comment or is_code or len(lines[i]) <= WIDTH or APART.match(comment[4]):
            out.append(lines[i])
            i += 1
            continue
        before, body = f"{comment[1]}{comment[2]} ", comment[4]
        item = ITEM.match(body)
        hang = " " * len(item[0]) if item else indent(body)
        words = body.split()
        i += 1
        while i < len(lines) and (more := COMMENT.match(lines[i])) and more.group(1, 2) == comment.group(1, 2):
            if APART.match(more[4]) or ITEM.match(more[4]) or indent(more[4]) != hang:
                break
            words += more[4].split()
            i += 1
        out += filled(words, before + indent(body), before + hang)
    return "\n".join(out)


for path in map(pathlib.Path, sys.argv[1:]):
    source = path.read_text()
    if (result := wrapped(source)) != source:
        path.write_text(result)
        print(path)
