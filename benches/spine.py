"""Measures the rows of the spine's table against onnxruntime; see spine.sh."""
import gzip, json, os, resource, shlex, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
import onnxruntime as ort

NYXC = shlex.split(os.environ.get('NYXC', 'target/debug/nyxc'))
WRAP = shlex.split(os.environ.get('NYXC_RUN', ''))
MODELS = Path(os.environ['NYXC_MODELS'])
SHARED = Path(os.environ.get('NYXC_SHARED', '../shared'))
ONLY = [m for m in os.environ.get('NYXC_ONLY', '').split(',') if m]
TMP = Path(tempfile.mkdtemp(prefix='nyxc-spine-'))
ZOO = {
    'fmnist-mlp': (SHARED / 'models/fmnist-mlp/mlp.onnx', {'batch': 4}),
    'efficientnet-lite0': (SHARED / 'models/efficientnet-lite0/lite0.onnx', {}),
    'magika': (SHARED / 'models/magika/model.onnx', {'bytes.0': 1}),
    'ddddocr-det': (SHARED / 'models/ddddocr-det/common_det.onnx', {}),
    'ppocr-cls': (SHARED / 'models/ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx', {'x.0': 16, 'x.2': 48, 'x.3': 192}),
    'minilm': (MODELS / 'minilm/model.onnx', {'batch': 2, 'seq': 33}),
    'resnet50': (MODELS / 'bench/resnet50.fp32.onnx', {}),
    'mobilenet_v2': (MODELS / 'bench/mobilenet_v2.fp32.onnx', {}),
    'encoder': (MODELS / 'bench/encoder.fp32.onnx', {}),
}
failed = 0


def row(name, wanted, got, ok):
    global failed
    failed += not ok
    print(f"{'pass' if ok else 'FAIL'} | {name} | {wanted} | {got}", flush=True)


def zoo():
    for name, (path, dims) in ZOO.items():
        if ONLY and name not in ONLY:
            continue
        if not path.exists():
            print(f'SKIPPED {name}: no {path}', flush=True)
            continue
        yield name, path, dims


def call(command, **env):
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def compile(path, dims, *args, out='x.nyx', ok=True, env=None):
    flags = sum((['--dim', f'{k}={v}'] for k, v in dims.items()), [])
    p = call([*NYXC, 'compile', str(path), '-o', str(TMP / out), '--json', *flags, *args], **(env or {}))
    if ok and p.returncode:
        raise SystemExit(f'{path} {args}: {p.stderr}')
    return json.loads(p.stdout)


def execute(feeds, program='x.nyx'):
    np.savez(TMP / 'in.npz', **feeds)
    p = call([*WRAP, *NYXC, 'run', str(TMP / program), '--device', 'vulkan,cpu', '--inputs', str(TMP / 'in.npz'), '--outputs', str(TMP / 'out.npz'), '--json'])
    if p.returncode:
        raise SystemExit(f'run: {p.stderr}')
    return dict(np.load(TMP / 'out.npz')), json.loads(p.stdout)


def text_lines(n):
    """Lines of printed text as PP-OCR's classifier wants them, every other one upside down."""
    from PIL import Image
    lines = []
    for i, line in enumerate((SHARED / 'data/ocr-dev/lines.tsv').read_text().splitlines()[:n]):
        image = Image.open(SHARED / 'data/ocr-dev' / line.split('\t')[0]).convert('RGB').rotate(180 * (i % 2))
        width = min(192, max(16, round(48 * image.size[0] / image.size[1])))
        pixels = np.asarray(image.resize((width, 48), Image.BILINEAR), np.float32)[:, :, ::-1]
        lines.append(np.pad(((pixels / 255 - .5) / .5).transpose(2, 0, 1), ((0, 0), (0, 0), (0, 192 - width))))
    return np.stack(lines)


def feeds_for(session, name, dims):
    """Inputs to run one after the other: lines of text for the classifier of lines, one random input otherwise; never zeros. The classifier's answer
    is two numbers a line, mostly near 0 and 1: on few lines one uncertain line decides the whole distance."""
    if name == 'ppocr-cls':
        lines = text_lines(12 * dims['x.0'])
        return [{'x': part} for part in np.split(lines, 12)]
    rng = np.random.default_rng(7)
    feeds = {}
    for i in session.get_inputs():
        shape = [dims.get(f'{i.name}.{k}', dims.get(d, d) if isinstance(d, str) else d) for k, d in enumerate(i.shape)]
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in shape]
        if 'float' in i.type:
            feeds[i.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            kind = np.int64 if '64' in i.type else np.int32
            if 'mask' in i.name:
                mask = np.ones(shape, kind)
                mask[-1, shape[1] // 2:] = 0
                feeds[i.name] = mask
            else:
                top = {'token_type_ids': 1, 'bytes': 256}.get(i.name, 30000)
                feeds[i.name] = rng.integers(0, top, shape).astype(kind)
    return [feeds]


def expect(session, inputs):
    """What onnxruntime answers to all inputs, an array an output."""
    return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*(session.run(None, feeds) for feeds in inputs))]


