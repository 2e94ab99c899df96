// y[pixel, oc] = window[pixel, k] x b[oc, k] for each group on cooperative matrices that are filled from memory,
// channels last, the pixels of all images one after the other: images a of f16, filters b of f16 or packed, channels
// of a group a multiple of 16. `oc_base` is the first channel of y where the rows of b come in parts, `oc` the
// channels of all parts.
#include "common.glsl"
#include "mma_operands.glsl"
#include "window_nhwc.glsl"
uint group_idx;
// The corner of a pixel's window, and where its image begins, in pixels.
struct RowA {
    int y, x;
    uint image;
};
RowA row_of_a(uint m) {
    uint row = m / p.ow;
    return RowA(int(row % p.oh * p.sh) - int(p.pt), int(m % p.ow * p.sw) - int(p.pl), row / p.oh * p.h * p.w);
}

uvec4[2] part_of_a(RowA row, uint k, out uint mask) {
    uint c = k % p.c_g, tap = k / p.c_g;
    int y = row.y + int(tap / p.kw * p.dh), x = row.x + int(tap % p.kw * p.dw);
#if MASKED
    bool inside = y >= 0 && x >= 0 && uint(y) < p.h && uint(x) < p.w;
    mask = inside ? 0xffffffffu : 0u;
    uint pixel = inside ? uint(y) * p.w + uint(x) : 0u;
#else
    mask = 0xffffffffu;
    uint pixel = uint(y) * p.w + uint(x);
#endif
    uint at = (((row.image + pixel) * p.groups + group_idx) * p.c_g + c) >> 3;
    return uvec4[2](v_a[at], v_a[at + 1u]);
}

#if PACKED_b
uint element_of_b(uint n) { return group_idx * p.oc_g + n; }
#else
uint element_of_b(uint n) { return (group_idx * p.oc_g + n) * p.k; }
#endif

float slow_term(uint m, uint n, uint k) {
    uint pixel, c, row = group_idx * p.oc_g + n;
    if (!window(m, k, pixel, c)) return 0.0;
    float a = ld_a((pixel * p.groups + group_idx) * p.c_g + c);
#if PACKED_b
    return a * value_b(row, k);
#else
    return a * ld_b(row * p.k + k);
#endif
}
float slow_product(uint m, uint n) {
    float sum = 0.0;
    for (uint k = 0u; k < p.k; k++) sum += slow_term(m, n, k);
    return sum;
}

void tile_put(uint m, uint n, float v) { put(m * p.oc + group_idx * p.oc_g + p.oc_base + n, v); }

#include "thin.glsl"

void main() {
    uint pixels = p.images * p.oh * p.ow;
    uint m_tiles = (pixels + TILE_M - 1u) / TILE_M, n_tiles = (p.oc_g + TILE_N - 1u) / TILE_N;
    uint g = group();
    group_idx = g / m_tiles / n_tiles;
    if (group_idx >= p.groups) return;
    thin(g % m_tiles * TILE_M, g / m_tiles % n_tiles * TILE_N, pixels, p.oc_g, p.k);
}
