// y[m, n] = a[m, k] x b[n, k] of packed codes: sums in i32 within each block of b that shares a scale.
#include "common.glsl"

int tile_a(uint m, uint word) { return word_a(m, word); }
int tile_b(uint n, uint word) { return word_b(n, word); }
float tile_scale(uint m, uint n, uint k) { return scale_b(n, k); }
void tile_put(uint m, uint n, float v) { put(m * p.n_total + p.n_base + n, v * scale_a(m, 0u)); }

#include "tile_i8.glsl"

void main() {
    uint n_tiles = (p.n + TILE_N - 1u) / TILE_N, m_tiles = (p.m + TILE_M - 1u) / TILE_M;
    uint g = group();
    if (g >= n_tiles * m_tiles) return;
    tile(g / n_tiles * TILE_M, g % n_tiles * TILE_N, p.m, p.n, p.k, p.block);
}
