// y[batch, m, n] = a[batch, m, k] x b on cooperative matrices: a of f16, f32 or INT8 codes; b of floats [batch, k, n]
// or, with trans_b, [batch, n, k], or packed [n, k]. `n_base` is the first column of y where the rows of b come in
// slices, `n_total` the columns of all slices.
#include "common.glsl"
#include "batch.glsl"
#include "mma_operands.glsl"
#define B_ALONG_K TRANS_B
uint y_base;

PartA fetch_a(uint m, uint k) {
    PartA part;
#if PACKED_a
    part.v[0] = v_a[m * (p.a_pitch >> 2) + (k >> 4)];
#else
    uint at = a_base + m * p.k + k;
#ifdef PAIRS_A
    part.v[0] = v_a[at >> 2];
    part.v[1] = v_a[(at >> 2) + 1u];
#else
    part.v[0] = v_a[at >> 3];
#endif
#endif
    return part;
}

PartB fetch_b(uint n, uint k) {
#if PACKED_b
    return codes_of_b(n, k);
#else
    PartB part;
    part.scale = 1.0;
    part.zero = 0.0;
#if TRANS_B
    uint at = b_base + n * p.k + k;
#else
    uint at = b_base + k * p.n + n;
#endif
#ifdef PAIRS_B
    part.v[0] = v_b[at >> 2];
    part.v[1] = v_b[(at >> 2) + 1u];
#else
    part.v[0] = v_b[at >> 3];
#endif
    return part;
#endif
}

#ifdef PAIRS_B
float plain_product(uint m, uint n) {
    float sum = 0.0;
    uint at_a = a_base + m * p.k, at_b = b_base + n * p.k;
    for (uint k = 0u; k < p.k; k += 8u)
        [[unroll]] for (uint e = 0u; e < 8u; e++) sum = fma(ld_a(at_a + k + e), ld_b(at_b + k + e), sum);
    return sum;
}
#endif

// Sums of codes times their scales.
float scaled(uint m, uint n, float v) {
#if PACKED_a
    v *= scale_a(m, 0u);
#if !BLOCK_b
    v *= scale_b(n, 0u);
#endif
#endif
    return v;
}
uint place(uint m, uint n) { return y_base + m * p.n_total + p.n_base + n; }
void tile_put(uint m, uint n, float v) { put(place(m, n), scaled(m, n, v)); }
void tile_puts(uint m, uint n, float v[WIDTH]) {
    [[unroll]] for (uint i = 0u; i < WIDTH; i++) v[i] = scaled(m, n + i, v[i]);
    puts(place(m, n), v);
}

#include "mma.glsl"

void main() {
    uint n_tiles = (p.n + TILE_N - 1u) / TILE_N, m_tiles = (p.m + TILE_M - 1u) / TILE_M;
    uint g = group();
    uint batch = g / n_tiles / m_tiles;
    if (batch >= p.batch) return;
    find_batch(batch);
    y_base = batch * p.m * p.n_total;
    mma(g / n_tiles % m_tiles * TILE_M, g % n_tiles * TILE_N, p.m, p.n, p.k);
}
