// y[pixel, oc] = window[pixel, k] x b[oc, k] for each group on cooperative matrices, channels last, the pixels of all images one after the other.
// x of f16, or of f32, which is rounded to f16; b of f16 or packed. `oc_base` is the first channel of y where the rows of b come in parts, `oc` the
// channels of all parts.
#include "common.glsl"
#include "window_nhwc.glsl"
#include "mma_weights.glsl"
#define B_ALONG_K 1
uint group_idx;

// As f16 is stored: what is finite beyond its range becomes its largest.
uint halves(float a, float b) {
    a = isnan(a) || isinf(a) ? a : clamp(a, -65504.0, 65504.0);
    b = isnan(b) || isinf(b) ? b : clamp(b, -65504.0, 65504.0);
    return packFloat2x16(f16vec2(a, b));
}

float element(uint m, uint k) {
    uint pixel, c;
    return k < p.k && window(m, k, pixel, c) ? ld_x((pixel * p.groups + group_idx) * p.c_g + c) : 0.0;
}

uvec4 a_vector(uint m, uint k) {
    if (p.c_g % 8u != 0u) {
        uvec4 v;
        [[unroll]] for (uint i = 0u; i < 4u; i++) v[i] = halves(element(m, k + 2u * i), element(m, k + 2u * i + 1u));
        return v;
    }
    // Eight channels of one pixel.
    uint pixel, c;
    if (!window(m, k, pixel, c)) return uvec4(0u);
    uint i = (pixel * p.groups + group_idx) * p.c_g + c;
#if F16_x
    return v_x[i >> 3];
#else
    vec4 a = uintBitsToFloat(v_x[i >> 2]), b = uintBitsToFloat(v_x[(i >> 2) + 1u]);
    return uvec4(halves(a.x, a.y), halves(a.z, a.w), halves(b.x, b.y), halves(b.z, b.w));
#endif
}

PartB b_fetch(uint n, uint k) {
    uint row = group_idx * p.oc_g + n;
#if PACKED_b
    return part_of_b(row, k);
#else
    if (p.k % 8u == 0u) return v_b[(row * p.k + k) >> 3];
    uvec4 v;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint at = k + 2u * i;
        float first = at < p.k ? ld_b(row * p.k + at) : 0.0, second = at + 1u < p.k ? ld_b(row * p.k + at + 1u) : 0.0;
        v[i] = packFloat2x16(f16vec2(first, second));
    }
    return v;
#endif
}

void tile_put(uint m, uint n, float v) { put(m * p.oc + group_idx * p.oc_g + p.oc_base + n, v); }

#include "mma.glsl"

void main() {
    uint pixels = p.images * p.oh * p.ow;
    uint m_tiles = (pixels + TILE_M - 1u) / TILE_M, n_tiles = (p.oc_g + TILE_N - 1u) / TILE_N;
    uint g = group();
    group_idx = g / m_tiles / n_tiles;
    if (group_idx >= p.groups) return;
    // Whole vectors: what is past the reduction axis is 0 in both.
    mma(g % m_tiles * TILE_M, g / m_tiles % n_tiles * TILE_N, pixels, p.oc_g, (p.k + 7u) / 8u * 8u);
}
