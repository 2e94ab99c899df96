#!/usr/bin/env python3
"""Figures of the Python bindings: import time, overhead of a run, threads on one session, sessions in turn.

  benches/python.py MODELS [--runs N] [--sessions N]      MODELS the folder models/; run with a Python that has nyxc installed, and numpy

Import time is that of a fresh process, beyond NumPy's own import. The overhead of a run is bounded by the whole time of a run
of the smallest model there is, on the CPU reference. Threads share one session; each result is compared with that of one thread. Memory is the resident set of the process.
"""
import argparse, os, statistics, subprocess, sys, threading, time
import numpy as np

arguments = argparse.ArgumentParser()
arguments.add_argument("models")
arguments.add_argument("--runs", type=int, default=10_000)
arguments.add_argument("--sessions", type=int, default=1_000)
arguments = arguments.parse_args()


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def imports():
    code = ("import time, numpy; a = time.perf_counter(); import nyxc; print(time.perf_counter() - a)")
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(9)]
    print(f"import, beyond numpy: median {statistics.median(times) * 1e3:.0f} ms, least {min(times) * 1e3:.0f} ms")


def small_model():
    """y = relu(x) of four elements: next to nothing to compute."""
    import nyxc
    text = "module small\nentry main\ngraph small onnx\n  %x = input : f32[4]\n  %y = relu(%x) : f32[4]\n  output %y\n"
    path = os.path.join("/tmp", f"nyxc-small-{os.getpid()}.nyxir")
    with open(path, "w") as file:
        file.write(text)
    try:
        return nyxc.compile(path, target="lavapipe")
    finally:
        os.remove(path)


def overhead():
    import nyxc
    session = nyxc.InferenceSession(small_model(), device="cpu")
    x = {"x": np.ones(4, np.float32)}
    for _ in range(200):
        session.run(None, x)
    times = []
    for _ in range(2000):
        start = time.perf_counter()
        session.run(None, x)
        times.append(time.perf_counter() - start)
    print(f"a run of four elements, all in all: median {statistics.median(times) * 1e6:.0f} us, least {min(times) * 1e6:.0f} us")


def threads():
    import nyxc
    session = nyxc.InferenceSession(nyxc.compile(f"{arguments.models}/fmnist-mlp.onnx", dims={"batch": 8}, target="lavapipe"), device="cpu")
    images = np.load(f"{arguments.models}/fmnist-mlp.inputs.npz")["image"]
    batches = [np.roll(images, shift, axis=0) for shift in range(8)]
    expected = [session.run(None, {"image": batch})[0] for batch in batches]
    wrong, before, start = [0] * 8, resident(), time.perf_counter()

    def work(i):
        for _ in range(arguments.runs // 8):
            wrong[i] += not np.array_equal(session.run(None, {"image": batches[i]})[0], expected[i])

    all_threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join()
    took = time.perf_counter() - start
    print(f"8 threads, {arguments.runs} runs on one session: {sum(wrong)} wrong, {took:.1f} s, memory {before:.0f} -> {resident():.0f} MiB")
    assert not any(wrong)


def holds_no_interpreter():
    """How much Python gets done beside a thread that runs a model: of what it does alone."""
    import nyxc
    session = nyxc.InferenceSession(f"{arguments.models}/magika.onnx", device="cpu")
    feeds = dict(np.load(f"{arguments.models}/magika.inputs.npz"))
    session.run(None, feeds)

    def count(seconds):
        n, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            n += 1
        return n

    alone, stop = count(1.0), threading.Event()
    runs = [0]

    def work():
        while not stop.is_set():
            session.run(None, feeds)
            runs[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    beside = count(1.0)
    stop.set()
    thread.join()
    print(f"a loop in Python beside a thread that runs magika ({runs[0]} runs): {beside / alone:.0%} of its speed alone")


def sessions():
    import nyxc
    program = nyxc.compile(f"{arguments.models}/fmnist-mlp.onnx", dims={"batch": 8}, target="lavapipe")
    images = {"image": np.load(f"{arguments.models}/fmnist-mlp.inputs.npz")["image"]}
    (expected,) = nyxc.InferenceSession(program, device="cpu").run(None, images)
    memory = []
    for i in range(arguments.sessions):
        (given,) = nyxc.InferenceSession(program, device="cpu").run(None, images)
        assert np.array_equal(given, expected)
        if i % max(1, arguments.sessions // 5) == 0 or i == arguments.sessions - 1:
            memory.append(f"{resident():.0f}")
    print(f"{arguments.sessions} sessions in turn: memory {' '.join(memory)} MiB")


imports()
overhead()
threads()
holds_no_interpreter()
sessions()
