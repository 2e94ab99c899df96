"""Compilation: budgets, reports, differences, passes of one's own."""

import json

import numpy as np
import pytest

import nyxc

HERE = {"target": "lavapipe", "dims": {"batch": 8}}


def test_a_budget_is_kept_and_explained(mlp, images):
    program = nyxc.compile(mlp, "400K", **HERE)
    assert program.planned_peak_bytes <= 400 << 10
    assert sum(program.ledger.values()) == program.planned_peak_bytes
    assert program.certificate["gap"] < 0.01 and 0 < program.predicted_error < 0.1
    rows = program.report["nodes"]
    assert {"name", "op", "format", "where", "kernel", "weight_bytes", "reason"} <= set(rows[0])
    found = nyxc.compare(mlp, program, {"image": images})
    assert found["outputs"][0]["name"] == "logits" and 0 < found["worst_relative_l2"] < 0.05
    # What is read from bytes knows its plan too.
    again = nyxc.Program(program.to_bytes())
    for key in ("ledger", "nodes", "budget_bytes"):
        assert again.report[key] == program.report[key]
    assert "fmnist_mlp" in repr(program)


def test_a_notebook_shows_the_report(mlp):
    from html.parser import HTMLParser

    open_tags, seen = [], []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag, attrs):
            open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

        def handle_data(self, data):
            seen.append(data)

    program = nyxc.compile(mlp, "400K", **HERE)
    parser = Balanced()
    parser.feed(program._repr_html_())
    parser.close()
    text = " ".join(seen)
    assert not open_tags
    assert f"peak {program.planned_peak_bytes:,} of 409,600 bytes" in text
    for node in program.report["nodes"]:
        assert node["name"] in text and node["reason"] in text
    assert program.diff(program)._repr_html_().startswith("<pre")


def test_a_budget_too_small_says_what_is_enough(mlp):
    with pytest.raises(nyxc.OverBudget) as caught:
        nyxc.compile(mlp, 1024, **HERE)
    error = caught.value
    assert (error.kind, error.exit_code, error.budget_bytes) == ("over_budget", 4, 1024)
    least, most = nyxc.budget_bounds(mlp, **HERE)
    assert error.min_feasible_bytes == least < most
    assert nyxc.compile(mlp, least, **HERE).planned_peak_bytes <= least
    with pytest.raises(nyxc.OverBudget):
        nyxc.compile(mlp, least - 1, **HERE)
    assert nyxc.compile(mlp, "min", **HERE).planned_peak_bytes <= least


def test_arguments_that_are_wrong_are_named(mlp, tmp_path):
    for arguments, said in [
        ({"budget": "7X"}, "X"),
        ({"policy": "uniform:w3"}, "w3"),
        ({"precision": {"nothing*": "f16"}}, "nothing"),
        ({"block_size": 33}, "33"),
        ({"target": "rx999"}, "rx999"),
        ({"dims": {"batch": "many and more"}}, "many"),
    ]:
        with pytest.raises(nyxc.UsageError, match=said):
            nyxc.compile(mlp, **{**HERE, **arguments})
    with pytest.raises(nyxc.IoError):
        nyxc.compile(str(tmp_path / "absent.onnx"))
    with pytest.raises(nyxc.ModelError):
        nyxc.compile(b"no model")
    with pytest.raises(TypeError, match="path, bytes"):
        nyxc.compile(17)


def test_pins_and_differences(mlp):
    program = nyxc.compile(mlp, policy="uniform:w4a16", **HERE)
    pinned = nyxc.compile(mlp, policy="uniform:w4a16", precision={"logits": "f32"}, **HERE)
    formats = {node["name"]: node["format"] for node in pinned.report["nodes"]}
    assert formats["logits"] == "f32" and formats["g0"] == "w4a16"
    difference = program.diff(pinned)
    assert difference and "logits" in str(difference)
    assert not program.diff(program)
    json.dumps(difference.details)


