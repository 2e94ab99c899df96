// y[m, n] = a[m, k] x b[n, k] on cooperative matrices that are filled from memory: a of f16, b of f16 or packed.
// `n_base` is the first column of y where the rows of b come in slices, `n_total` the columns of all slices.
#include "common.glsl"
#include "mma_operands.glsl"
struct RowA {
    uint first;
};
RowA row_of_a(uint m) { return RowA(m * p.k); }

uvec4[2] part_of_a(RowA row, uint k, out uint mask) {
    uint at = (row.first + k) >> 3;
    mask = 0xffffffffu;
    return uvec4[2](v_a[at], v_a[at + 1u]);
}

#if PACKED_b
uint element_of_b(uint n) { return n; }
#else
uint element_of_b(uint n) { return n * p.k; }
#endif

float slow_product(uint m, uint n) {
    float sum = 0.0;
    for (uint k = 0u; k < p.k; k += 8u)
        [[unroll]] for (uint s = 0u; s < 8u; s++)
#if PACKED_b
            sum = fma(ld_a(m * p.k + k + s), value_b(n, k + s), sum);
#else
            sum = fma(ld_a(m * p.k + k + s), ld_b(n * p.k + k + s), sum);
#endif
    return sum;
}

void tile_put(uint m, uint n, float v) { put(m * p.n_total + p.n_base + n, v); }

#include "thin.glsl"

void main() {
    uint n_tiles = (p.n + TILE_N - 1u) / TILE_N, m_tiles = (p.m + TILE_M - 1u) / TILE_M;
    uint g = group();
    if (g / n_tiles >= m_tiles) return;
    thin(g / n_tiles * TILE_M, g % n_tiles * TILE_N, p.m, p.n, p.k);
}
