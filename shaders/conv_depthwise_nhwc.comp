// A convolution with one input channel and one filter a group, channels last: each invocation has WIDTH channels of two
// neighbours along x. Where `most` is the magnitude of x, x becomes INT8 codes as it is loaded.
#include "common.glsl"
#if HAS_most
#include "codes.glsl"
float code_r, code_scale;
#endif
const uint PIXELS = 2u, TAPS = p.kh * p.kw;

// Channels c and on of a pixel; x may be packed as rows [image, y, x] of channels, with one scale.
void read(uint pixel, uint c, out float v[WIDTH]) {
#if PACKED_x
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] = float(code_x(pixel, c + e));
#else
    lds_x(pixel * p.c + c, v);
#if HAS_most
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) {
        precise float scaled = v[e] * code_r;
        v[e] = roundEven(scaled);
    }
#endif
#endif
}

float weight(uint c, uint tap) {
#if PACKED_w
    return value_w(c, tap);
#else
    return ld_w(c * TAPS + tap);
#endif
}

void put_pixel(uint pixel, uint c, float v[WIDTH]) {
#if PACKED_x
    float scale = scale_x(0u, 0u);
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] *= scale;
#elif HAS_most
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] *= code_scale;
#endif
    puts(pixel * p.c + c, v);
}

void main() {
    uint i = invocation(), vectors = p.c / WIDTH, pairs = (p.ow + PIXELS - 1u) / PIXELS;
    if (i >= p.images * p.oh * pairs * vectors) return;
#if HAS_most
    uint scale = scale_bits(uint(ld_most(0u)));
    code_scale = uintBitsToFloat(scale);
    code_r = reciprocal(scale);
#endif
    uint c = i % vectors * WIDTH, ox = i / vectors % pairs * PIXELS, row = i / vectors / pairs, oy = row % p.oh,
        image = row / p.oh;
    float sum[PIXELS][WIDTH];
    [[unroll]] for (uint at = 0u; at < PIXELS; at++)
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) sum[at][e] = 0.0;
#if UNROLLED
    // Those of all channels are contiguous, one channel after the other.
    float weights[WIDTH * TAPS];
    [[unroll]] for (uint tap = 0u; tap < TAPS; tap++) {
        float v[WIDTH];
#if PACKED_w
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) weights[e * TAPS + tap] = weight(c + e, tap);
#else
        lds_w(c * TAPS + WIDTH * tap, v);
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) weights[WIDTH * tap + e] = v[e];
#endif
    }
    [[unroll]] for (uint ky = 0u; ky < p.kh; ky++) {
        int y = int(oy * p.sh + ky * p.dh) - int(p.pt);
        bool in_rows = y >= 0 && uint(y) < p.h;
        uint first = (image * p.h + uint(in_rows ? y : 0)) * p.w;
        // What both pixels draw on is read once.
        const uint COLUMNS = (PIXELS - 1u) * p.sw + (p.kw - 1u) * p.dw + 1u;
        float column[COLUMNS][WIDTH];
        [[unroll]] for (uint at = 0u; at < COLUMNS; at++) {
            int x = int(ox * p.sw + at) - int(p.pl);
            bool inside = in_rows && x >= 0 && uint(x) < p.w;
            float v[WIDTH];
            read(first + uint(inside ? x : 0), c, v);
            [[unroll]] for (uint e = 0u; e < WIDTH; e++) column[at][e] = inside ? v[e] : 0.0;
        }
        [[unroll]] for (uint kx = 0u; kx < p.kw; kx++)
            [[unroll]] for (uint at = 0u; at < PIXELS; at++)
                [[unroll]] for (uint e = 0u; e < WIDTH; e++)
                    sum[at][e] = fma(column[at * p.sw + kx * p.dw][e], weights[e * TAPS + ky * p.kw + kx], sum[at][e]);
    }
#else
    for (uint ky = 0u; ky < p.kh; ky++) {
        int y = int(oy * p.sh + ky * p.dh) - int(p.pt);
        bool in_rows = y >= 0 && uint(y) < p.h;
        uint first = (image * p.h + uint(in_rows ? y : 0)) * p.w;
        for (uint kx = 0u; kx < p.kw; kx++) {
            [[unroll]] for (uint at = 0u; at < PIXELS; at++) {
                int x = int((ox + at) * p.sw + kx * p.dw) - int(p.pl);
                bool inside = in_rows && x >= 0 && uint(x) < p.w;
                float v[WIDTH];
                read(first + uint(inside ? x : 0), c, v);
                [[unroll]] for (uint e = 0u; e < WIDTH; e++)
                    sum[at][e] = fma(inside ? v[e] : 0.0, weight(c + e, ky * p.kw + kx), sum[at][e]);
            }
        }
    }
#endif
    uint pixel = row * p.ow + ox;
    put_pixel(pixel, c, sum[0]);
    if (ox + 1u < p.ow) put_pixel(pixel + 1u, c, sum[1]);
}