def test_a_frontier_is_measured_with_ones_own_metric(mlp, images, logits):
    def disagree(reference, given):
        same = [np.argmax(a[0], 1) == np.argmax(b[0], 1) for a, b in zip(reference, given)]
        return 1 - float(np.mean(same))

    points = nyxc.frontier(mlp, ["1K", "min", "max"], [{"image": images}], disagree, device="cpu", **HERE)
    assert len(points) == 2 and points[0].planned_peak_bytes < points[1].planned_peak_bytes
    assert points[1].score == 0


def test_a_pass_in_python_sets_formats(mlp):
    seen = []

    def keep_last(graph, edit):
        seen.append(graph.level)
        last = [node for node in graph.nodes if node.op == "Gemm"][-1]
        edit.set_format(last, "f32")

    pipeline = nyxc.Pipeline().insert_after("assign_precision", keep_last)
    program = nyxc.compile(mlp, policy="uniform:w4a16", pipeline=pipeline, **HERE)
    formats = {node["name"]: node["format"] for node in program.report["nodes"]}
    assert formats["logits"] == "f32" and formats["g0"] == "w4a16" and seen[0] == "onnx"


def test_a_pass_in_python_rewrites(mlp, images, logits):
    def double(graph, edit):
        two = edit.constant(np.float32(2))
        edit.insert_after("logits", edit.add("Mul", "logits", two))

    pipeline = nyxc.Pipeline().insert_before("assign_precision", double)
    program = nyxc.compile(mlp, policy="uniform:f32", pipeline=pipeline, **HERE)
    (given,) = nyxc.InferenceSession(program, device="cpu").run(None, {"image": images})
    np.testing.assert_allclose(given, 2 * logits, rtol=1e-4, atol=1e-4)


def test_what_a_pass_raises_reaches_the_caller(mlp):
    def fails(graph, edit):
        raise KeyError("of my own")

    with pytest.raises(KeyError, match="of my own"):
        nyxc.compile(mlp, pipeline=nyxc.Pipeline().insert_after("assign_precision", fails), **HERE)

    def wrong(graph, edit):
        edit.set_format("nobody", "f32")

    with pytest.raises(nyxc.UsageError, match="nobody"):
        nyxc.compile(mlp, pipeline=nyxc.Pipeline().insert_after("assign_precision", wrong), **HERE)


def test_graphs_are_read_run_and_compared(mlp):
    graph = nyxc.Graph.read(mlp, dims={"batch": 8})
    assert graph.level == "onnx" and graph.inputs == ["image"] and graph.outputs == ["logits"]
    assert graph.values["image"] == "f32[8,1,28,28]"
    gemm = [node for node in graph.nodes if node.op == "Gemm"][0]
    assert gemm.results[0] in graph.values and graph.constant(gemm.operands[1]).ndim == 2
    after, ran = nyxc.run_passes(graph, ["assign_precision", "insert_qdq"], policy="uniform:w4a16", target="lavapipe",
                                 dump=True)
    assert [step.name for step in ran] == ["assign_precision", "insert_qdq"] and all(step.changed for step in ran)
    assert ran[-1].text == str(after) and graph.diff(after)
    kernels, _ = nyxc.Pipeline(policy="uniform:f32", target="lavapipe").run(graph)
    assert kernels.level == "kernel"
    small = nyxc.Graph.parse("graph g onnx\n  %x = input : f32[2]\n  %y = relu(%x) : f32[2]\n  output %y\n")
    assert [node.op for node in small.nodes] == ["Relu"]


def test_progress_is_told(mlp):
    told = []
    nyxc.compile(mlp, progress=lambda stage, done, of: told.append((stage, done, of)), **HERE)
    assert {stage for stage, _, _ in told} >= {"passes", "shaders"} and told[-1][1] <= told[-1][2]


def test_help_names_what_there_is():
    import pydoc

    text = pydoc.plain(pydoc.render_doc(nyxc))
    for name in nyxc.__all__:
        assert hasattr(nyxc, name), name
        assert name.startswith("__") or getattr(nyxc, name).__doc__, name
    for name in ("compile", "InferenceSession", "frontier", "export_onnx", "OverBudget.min_feasible_bytes"):
        assert name in text
