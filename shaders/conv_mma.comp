// y[pixel, oc] = window[pixel, k] x b[oc, k] for each group on cooperative matrices, channels last, the pixels of all
// images one after the other. The images a are of f16, f32, or INT8 codes with one scale, which are made of floats as
// these are loaded where their magnitude `most` is given; the filters b are floats or packed. `oc_base` is the first
// channel of y where the rows of b come in parts, `oc` the channels of all parts.
#include "common.glsl"
#include "window_nhwc.glsl"
#include "mma_operands.glsl"
#define B_ALONG_K 1
uint group_idx;

// Elements of a part, where channels of a pixel make no vectors: 0 past the reduction axis, which is no multiple of
// them then. Written out, since loops inside of conditions stay loops. Of one group without dilation, what a window has
// of a line of the image is contiguous: element x of the line whose first pixel this is.
#define IS_DENSE (p.dw == 1u && p.groups == 1u)
bool in_line(uint m, uint k, out uint pixel, out uint x) {
    uint run = p.kw * p.c_g, ky = k / run, row = m / p.ow;
    int y = int(row % p.oh * p.sh + ky * p.dh) - int(p.pt);
    int from = (int(m % p.ow * p.sw) - int(p.pl)) * int(p.c_g) + int(k - ky * run);
    pixel = (row / p.oh * p.h + uint(y)) * p.w;
    x = uint(from);
    return k < p.k && y >= 0 && uint(y) < p.h && from >= 0 && x < p.w * p.c_g;
}
#if PACKED_a
uint element(uint m, uint k) {
    uint pixel, c;
    if (IS_DENSE) return in_line(m, k, pixel, c) ? uint(code_a(pixel + c / p.c_g, c % p.c_g)) & 0xffu : 0u;
    return k < p.k && window(m, k, pixel, c) ? uint(code_a(pixel, group_idx * p.c_g + c)) & 0xffu : 0u;
}
uint four(uint m, uint k) {
    return element(m, k) | element(m, k + 1u) << 8 | element(m, k + 2u) << 16 | element(m, k + 3u) << 24;
}
uvec4 sixteen(uint m, uint k) { return uvec4(four(m, k), four(m, k + 4u), four(m, k + 8u), four(m, k + 12u)); }
#else
float element(uint m, uint k) {
    uint pixel, c;
    if (IS_DENSE) return in_line(m, k, pixel, c) ? ld_a(pixel * p.c_g + c) : 0.0;
    return k < p.k && window(m, k, pixel, c) ? ld_a((pixel * p.groups + group_idx) * p.c_g + c) : 0.0;
}
vec4 four(uint m, uint k) { return vec4(element(m, k), element(m, k + 1u), element(m, k + 2u), element(m, k + 3u)); }
#endif
uvec2 halves(vec4 v) { return uvec2(packFloat2x16(f16vec2(v.xy)), packFloat2x16(f16vec2(v.zw))); }

// The same as `window`; false past the reduction axis too.
bool within(uint m, uint k, out uint pixel, out uint c) {
    return window(m, k, pixel, c) && (p.k % (VECTORS_B * PER_VECTOR) == 0u || k < p.k);
}

PartA fetch_a(uint m, uint k) {
    PartA part;
    uint pixel, c;
#if HAS_most
    // Channels of a pixel make vectors.
    const uint PER_LOAD = 16u / PART_A;
    bool inside = within(m, k, pixel, c);
    [[unroll]] for (uint i = 0u; i < PART_A; i++) {
        if (p.c_g % 16u > 0u && i > 0u) inside = within(m, k + i * PER_LOAD, pixel, c);
        uint at = ((pixel * p.groups + group_idx) * p.c_g + c) / PER_LOAD + (p.c_g % 16u > 0u ? 0u : i);
        part.v[i] = inside ? v_a[at] : uvec4(0u);
    }
#elif PACKED_a
    if (p.c_g % 16u == 0u)
        part.v[0] = within(m, k, pixel, c) ? v_a[(pixel * p.a_pitch + (group_idx * p.c_g + c) / 4u) >> 2] : uvec4(0u);
    else
        part.v[0] = sixteen(m, k);
#elif F16_a
    if (p.c_g % 8u == 0u)
        part.v[0] = within(m, k, pixel, c) ? v_a[((pixel * p.groups + group_idx) * p.c_g + c) >> 3] : uvec4(0u);
    else
        part.v[0] = uvec4(halves(four(m, k)), halves(four(m, k + 4u)));
#else
    if (p.c_g % 8u == 0u) {
        bool inside = within(m, k, pixel, c);
        uint at = ((pixel * p.groups + group_idx) * p.c_g + c) >> 2;
        part.v[0] = inside ? v_a[at] : uvec4(0u);
        part.v[1] = inside ? v_a[at + 1u] : uvec4(0u);
    } else {
        part.v[0] = floatBitsToUint(four(m, k));
        part.v[1] = floatBitsToUint(four(m, k + 4u));
    }
#endif
    return part;
}

