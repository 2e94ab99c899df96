#!/usr/bin/env python3
"""Write tests/data/node_tests.zip: of the standard's node tests in DIR, the smallest of each operator that RESULTS, a log of tests/node_tests, says pass.

Usage: make_node_sample.py DIR RESULTS
"""
import os
import re
import sys
import zipfile

import onnx

PER_OPERATOR, MOST_BYTES = 2, 6_000


def main(folder, results):
    passed = {m[1] for m in re.finditer(r"^(test_\w+): pass", open(results, errors="replace").read(), re.M)}
    found = {}
    for name in sorted(passed):
        if "_expanded" in name:
            continue
        files = [os.path.join(root, f) for root, _, names in os.walk(os.path.join(folder, name)) for f in names]
        size = sum(os.path.getsize(f) for f in files)
        model = onnx.load(os.path.join(folder, name, "model.onnx"))
        operator = next((n.op_type for n in model.graph.node if n.op_type != "Constant"), "Constant")
        if size <= MOST_BYTES:
            found.setdefault(operator, []).append((size, name, sorted(files)))
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "node_tests.zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for _, tests in sorted(found.items()):
            for _, _, files in sorted(tests)[:PER_OPERATOR]:
                for path in files:
                    entry = zipfile.ZipInfo(os.path.relpath(path, folder))
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, open(path, "rb").read())
    print(f"{len(found)} operators, {os.path.getsize(out)} bytes in {out}")


main(*sys.argv[1:3])