def execute_all(inputs):
    """What the program answers to all inputs, and the report of the last run."""
    runs = [execute(feeds) for feeds in inputs]
    join = lambda parts: np.concatenate(parts) if len(parts) > 1 else parts[0]
    return {port: join([outputs[port] for outputs, _ in runs]) for port in runs[0][0]}, runs[-1][1]


def distance(outputs, session, reference):
    worst = 0.0
    for port, b in zip(session.get_outputs(), reference):
        a, b = outputs[port.name].astype(np.float64), np.asarray(b, np.float64)
        if not np.isfinite(b).all():
            continue
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)) if np.isfinite(a).all() else float('inf'))
    return worst


FLOATLESS = {'Shape', 'Range', 'ConstantOfShape', 'Cast', 'Gather', 'Slice', 'Concat', 'Unsqueeze', 'Squeeze'}


def section_f32():
    for policy, bound in (('uniform:f32', 1e-4), ('uniform:f16', 1e-2)):
        for name, path, dims in zoo():
            session = ort.InferenceSession(str(path), providers=['CPUExecutionProvider'])
            feeds = feeds_for(session, name, dims)
            reference = expect(session, feeds)
            report = compile(path, dims, '--policy', policy)
            outputs, run = execute_all(feeds)
            error = distance(outputs, session, reference)
            host = [n['name'] for n in report['nodes'] if n['where'] == 'host' and n['format']]
            exact = report['planned_peak_bytes'] == run['measured_peak_bytes']
            row(f'{policy} {name} on {run["device"]}', f'L2 <= {bound:g}, no float node on the host', f'{error:.2e}, {len(host)} on the host, planned {report["planned_peak_bytes"]} measured {run["measured_peak_bytes"]}, run {run["wall_ms"]:.0f} ms', error <= bound and not host and not run['fallbacks'] and (exact or run['measured_peak_bytes'] <= report['planned_peak_bytes']))
            arena = report['arena']
            ratio = arena['bytes'] / max(arena['max_live_bytes'], 1)
            imported = arena['imported_max_live_bytes']
            ok = ratio <= 1.02 and (policy != 'uniform:f32' or imported is None or arena['bytes'] <= imported)
            row(f'arena {policy} {name}', '<= 1.02 x its bound, <= the imported max-live', f'{ratio:.4f}, {arena["bytes"]} of {imported}', ok)


def fmnist_accuracy(program_of):
    path, _ = ZOO['fmnist-mlp']
    rd = lambda f, o: np.frombuffer(gzip.open(SHARED / 'data/fashion-mnist' / f).read(), np.uint8, offset=o)
    images = (rd('t10k-images-idx3-ubyte.gz', 16).reshape(-1, 1, 28, 28) / np.float32(255)).astype(np.float32)
    labels = rd('t10k-labels-idx1-ubyte.gz', 8)
    program_of(path, {'batch': 2000})
    hits = sum((execute({'image': images[i:i + 2000]})[0]['logits'].argmax(1) == labels[i:i + 2000]).sum() for i in range(0, 10000, 2000))
    return 100 * float(hits) / 10000


def lite0_top1(program_of):
    from PIL import Image
    path, _ = ZOO['efficientnet-lite0']
    program_of(path, {'batch': 4})
    files = sorted((SHARED / 'data/imagenet20').glob('*.jpg'))
    hits = 0
    for i in range(0, len(files), 4):
        batch = []
        for f in files[i:i + 4]:
            im = Image.open(f).convert('RGB')
            w, h = im.size
            r = round(224 * 1.143) / min(w, h)
            im = im.resize((max(224, round(w * r)), max(224, round(h * r))), Image.BICUBIC)
            w, h = im.size
            l, t = (w - 224) // 2, (h - 224) // 2
            batch.append(((np.asarray(im.crop((l, t, l + 224, t + 224)), np.float32) - 127) / 128).transpose(2, 0, 1))
        out = execute({'input': np.stack(batch)})[0]['logits'].argmax(1)
        hits += sum(int(o) == int(f.stem.split('_')[-1]) for o, f in zip(out, files[i:i + 4]))
    return hits


