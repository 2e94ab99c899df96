// conv on packed codes of both operands: sums in i32 within each block of w that shares a scale. x has one scale.
#include "common.glsl"
#include "window.glsl"
uint image, group_idx;

int tile_a(uint m, uint word) { return word_w(group_idx * p.oc_g + m, word); }

// x is packed as rows [image, channel, y] of w columns.
int code(uint k, uint n) {
    uint c, iy, ix;
    bool inside = window(k, n, c, iy, ix);
    return k < p.k && inside ? code_x(((image * p.groups + group_idx) * p.c_g + c) * p.h + iy, ix) : 0;
}

int tile_b(uint n, uint word) {
    uint k = word * 4u;
    return (code(k, n) & 0xff) | (code(k + 1u, n) & 0xff) << 8 | (code(k + 2u, n) & 0xff) << 16 | code(k + 3u, n) << 24;
}

float tile_scale(uint m, uint n, uint k) { return scale_w(group_idx * p.oc_g + m, k); }

void tile_put(uint m, uint n, float v) {
    put((image * p.oc + group_idx * p.oc_g + p.oc_base + m) * p.oh * p.ow + n, v * scale_x(0u, 0u));
}

#include "tile_i8.glsl"

void main() {
    uint pixels = p.oh * p.ow;
    uint n_tiles = (pixels + TILE_N - 1u) / TILE_N, m_tiles = (p.oc_g + TILE_M - 1u) / TILE_M;
    uint g = group(), batch = g / n_tiles / m_tiles;
    if (batch >= p.images * p.groups) return;
    image = batch / p.groups;
    group_idx = batch % p.groups;
    tile(g / n_tiles % m_tiles * TILE_M, g % n_tiles * TILE_N, p.oc_g, pixels, p.k, p.block);
}
