// conv_nhwc on packed codes of both operands: sums in i32 within each block of w that shares a scale. x has one scale.
#include "common.glsl"
#include "window_nhwc.glsl"
uint group_idx;

// x is packed as rows [image, y, x] of channels.
int code(uint m, uint k) {
    uint pixel, c;
    return k < p.k && window(m, k, pixel, c) ? code_x(pixel, group_idx * p.c_g + c) : 0;
}

int tile_a(uint m, uint word) {
    uint k = word * 4u;
    if (p.c_g % 4u == 0u) {
        // Four channels of one pixel, which are a word.
        uint pixel, c;
        return window(m, k, pixel, c) ? word_x(pixel, (group_idx * p.c_g + c) / 4u) : 0;
    }
    return (code(m, k) & 0xff) | (code(m, k + 1u) & 0xff) << 8 | (code(m, k + 2u) & 0xff) << 16 | code(m, k + 3u) << 24;
}

int tile_b(uint n, uint word) { return word_w(group_idx * p.oc_g + n, word); }

float tile_scale(uint m, uint n, uint k) { return scale_w(group_idx * p.oc_g + n, k); }

void tile_put(uint m, uint n, float v) { put(m * p.oc + group_idx * p.oc_g + p.oc_base + n, v * scale_x(0u, 0u)); }

#include "tile_i8.glsl"

void main() {
    uint pixels = p.images * p.oh * p.ow;
    uint m_tiles = (pixels + TILE_M - 1u) / TILE_M, n_tiles = (p.oc_g + TILE_N - 1u) / TILE_N;
    uint g = group();
    group_idx = g / m_tiles / n_tiles;
    if (group_idx >= p.groups) return;
    tile(g % m_tiles * TILE_M, g / m_tiles % n_tiles * TILE_N, pixels, p.oc_g, p.k, p.block);
}