def minilm_pearson(program_of):
    from tokenizers import Tokenizer
    path, _ = ZOO['minilm']
    tk = Tokenizer.from_file(str(path.parent / 'tokenizer.json'))
    tk.enable_truncation(256)
    docs = [l for l in open(SHARED / 'data/sts/lee.cor', encoding='latin-1').read().split('\n') if l.strip()]
    human = np.loadtxt(SHARED / 'data/sts/similarities0-1.txt')
    human = np.triu(human, 1) + np.triu(human, 1).T if np.allclose(np.tril(human, -1), 0) else human
    tk.enable_padding()
    encoded = tk.encode_batch(docs)
    seq, batch = len(encoded[0].ids), 10
    program_of(path, {'batch': batch, 'seq': seq})
    rows = []
    for i in range(0, len(docs), batch):
        part = (encoded[i:i + batch] + [encoded[0]] * batch)[:batch]
        array = lambda a: np.array([getattr(e, a) for e in part], np.int64)
        out = execute({'input_ids': array('ids'), 'attention_mask': array('attention_mask'), 'token_type_ids': array('type_ids')})[0]['sentence_embedding']
        rows.append(out[:len(encoded[i:i + batch])])
    e = np.concatenate(rows)
    upper = np.triu_indices(len(docs), 1)
    return float(np.corrcoef((e @ e.T)[upper], human[upper])[0, 1])


def section_scores():
    scores = {}
    metrics = (('fmnist-mlp', fmnist_accuracy), ('efficientnet-lite0', lite0_top1), ('minilm', minilm_pearson))
    for fmt in ('w8a32', 'w8a16', 'w8a8', 'w4a32', 'w4a16', 'w4a8'):
        for name, metric in metrics:
            if (ONLY and name not in ONLY) or not ZOO[name][0].exists():
                continue
            if fmt.endswith('a8') and name == 'efficientnet-lite0':
                continue
            reports = []
            scores[fmt, name] = metric(lambda path, dims: reports.append(compile(path, dims, '--policy', f'uniform:{fmt}')))
            report = reports[0]
            s = scores[fmt, name]
            near = lambda base, by: (f'within {by} of {base}', abs(s - base) <= by)
            wanted, ok = {
                ('w8a32', 'fmnist-mlp'): near(88.37, 0.2), ('w8a32', 'efficientnet-lite0'): ('>= 17 of 20', s >= 17), ('w8a32', 'minilm'): ('>= 0.650', s >= 0.650),
                ('w8a8', 'fmnist-mlp'): near(88.37, 0.5), ('w8a8', 'minilm'): ('>= 0.640', s >= 0.640),
                ('w4a32', 'fmnist-mlp'): near(88.37, 1.0), ('w4a32', 'minilm'): ('>= 0.645', s >= 0.645),
            }.get((fmt, name), ('reported', True))
            if fmt.endswith('a16') and (fmt[:2] + 'a32', name) in scores:
                base = scores[fmt[:2] + 'a32', name]
                by = {'fmnist-mlp': 0.3, 'minilm': 0.003, 'efficientnet-lite0': 1}[name]
                wanted, ok = near(round(base, 4), by)
            row(f'uniform:{fmt} {name}', wanted, f'{s:.4f}', ok)
            if fmt.endswith('a8'):
                integer = [n for n in report['nodes'] if n['op'] in ('MatMul', 'Gemm') and n['f32_weight_bytes']]
                bad = [n['name'] for n in integer if 'i8' not in n['kernel'] and 'q8' not in n['kernel'].split('_', 1)[-1]]
                row(f'uniform:{fmt} {name} kernels', 'every covered MatMul on the integer kernel', f'{len(integer) - len(bad)} of {len(integer)}, e.g. {integer[0]["kernel"]}', not bad)


