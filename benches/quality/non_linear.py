"""Squared error of four-bit codes, relative to that of the weights, times 1e-3: python3 benches/quality/non_linear.py

Codes of `Coding::N4` (src/ir/packed/coding.rs) beside evenly spaced ones and llama.cpp's IQ4_NL, on random weights in
blocks that share a scale. For every block the best of 25 scales around the one that puts the largest weight on the
code of the largest magnitude, refitted by least squares; nothing is rounded to f16. Needs numpy.
"""
import numpy as np

N4 = [-127, -103, -81, -63, -47, -34, -22, -11, 0, 11, 22, 34, 47, 63, 81, 103]
IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
EVEN = [16 * i for i in range(-8, 8)]
RANDOM = np.random.default_rng(1)


def error(weights, codes):
    codes = np.array(codes, float)
    half_way = (codes[1:] + codes[:-1]) / 2
    largest = weights[np.arange(len(weights)), np.argmax(np.abs(weights), 1)]
    best = np.full(len(weights), np.inf)
    for factor in np.linspace(.75, 1.35, 25):
        coded = codes[np.searchsorted(half_way, weights / (largest / (codes[0] * factor))[:, None])]
        scale = (weights * coded).sum(1) / np.maximum((coded * coded).sum(1), 1e-30)
        best = np.minimum(best, ((weights - coded * scale[:, None]) ** 2).sum(1))
    return 1e3 * best.sum() / (weights ** 2).sum()


print(f"{'':10}{'block':>6}{'even':>8}{'IQ4_NL':>8}{'N4':>8}")
for name in ("Gaussian", "Laplacian"):
    for block in (16, 32, 64, 128, 256):
        shape = (131072 // block, block)
        weights = RANDOM.standard_normal(shape) if name == "Gaussian" else RANDOM.laplace(size=shape)
        print(f"{name:10}{block:6}" + "".join(f"{error(weights, codes):8.3f}" for codes in (EVEN, IQ4_NL, N4)))
