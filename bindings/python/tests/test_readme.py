"""The examples of the README print what it says."""

import io
import os
import pathlib
import re
from contextlib import redirect_stdout

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_examples_print_what_the_readme_says(tmp_path):
    text = (ROOT / "bindings/python/README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", text, re.S)
    assert len(examples) == 5
    names = {}
    here = os.getcwd()
    (tmp_path / "models").symlink_to(ROOT / "models")
    os.chdir(tmp_path)
    try:
        for code, expected in examples:
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(code, names)  # noqa: S102 - our own examples
            assert printed.getvalue() == expected
    finally:
        os.chdir(here)
