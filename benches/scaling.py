"""Compiles and runs generated models of N nodes, and a model of several GB; see scaling.sh. Needs nothing but Python."""
import array, json, math, os, platform, random, resource, shlex, struct, subprocess, sys, tempfile, time, zipfile
from pathlib import Path

NYXC = shlex.split(os.environ.get('NYXC', 'target/debug/nyxc'))
SIZES = [int(n) for n in os.environ.get('NYXC_SIZES', '100,1000,10000,50000').split(',')]
TARGET = os.environ.get('NYXC_TARGET', 'auto')
SHARE = float(os.environ.get('NYXC_BUDGET', 0))
WIDTH = 16
failed = 0


# Protobuf by hand: field numbers are those of onnx.proto.
def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def num(field, n):
    return varint(field << 3) + varint(n)


def blob(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def node(op, inputs, output):
    return blob(1, b''.join(blob(1, i) for i in inputs) + blob(2, output) + blob(4, op))


def const(name, dims, values):
    raw = array.array('f', values).tobytes()
    return blob(5, b''.join(num(1, d) for d in dims) + num(2, 1) + blob(8, name) + blob(9, raw))


def value(field, name, dims):
    shape = b''.join(blob(1, num(1, d)) for d in dims)
    return blob(field, blob(1, name) + blob(2, blob(1, num(1, 1) + blob(2, shape))))


def model(graph):
    return num(1, 9) + blob(8, num(2, 21)) + blob(7, blob(2, 'scaling') + graph)


def uniform(n, seed):
    draw = random.Random(seed)
    return [draw.uniform(-1, 1) for _ in range(n)]


def weights(name, seed, dims=(WIDTH, WIDTH)):
    return const(name, dims, [v / math.sqrt(dims[0]) for v in uniform(math.prod(dims), seed)])


def sequence(n, ops, graph=b''):
    """n nodes one after the other: ops gives a node's operator and its further operands."""
    nodes, last = [], 'x'
    for i in range(n):
        op, *more = ops(i)
        nodes.append(node(op, [last, *more], f'v{i}'))
        last = f'v{i}'
    return b''.join(nodes) + graph + value(11, 'x', [4, WIDTH]) + value(12, last, [4, WIDTH])


def layers(n):
    """MatMul, Add, Relu, Softmax in turn; four matrices shared by all."""
    shared = b''.join(weights(f'w{k}', k) for k in range(4)) + const('b', [WIDTH], uniform(WIDTH, 9))
    return sequence(n, lambda i: [('MatMul', f'w{i // 4 % 4}'), ('Add', 'b'), ('Relu',), ('Softmax',)][i % 4], shared)


def matrices(n):
    """MatMul and Softmax in turn, each MatMul with a matrix of its own."""
    own = b''.join(weights(f'w{k}', k) for k in range(0, n, 2))
    return sequence(n, lambda i: ('MatMul', f'w{i}') if i % 2 == 0 else ('Softmax',), own)


def number(name, seed):
    return const(name, [], uniform(1, seed))


def pointwise(n):
    """Add, Sigmoid, Mul, Tanh in turn, each Add and Mul of a number of its own."""
    own = b''.join(number(f's{i}', i) for i in range(0, n, 2))
    return sequence(n, lambda i: [('Add', f's{i}'), ('Sigmoid',), ('Mul', f's{i}'), ('Tanh',)][i % 4], own)


def wide(n):
    """n / 2 branches of Mul and MatMul from one input, and one Sum of them all. Each branch multiplies with a number of its own."""
    k = max(n // 2, 1)
    parts = [number(f's{i}', i) + node('Mul', ['x', f's{i}'], f'm{i}') + node('MatMul', [f'm{i}', 'w'], f'p{i}') for i in range(k)]
    total = node('Sum', [f'p{i}' for i in range(k)], 'y')
    return b''.join(parts) + total + weights('w', 0) + value(11, 'x', [4, WIDTH]) + value(12, 'y', [4, WIDTH])


def residual(n):
    """Relu, MatMul, Add to what was before, in turn."""
    nodes, last = [], 'x'
    for i in range(n // 3):
        nodes += [node('Softmax', [last], f'r{i}'), node('MatMul', [f'r{i}', f'w{i % 4}'], f'p{i}'), node('Add', [last, f'p{i}'], f'a{i}')]
        last = f'a{i}'
    shared = b''.join(weights(f'w{k}', k) for k in range(4))
    return b''.join(nodes) + shared + value(11, 'x', [4, WIDTH]) + value(12, last, [4, WIDTH])


KINDS = {f.__name__: f for f in (layers, matrices, pointwise, wide, residual)}


def call(*args):
    """Runs nyxc: seconds, peak RSS in MiB, and the document it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = subprocess.Popen([*NYXC, *map(str, args), '--json'], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        if status:
            raise SystemExit(f'nyxc {" ".join(map(str, args))}: {os.waitstatus_to_exitcode(status)}\n{err.read().decode()[-2000:]}{out.read().decode()[-2000:]}')
        return seconds, usage.ru_maxrss / 1024, json.load(out)


def row(name, got, ok=None):
    global failed
    failed += ok is False
    print(f"{'' if ok is None else 'pass | ' if ok else 'FAIL | '}{name} | {got}", flush=True)


def npz(path, name, dims, values):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(dims)}, }}"
    header += ' ' * (-(len(header) + 11) % 64) + '\n'
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr(f'{name}.npy', b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header.encode() + array.array('f', values).tobytes())


def chains(tmp, kinds):
    npz(tmp / 'in.npz', 'x', [4, WIDTH], uniform(4 * WIDTH, 5))
    # The driver's and shaderc's own start is no part of what grows: measured on one node.
    for kind in kinds:
        times = {}
        for n in SIZES:
            (tmp / 'm.onnx').write_bytes(model(KINDS[kind](n)))
            budget = []
            if SHARE:
                _, _, whole = call('compile', tmp / 'm.onnx', '--dry-run', '--target', TARGET)
                budget = ['--budget', max(int(whole['f32_bytes'] * SHARE), whole['min_feasible_bytes'])]
            seconds, rss, report = call('compile', tmp / 'm.onnx', '-o', tmp / 'm.nyx', '--target', TARGET, *budget)
            gap = f", gap {100 * report['certificate']['gap']:.2f} %" if SHARE else ''
            size = (tmp / 'm.nyx').stat().st_size / 2**20
            run_seconds, run_rss, ran = call('run', tmp / 'm.nyx', '--inputs', tmp / 'in.npz', '--outputs', tmp / 'out.npz')
            passes = ' '.join(f"{p['name']} {p['ms'] / 1e3:.1f}" for p in report['passes'] if p['ms'] >= 500)
            row(f'{kind} {n}', f'{seconds:.2f} s, {rss:.0f} MiB, {size:.1f} MiB file{gap}; run {run_seconds:.2f} s, {run_rss:.0f} MiB {passes}', seconds < 60)
            times[n] = seconds
        (small, *_, large) = SIZES if len(SIZES) > 1 else (0, 0)
        if small:
            # Against 1,000 nodes where there are, since below that the start is most of it.
            small = max([n for n in SIZES[:-1] if n <= 1000], default=small)
            growth, bound = times[large] / times[small], large * math.log(large) / (small * math.log(small))
            row(f'{kind} {small} to {large}', f'{growth:.1f} times the time, N log N grows {bound:.1f} times', growth <= bound)


def peak(child):
    """Waits for a process: its status, and the most memory of its own it had, in MiB. Mapped files, which are RSS too, are not its own."""
    own = 0
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            return status, own, usage.ru_maxrss / 1024
        try:
            lines = Path(f'/proc/{child.pid}/status').read_text().split('\n')
            own = max([own] + [int(line.split()[1]) / 1024 for line in lines if line.startswith('RssAnon:')])
        except OSError:
            pass
        time.sleep(0.005)


def large(tmp):
    """A model of 80 matrices of 64 MiB in one external file: the first 2 MiB of each are random, the rest are holes, which read as zeros."""
    side, n, written = 4096, 80, 2 << 20
    each = side * side * 4
    noise = array.array('f', (v / 64 for v in uniform(written // 4, 1))).tobytes()
    with open(tmp / 'large.bin', 'wb') as f:
        for i in range(n):
            f.seek(i * each)
            f.write(noise[i * 4096:] + noise[:i * 4096])
        f.truncate(n * each)
    entry = lambda key, text: blob(13, blob(1, key) + blob(2, str(text)))
    nodes, tensors, last = [], [], 'x'
    for i in range(n):
        tensors.append(blob(5, num(1, side) + num(1, side) + num(2, 1) + blob(8, f'w{i}') + entry('location', 'large.bin')
                            + entry('offset', i * each) + entry('length', each) + num(14, 1)))
        nodes += [node('MatMul', [last, f'w{i}'], f'p{i}'), node('Tanh', [f'p{i}'], f't{i}'), node('Add', ['x', f't{i}'], f'v{i}')]
        last = f'v{i}'
    (tmp / 'large.onnx').write_bytes(model(b''.join(nodes + tensors) + value(11, 'x', [1, side]) + value(12, last, [1, side])))
    npz(tmp / 'in.npz', 'x', [1, side], uniform(side, 5))
    allowed = 1.3 * each / 2**20 + 300
    program = tmp / 'large.nyx'
    steps = {
        'load (inspect)': ['inspect', tmp / 'large.onnx'],
        'compile': ['compile', tmp / 'large.onnx', '-o', program, '--budget', '2G', '--policy', 'uniform:w4a32', '--target', TARGET],
        'run': ['run', program, '--inputs', tmp / 'in.npz', '--outputs', tmp / 'out.npz'],
    }
    for name, args in steps.items():
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.monotonic()
            status, own, rss = peak(subprocess.Popen([*NYXC, *map(str, args)], stdout=out, stderr=err))
            seconds = time.monotonic() - start
            err.seek(0)
            message = err.read().decode()[-500:] if status else ''
        bound = f' of at most {allowed:.0f}' if name.startswith('load') else ''
        row(f'{n * each / 2**30:.0f} GiB {name}', f'{seconds:.1f} s, {own:.0f} MiB{bound} beside mapped files, {rss:.0f} MiB with them {message}', status == 0 and (not bound or own <= allowed))
        if status:
            return
    row('5 GiB program', f'{program.stat().st_size / 2**20:.0f} MiB')


def main():
    print(f'{platform.machine()} {os.cpu_count()} cores', flush=True)
    with tempfile.TemporaryDirectory(prefix='nyxc-scaling-') as tmp:
        wanted = sys.argv[1:] or [*KINDS, 'large']
        chains(Path(tmp), [kind for kind in wanted if kind in KINDS])
        if 'large' in wanted:
            large(Path(tmp))
    sys.exit(failed > 0)


main()
