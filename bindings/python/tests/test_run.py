"""Sessions: arrays in and out, with the manners of ONNX Runtime."""

import threading

import numpy as np
import pytest

import nyxc
import nyxc as ort


@pytest.fixture(scope="module")
def program(mlp):
    return nyxc.compile(mlp, dims={"batch": 8}, target="lavapipe", policy="uniform:f32")


def test_a_script_for_onnx_runtime_runs(mlp, images, logits):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(mlp, sess_options=options, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("image", "tensor(float)", ["batch", 1, 28, 28])]
    assert session.get_outputs()[0].name == "logits"
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_modelmeta().graph_name == "fmnist_mlp"
    (given,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(given, logits, rtol=1e-4, atol=1e-4)
    # The symbolic batch is that of the arrays.
    (three,) = session.run(["logits"], {"image": images[:3]})
    np.testing.assert_allclose(three, logits[:3], rtol=1e-4, atol=1e-4)


def test_a_program_is_loaded_from_file_and_bytes(program, images, logits, tmp_path):
    path = tmp_path / "mlp.nyx"
    program.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlp.nyx"]
    for source in (path, path.read_bytes(), nyxc.Program(path)):
        (given,) = nyxc.InferenceSession(source, device="cpu").run(None, {"image": images})
        np.testing.assert_allclose(given, logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(nyxc.ProgramError):
        nyxc.Program(path.read_bytes()[:-7])
    with pytest.raises(nyxc.UsageError, match="dims"):
        nyxc.InferenceSession(path, dims={"batch": 8})


def test_results_own_their_memory(program, images):
    session = nyxc.InferenceSession(program, device="cpu")
    (first,) = session.run(None, {"image": images})
    kept = first.copy()
    session.run(None, {"image": np.zeros_like(images)})
    del session
    np.testing.assert_array_equal(first, kept)
    first[:] = 0


@pytest.mark.parametrize("change", [
    lambda x: np.asfortranarray(x),
    lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    lambda x: x[::-1][::-1],
    lambda x: x.astype(">f4"),
    lambda x: x.tolist(),
    lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
])
def test_strided_swapped_and_misaligned_arrays_are_what_they_hold(program, images, change):
    session = nyxc.InferenceSession(program, device="cpu")
    (expected,) = session.run(None, {"image": images})
    changed = change(images)
    if isinstance(changed, list):
        changed = np.array(changed, np.float32)
    (given,) = session.run(None, {"image": changed})
    np.testing.assert_array_equal(given, expected)


def test_wrong_arrays_are_refused_by_name_with_what_was_expected(program, images):
    session = nyxc.InferenceSession(program, device="cpu")
    for feeds, said in [
        ({"image": images[:3]}, r'"image" is f32\[3,1,28,28\], expected f32\[8,1,28,28\]'),
        ({"image": images.astype(np.int32)}, r'"image" is i32'),
        ({"imaeg": images}, '"imaeg".*image'),
        ({}, '"image"'),
    ]:
        with pytest.raises(nyxc.FileError, match=said):
            session.run(None, feeds)
    with pytest.raises(nyxc.UsageError, match="logits"):
        session.run(["logit"], {"image": images})
    with pytest.raises(TypeError, match="objects"):
        session.run(None, {"image": np.array([None])})


def test_threads_share_a_session(program, images):
    session = nyxc.InferenceSession(program, device="cpu")
    batches = [np.roll(images, shift, axis=0) for shift in range(8)]
    expected = [session.run(None, {"image": batch})[0] for batch in batches]
    wrong = []

    def work(i):
        for _ in range(5):
            (given,) = session.run(None, {"image": batches[i]})
            if not np.array_equal(given, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_types_that_numpy_lacks_are_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [3])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = nyxc.InferenceSession(model, device="cpu")
    x = np.array([1.0, -2.5, 0.125], ml_dtypes.bfloat16)
    (given,) = session.run(None, {"x": x})
    assert given.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(given, x)
    # Widened, as in .npz files.
    (given,) = session.run(None, {"x": x.astype(np.float32)})
    np.testing.assert_array_equal(given, x)
    assert onnx is not None


def test_an_index_out_of_range_names_the_node():
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")
    node = helper.make_node("Gather", ["table", "i"], ["y"], name="look_up")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("i", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])], [table])
    session = nyxc.InferenceSession(helper.make_model(graph, ir_version=9,
                                                      opset_imports=[helper.make_opsetid("", 19)]), device="cpu")
    with pytest.raises(nyxc.IndexFault) as caught:
        session.run(None, {"i": np.array([0, 7])})
    assert caught.value.node == "look_up" and "7" in str(caught.value)
    (given,) = session.run(None, {"i": np.array([2, 0])})
    np.testing.assert_array_equal(given, [[4, 5], [0, 1]])
