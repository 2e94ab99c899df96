// y[batch, m, n] = a[batch, m, k] x b: float [batch, k, n] or, with trans_b, [batch, n, k]; packed [n, k]. `n_base` is
// the first column of y where the rows of b come in slices, `n_total` the columns of all slices.
#include "common.glsl"
#include "batch.glsl"
#include "weight.glsl"
#define B_ALONG_K TRANS_B
uint y_base;

float tile_a(uint m, uint k) { return ld_a(a_base + m * p.k + k); }

float tile_b(uint k, uint n) {
#if PACKED_b
    return WEIGHT(value_b(n, k));
#elif TRANS_B
    return ld_b(b_base + n * p.k + k);
#else
    return ld_b(b_base + k * p.n + n);
#endif
}

void tile_put(uint m, uint n, float v) { put(y_base + m * p.n_total + p.n_base + n, v); }

#include "tile.glsl"

void main() {
    uint n_tiles = (p.n + TILE_N - 1u) / TILE_N, m_tiles = (p.m + TILE_M - 1u) / TILE_M;
    uint g = group();
    uint batch = g / n_tiles / m_tiles;
    if (batch >= p.batch) return;
    find_batch(batch);
    y_base = batch * p.m * p.n_total;
    tile(g / n_tiles % m_tiles * TILE_M, g % n_tiles * TILE_N, p.m, p.n, p.k);
}
