// A convolution with one input channel and one filter a group, channels last: each invocation has VECTOR channels of two neighbours along x.
#include "common.glsl"
#include "channels.glsl"
const uint PIXELS = 2u;
#if PACKED_x
// x is packed as rows [image, y, x] of channels, with one scale.
#if VECTOR == 4
#define X(pixel, c) ld4_x((pixel) * p.c + c)
#else
#define X(pixel, c) float(code_x(pixel, c))
#endif
#else
#define X(pixel, c) LOAD_x((pixel) * p.c + c)
#endif

float weight(uint c, uint tap) {
#if PACKED_w
    return value_w(c, tap);
#else
    return ld_w(c * (p.kh * p.kw) + tap);
#endif
}

#if UNROLLED && VECTOR == 4 && !PACKED_w
// All weights of four channels lie side by side.
#define SIDE_BY_SIDE 1
float weights[4u * p.kh * p.kw];
#else
#define SIDE_BY_SIDE 0
#endif

V weight_of(uint c, uint tap) {
    V v;
    EACH_CHANNEL(at) {
#if SIDE_BY_SIDE
        CHANNEL(v, at) = weights[at * (p.kh * p.kw) + tap];
#else
        CHANNEL(v, at) = weight(c + at, tap);
#endif
    }
    return v;
}

void main() {
    uint i = invocation(), vectors = p.c / VECTOR, pairs = (p.ow + PIXELS - 1u) / PIXELS;
    if (i >= p.images * p.oh * pairs * vectors) return;
    uint c = i % vectors * VECTOR, ox = i / vectors % pairs * PIXELS, row = i / vectors / pairs, oy = row % p.oh, image = row / p.oh;
#if SIDE_BY_SIDE
    [[unroll]] for (uint tap = 0u; tap < p.kh * p.kw; tap++) {
        vec4 v = ld4_w(c * (p.kh * p.kw) + 4u * tap);
        [[unroll]] for (uint at = 0u; at < 4u; at++) weights[4u * tap + at] = v[at];
    }
#endif
    V sum[PIXELS];
    [[unroll]] for (uint at = 0u; at < PIXELS; at++) sum[at] = V(0.0);
    EACH_TAP for (uint ky = 0u; ky < p.kh; ky++) {
        int y = int(oy * p.sh + ky * p.dh) - int(p.pt);
        bool in_rows = y >= 0 && uint(y) < p.h;
        uint first = (image * p.h + uint(in_rows ? y : 0)) * p.w;
#if UNROLLED
        // What both pixels draw on is read once.
        const uint COLUMNS = (PIXELS - 1u) * p.sw + (p.kw - 1u) * p.dw + 1u;
        V column[COLUMNS];
        [[unroll]] for (uint at = 0u; at < COLUMNS; at++) {
            int x = int(ox * p.sw + at) - int(p.pl);
            column[at] = in_rows && x >= 0 && uint(x) < p.w ? X(first + uint(x), c) : V(0.0);
        }
        [[unroll]] for (uint kx = 0u; kx < p.kw; kx++) {
            V w = weight_of(c, ky * p.kw + kx);
            [[unroll]] for (uint at = 0u; at < PIXELS; at++) sum[at] = fma(column[at * p.sw + kx * p.dw], w, sum[at]);
        }
#else
        for (uint kx = 0u; kx < p.kw; kx++) {
            V w = weight_of(c, ky * p.kw + kx);
            [[unroll]] for (uint at = 0u; at < PIXELS; at++) {
                int x = int((ox + at) * p.sw + kx * p.dw) - int(p.pl);
                if (in_rows && x >= 0 && uint(x) < p.w) sum[at] = fma(X(first + uint(x), c), w, sum[at]);
            }
        }
#endif
    }
    [[unroll]] for (uint at = 0u; at < PIXELS; at++) {
#if PACKED_x
        sum[at] *= scale_x(0u, 0u);
#endif
        if (ox + at < p.ow) PUT((row * p.ow + ox + at) * p.c + c, sum[at]);
    }
}
