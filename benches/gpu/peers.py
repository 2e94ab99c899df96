#!/usr/bin/env python3
"""What PyTorch takes for the models and products of run.py on the GPU here: one JSON object a line, times in us.

  peers.py [--models resnet50,mobilenet_v2,encoder] [--matmul M,N,K ...] [--attention B,HEADS,KV_HEADS,QUERIES,KEYS,HEAD,CAUSAL ...]

CUDA graphs, replayed; images with channels last; f32 without TF32 unless it says tf32; weights of products are read in
turn until 400 MB were, so that none of them is in a cache. Needs PyTorch with CUDA, and torchvision for the networks.
"""
import argparse
import json
import statistics
import torch
from torch import nn
from torch.nn import functional as F

TYPES = {"f32": torch.float32, "tf32": torch.float32, "f16": torch.float16}


class Layer(nn.Module):
    """A layer of BERT's shape, normalized behind attention and behind the two products."""

    def __init__(self, width=768, heads=12):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)
        x = self.norm1(x + self.out(attended))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


def microseconds(run, parts=1, samples=30):
    """Median over replays of a graph of `run`, which does `parts` of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(4):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(samples):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / parts)
    return statistics.median(times)


def model(name, form):
    if name == "encoder":
        module, x = nn.Sequential(*[Layer() for _ in range(12)]), torch.randn(1, 128, 768)
    else:
        import torchvision
        module = getattr(torchvision.models, name)(weights=None).to(memory_format=torch.channels_last)
        x = torch.randn(1, 3, 224, 224).to(memory_format=torch.channels_last)
    module, x = module.eval().to("cuda", TYPES[form]), x.to("cuda", TYPES[form])
    return microseconds(lambda: module(x))


def matmul(m, n, k, form):
    x, bytes_each = torch.randn(m, k, device="cuda", dtype=TYPES[form]), n * k * TYPES[form].itemsize
    copies = max(1, min(64, -(-400_000_000 // bytes_each)))
    weights = [torch.randn(n, k, device="cuda", dtype=TYPES[form]) for _ in range(copies)]
    y = torch.empty(m, n, device="cuda", dtype=TYPES[form])

    def run():
        for w in weights:
            torch.mm(x, w.t(), out=y)
    return microseconds(run, copies)


def attention(batch, heads, kv_heads, queries, keys, head, causal=0):
    make = lambda n, length: torch.randn(batch, n, length, head, device="cuda", dtype=torch.float16)
    q, k, v = make(heads, queries), make(kv_heads, keys), make(kv_heads, keys)

    def run():
        x = q
        for _ in range(8):
            x = F.scaled_dot_product_attention(x, k, v, is_causal=bool(causal), enable_gqa=heads != kv_heads)
    return microseconds(run, 8)


def say(subject, form, compute, *args):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = form == "tf32"
    try:
        with torch.inference_mode():
            result = {"us": compute(*args)}
    except Exception as error:  # noqa: BLE001 - one subject that fails leaves the others
        result = {"error": str(error).splitlines()[0][:160]}
    print(json.dumps({"subject": subject, "format": form, **result}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="")
    parser.add_argument("--matmul", action="append", default=[])
    parser.add_argument("--attention", action="append", default=[])
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name()}), flush=True)
    for name in filter(None, args.models.split(",")):
        for form in ("f32", "tf32", "f16"):
            say(name, form, model, name, form)
    for sizes in args.matmul:
        for form in ("f32", "f16"):
            say(f"matmul {sizes}", form, matmul, *map(int, sizes.split(",")), form)
    for sizes in args.attention:
        say(f"attention {sizes}", "f16", attention, *map(int, sizes.split(",")))


if __name__ == "__main__":
    main()
