// y[image, oc, pixel] = w[oc, k] x window[k, pixel] for each image and group: a matrix product whose right side is
// never stored. `oc_base` is the first channel of y where the rows of w come in parts, `oc` the channels of all parts.
#include "common.glsl"
#include "window.glsl"
#include "weight.glsl"
#define B_ALONG_K 0
uint image, group_idx;

float tile_a(uint m, uint k) {
#if PACKED_w
    return WEIGHT(value_w(group_idx * p.oc_g + m, k));
#else
    return ld_w((group_idx * p.oc_g + m) * p.k + k);
#endif
}

float tile_b(uint k, uint n) {
    uint c, iy, ix;
    if (!window(k, n, c, iy, ix)) return 0.0;
    return ld_x(((image * p.groups + group_idx) * p.c_g + c) * p.h * p.w + iy * p.w + ix);
}

void tile_put(uint m, uint n, float v) { put((image * p.oc + group_idx * p.oc_g + p.oc_base + m) * p.oh * p.ow + n,
    v); }

#include "tile.glsl"

void main() {
    uint pixels = p.oh * p.ow;
    uint n_tiles = (pixels + TILE_N - 1u) / TILE_N, m_tiles = (p.oc_g + TILE_M - 1u) / TILE_M;
    uint g = group(), batch = g / n_tiles / m_tiles;
    if (batch >= p.images * p.groups) return;
    image = batch / p.groups;
    group_idx = batch % p.groups;
    tile(g / n_tiles % m_tiles * TILE_M, g % n_tiles * TILE_N, p.oc_g, pixels, p.k);
}
