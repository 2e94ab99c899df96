"""Entries, states, and tensors that stay on the device; calibration and export."""

import numpy as np
import pytest

import nyxc

HERE = {"target": "lavapipe", "dims": {"batch": 8}}

MODULE = """module counter
entry decode
graph counter onnx
  %x = input : f32[4]
  %sum = state fill [0.0] : f32[4]
  %y = add(%sum, %x) : f32[4]
  %sum.1 = state_store(%sum, %y) : f32[4]
  output %y
  state %sum = %sum.1
entry read
graph counter onnx
  %sum = state fill [0.0] : f32[4]
  %twice = add(%sum, %sum) : f32[4]
  output %twice
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "counter.nyxir"
    path.write_text(MODULE)
    return nyxc.compile(path, "1M", target="lavapipe")


@pytest.mark.parametrize("device", ["cpu", "vulkan,cpu"])
def test_entries_share_states_until_they_are_reset(counter, device):
    assert counter.entries == ["decode", "read"]
    session = nyxc.InferenceSession(counter, device=device)
    decode, read = session.entry("decode"), session.entry("read")
    assert [port.name for port in decode.get_inputs()] == ["x"] and read.get_outputs()[0].shape == [4]
    ones = np.ones(4, np.float32)
    for n in (1, 2, 3):
        (given,) = decode.run(None, {"x": ones})
        np.testing.assert_array_equal(given, n * ones)
    np.testing.assert_array_equal(read.run(["twice"], {})[0], 6 * ones)
    session.reset()
    np.testing.assert_array_equal(read.run(None, {})[0], 0 * ones)
    with pytest.raises(KeyError, match="absent"):
        session.entry("absent")


@pytest.mark.parametrize("device", ["cpu", "vulkan,cpu"])
def test_outputs_stay_on_the_device(counter, device):
    session = nyxc.InferenceSession(counter, device=device)
    ones = np.ones(4, np.float32)
    first = session.bind("decode")
    kept = first.keep("y")
    assert kept.shape is None
    assert first.run(None, {"x": ones}) == []
    assert (kept.type, kept.shape) == ("tensor(float)", [4])
    (given,) = session.bind("decode").give("x", kept).run(None, {})
    np.testing.assert_array_equal(given, 2 * ones)
    with pytest.raises(nyxc.UsageError, match="absent"):
        first.keep("absent")
    with pytest.raises(nyxc.UsageError, match="in use"):
        both = session.bind("decode").give("x", kept)
        both.keep("y", kept)
        both.run(None, {})


def test_open_sizes_have_no_one_program(mlp):
    session = nyxc.InferenceSession(mlp, device="cpu")
    with pytest.raises(nyxc.UsageError, match="dims"):
        session.reset()


def test_calibration_takes_arrays_and_files(mlp, images, tmp_path):
    plain = nyxc.compile(mlp, policy="uniform:w4a32", **HERE)
    samples = [{"image": np.roll(images, shift, axis=2)} for shift in range(4)]
    by_arrays = nyxc.compile(mlp, policy="uniform:w4a32", calibration=iter(samples), **HERE)
    for i, sample in enumerate(samples):
        np.savez(tmp_path / f"{i}.npz", **sample)
    by_files = nyxc.compile(mlp, policy="uniform:w4a32", calibration=tmp_path, **HERE)
    assert by_arrays.to_bytes() == by_files.to_bytes() != plain.to_bytes()
    error = [nyxc.compare(mlp, program, {"image": images})["outputs"][0]["relative_l2"] for program in (plain, by_arrays)]
    assert error[1] < error[0]

    def broken():
        yield samples[0]
        raise KeyError("of my own")

    with pytest.raises(KeyError, match="of my own"):
        nyxc.compile(mlp, calibration=broken(), **HERE)
    with pytest.raises(nyxc.FileError, match="imaeg"):
        nyxc.compile(mlp, calibration=[{"imaeg": images}], **HERE)


@pytest.mark.parametrize("style", ["qdq", "matmulnbits"])
def test_an_exported_model_computes_what_the_program_does(mlp, images, tmp_path, style):
    onnx = pytest.importorskip("onnx")
    program = nyxc.compile(mlp, policy="uniform:w4a32", **HERE)
    path = tmp_path / "w4.onnx"
    program.export_onnx(path, style)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w4.onnx"]
    model = onnx.load(path)
    if style == "qdq":
        onnx.checker.check_model(model)
    operators = {node.op_type for node in model.graph.node}
    assert ("MatMulNBits" in operators) == (style == "matmulnbits") and path.stat().st_size < 160_000
    (expected,) = nyxc.InferenceSession(program, device="cpu").run(None, {"image": images})
    (given,) = nyxc.InferenceSession(str(path), device="cpu", policy="uniform:f32").run(None, {"image": images})
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(nyxc.UsageError, match="no model to export"):
        nyxc.Program(program.to_bytes()).export_onnx(path)
    with pytest.raises(nyxc.UsageError, match="qdqq"):
        program.export_onnx(path, "qdqq")


def test_a_session_knows_what_the_author_noted(mlp):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(mlp)
    onnx.helper.set_model_props(model, {"character": "abc"})
    meta = nyxc.InferenceSession(model, device="cpu").get_modelmeta()
    assert meta.custom_metadata_map == {"character": "abc"} and meta.graph_name == "fmnist_mlp"
