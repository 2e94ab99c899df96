// y[pixel, oc] = window[pixel, k] x w[oc, k] for each group, the pixels of all images one after the other: a matrix
// product whose left side is never stored. `oc_base` is the first channel of y where the rows of w come in parts, `oc`
// the channels of all parts.
#include "common.glsl"
#include "window_nhwc.glsl"
#include "weight.glsl"
#define B_ALONG_K 1
uint group_idx;

float tile_a(uint m, uint k) {
    uint pixel, c;
    if (!window(m, k, pixel, c)) return 0.0;
    return ld_x((pixel * p.groups + group_idx) * p.c_g + c);
}

float tile_b(uint k, uint n) {
#if PACKED_w
    return WEIGHT(value_w(group_idx * p.oc_g + n, k));
#else
    return ld_w((group_idx * p.oc_g + n) * p.k + k);
#endif
}

void tile_put(uint m, uint n, float v) { put(m * p.oc + group_idx * p.oc_g + p.oc_base + n, v); }

#include "tile.glsl"

void main() {
    uint pixels = p.images * p.oh * p.ow;
    uint m_tiles = (pixels + TILE_M - 1u) / TILE_M, n_tiles = (p.oc_g + TILE_N - 1u) / TILE_N;
    uint g = group();
    group_idx = g / m_tiles / n_tiles;
    if (group_idx >= p.groups) return;
    tile(g % m_tiles * TILE_M, g / m_tiles % n_tiles * TILE_N, pixels, p.oc_g, p.k);
}