#if PACKED_b
uint word_of_row(uint row, uint word) { return word < p.b_pitch ? raw_b(row, word) : 0u; }
#else
float filter_at(uint row, uint k) { return k < p.k ? ld_b(row * p.k + k) : 0.0; }
vec4 four_of_filter(uint row, uint k) {
    return vec4(filter_at(row, k), filter_at(row, k + 1u), filter_at(row, k + 2u), filter_at(row, k + 3u));
}
#endif

PartB fetch_b(uint n, uint k) {
    uint row = group_idx * p.oc_g + n;
#if PACKED_b
    PartB part = codes_of_b(row, k);
    if (p.k % (128u / PACKED_b) > 0u) {
        // Rows begin at words, and end in codes that are 0.
        uint word = k / (32u / PACKED_b);
        part.v[0] = uvec4(word_of_row(row, word), word_of_row(row, word + 1u), word_of_row(row, word + 2u),
            word_of_row(row, word + 3u));
    }
    return part;
#else
    PartB part;
    part.scale = 1.0;
    part.zero = 0.0;
    uint at = row * p.k + k;
#ifdef PAIRS_B
    if (p.k % 8u == 0u) {
        part.v[0] = v_b[at >> 2];
        part.v[1] = v_b[(at >> 2) + 1u];
    } else {
        part.v[0] = floatBitsToUint(four_of_filter(row, k));
        part.v[1] = floatBitsToUint(four_of_filter(row, k + 4u));
    }
#elif F16_b
    if (p.k % 8u == 0u)
        part.v[0] = v_b[at >> 3];
    else
        part.v[0] = uvec4(halves(four_of_filter(row, k)), halves(four_of_filter(row, k + 4u)));
#endif
    return part;
#endif
}

#ifdef PAIRS_B
float plain_product(uint m, uint n) {
    float sum = 0.0;
    for (uint k = 0u; k < p.k; k += 8u)
        [[unroll]] for (uint e = 0u; e < 8u; e++) sum = fma(element(m, k + e), filter_at(group_idx * p.oc_g + n, k
            + e), sum);
    return sum;
}
#endif

// Sums of codes times their scales.
float scaled(uint n, float v) {
#if CODES_A
#if HAS_most
    v *= code_scale;
#else
    v *= scale_a(0u, 0u);
#endif
#if !BLOCK_b
    v *= scale_b(group_idx * p.oc_g + n, 0u);
#endif
#endif
    return v;
}
uint place(uint m, uint n) { return m * p.oc + group_idx * p.oc_g + p.oc_base + n; }
void tile_put(uint m, uint n, float v) { put(place(m, n), scaled(n, v)); }
void tile_puts(uint m, uint n, float v[WIDTH]) {
    [[unroll]] for (uint i = 0u; i < WIDTH; i++) v[i] = scaled(n + i, v[i]);
    puts(place(m, n), v);
}

#include "mma.glsl"

void main() {
    uint pixels = p.images * p.oh * p.ow;
    uint m_tiles = (pixels + TILE_M - 1u) / TILE_M, n_tiles = (p.oc_g + TILE_N - 1u) / TILE_N;
    uint g = group();
    group_idx = g / m_tiles / n_tiles;
    if (group_idx >= p.groups) return;
#if HAS_most
    uint scale = scale_bits(uint(ld_most(0u)));
    code_scale = uintBitsToFloat(scale);
    code_r = reciprocal(scale);
#endif
    const uint PART = VECTORS_B * PER_VECTOR;
    mma(g % m_tiles * TILE_M, g / m_tiles % n_tiles * TILE_N, pixels, p.oc_g, (p.k + PART - 1u) / PART * PART);
}