def section_budget():
    formats = ['f32', 'f16', 'w8a32', 'w8a16', 'w8a8', 'w4a32', 'w4a16', 'w4a8']
    for name, path, dims in zoo():
        session = ort.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        feeds = feeds_for(session, name, dims)
        reference = expect(session, feeds)
        uniform = {}
        for fmt in formats:
            report = compile(path, dims, '--policy', f'uniform:{fmt}')
            outputs, _ = execute_all(feeds)
            uniform[fmt] = (report['planned_peak_bytes'], report['certificate']['objective'], distance(outputs, session, reference))
        first = compile(path, dims)
        least, most = first['min_feasible_bytes'], first['f32_bytes']
        small = call([*NYXC, 'compile', str(path), '-o', str(TMP / 'no.nyx'), '--json', '--budget', str(least - 1), *sum((['--dim', f'{k}={v}'] for k, v in dims.items()), [])])
        row(f'budget {name} one byte below the smallest', 'exit 4, nothing written', f'exit {small.returncode}', small.returncode == 4 and not (TMP / 'no.nyx').exists())
        last = None
        for k in range(6):
            budget = least + (most - least) * k // 5
            report = compile(path, dims, '--budget', str(budget))
            outputs, run = execute_all(feeds)
            planned, measured = report['planned_peak_bytes'], run['measured_peak_bytes']
            ledger, cert = report['ledger'], report['certificate']
            error = distance(outputs, session, reference)
            fits = {f: u for f, u in uniform.items() if u[0] <= budget}
            best_error = min((u[2] for u in fits.values()), default=float('inf'))
            best_objective = min((u[1] for u in fits.values()), default=float('inf'))
            checks = {
                'peak': measured <= planned <= budget and planned - measured <= max(planned // 100, 256 << 10),
                'ledger': sum(v for key, v in ledger.items() if key != 'reserve') == planned,
                'monotone': last is None or cert['objective'] <= 1.01 * last,
                'beats uniforms': cert['objective'] <= best_objective * (1 + 1e-9),
                'error': error <= max(1.1 * best_error, 1e-6),
                'gap': cert['gap'] <= 0.01,
                'time': cert['seconds'] < 1,
            }
            last = cert['objective']
            bad = [c for c, ok in checks.items() if not ok]
            row(f'budget {name} k={k}', 'all checks', f'{planned} of {budget}, L2 {error:.2e} (best uniform {best_error:.2e}), objective {cert["objective"]:.2e} (best uniform {best_objective:.2e}), gap {cert["gap"]:.4f}, {cert["seconds"]:.2f} s' + (f', NOT {bad}' if bad else ''), not bad)


def section_int4():
    for name, path, dims in zoo():
        import onnx
        report = compile(path, dims, '--policy', 'uniform:w4a16:g128')
        model = onnx.load(str(path))
        inits = {t.name: t for t in model.graph.initializer}
        inits |= {n.output[0]: a.t for n in model.graph.node if n.op_type == 'Constant' for a in n.attribute if a.name == 'value'}
        lengths = {}
        for node in model.graph.node:
            slot = {'MatMul': 1, 'Gemm': 1, 'Conv': 1, 'Gather': 0}.get(node.op_type)
            if slot is None or node.input[slot] not in inits:
                continue
            d = list(inits[node.input[slot]].dims)
            trans = any(a.name == 'transB' and a.i for a in node.attribute)
            lengths[node.name or node.output[0]] = {'Conv': int(np.prod(d[1:])), 'Gather': d[-1]}.get(node.op_type, d[1] if trans else d[0])
        nodes = [n for n in report['nodes'] if n['f32_weight_bytes'] and n['weight_bytes']]
        even = [n for n in nodes if lengths.get(n['name'], 0) % 128 == 0 and lengths.get(n['name'], 0)]
        odd = [n for n in nodes if n not in even]
        share = lambda ns: sum(n['weight_bytes'] for n in ns) / max(sum(n['f32_weight_bytes'] for n in ns), 1)
        row(f'int4 g128 {name}', '<= 13 % of the f32 bytes', f'{100 * share(even):.2f} % over {len(even)} nodes; {100 * share(odd):.2f} % over the {len(odd)} others', share(even) <= 0.13)


def section_determinism():
    for name, path, dims in zoo():
        digests = set()
        for i, (jobs, cache) in enumerate((('1', 'a'), ('2', 'a'), ('2', 'b'))):
            folder = TMP / f'd{i}'
            folder.mkdir(exist_ok=True)
            compile(path, dims, '--policy', 'uniform:w8a16', '-j', jobs, out=f'd{i}/x.nyx', env={'NYXC_CACHE': str(TMP / f'cache-{cache}')})
            digests.add((folder / 'x.nyx').read_bytes())
        row(f'determinism {name}', '-j 1 and 2, cold and warm cache, other folders', f'{len(digests)} different files', len(digests) == 1)


def section_compile():
    name, (path, dims) = 'minilm', ZOO['minilm']
    if not path.exists():
        return print('SKIPPED compile: no MiniLM')
    shutil.rmtree(TMP / 'cold', ignore_errors=True)
    for which, limit in (('cold', 10), ('warm', 3)):
        start = time.time()
        p = subprocess.Popen([*NYXC, 'compile', str(path), '-o', str(TMP / 'm.nyx'), '--dim', 'batch=1', '--dim', 'seq=128', '--budget', '40M'], env={**os.environ, 'NYXC_CACHE': str(TMP / 'cold')}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(p.pid, 0)
        seconds, rss = time.time() - start, usage.ru_maxrss * 1024
        most = 3 * path.stat().st_size + (200 << 20)
        row(f'compile minilm, {which} shader cache', f'<= {limit} s, RSS <= {most >> 20} MiB', f'{seconds:.2f} s, {rss >> 20} MiB', status == 0 and seconds <= limit and rss <= most)


SECTIONS = {'f32': section_f32, 'scores': section_scores, 'budget': section_budget, 'int4': section_int4, 'determinism': section_determinism, 'compile': section_compile}
try:
    for wanted in sys.argv[1:] or SECTIONS:
        print(f'== {wanted}', flush=True)
        SECTIONS[wanted]()
finally:
    shutil.rmtree(TMP, ignore_errors=True)
print(f'{failed} rows failed')
sys.exit(failed > 0)
