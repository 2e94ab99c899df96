// The maximum or the average over a window of WIDTH channels, channels last; padding is never a maximum.
#include "common.glsl"
#include "quotient.glsl"
#if UNROLLED
#define EACH_TAP [[unroll]]
#else
#define EACH_TAP
#endif

void main() {
    uint i = invocation(), vectors = p.c / WIDTH;
    if (i >= p.images * p.oh * p.ow * vectors) return;
    uint c = i % vectors * WIDTH, pixel = i / vectors, ox = pixel % p.ow, row = pixel / p.ow, oy = row % p.oh,
        image = row / p.oh;
    // What changes nothing.
    const float nothing = AVERAGE == 1 ? 0.0 : uintBitsToFloat(0xff800000u);
    float value[WIDTH];
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) value[e] = nothing;
    uint count = 0u;
    EACH_TAP for (uint ky = 0u; ky < p.kh; ky++) {
        EACH_TAP for (uint kx = 0u; kx < p.kw; kx++) {
            int y = int(oy * p.sh + ky * p.dh) - int(p.pt), x = int(ox * p.sw + kx * p.dw) - int(p.pl);
            bool inside = y >= 0 && x >= 0 && uint(y) < p.h && uint(x) < p.w;
            float v[WIDTH];
            lds_x((inside ? (image * p.h + uint(y)) * p.w + uint(x) : 0u) * p.c + c, v);
            count += uint(inside);
#if AVERAGE
            [[unroll]] for (uint e = 0u; e < WIDTH; e++) value[e] += inside ? v[e] : nothing;
#else
            [[unroll]] for (uint e = 0u; e < WIDTH; e++) value[e] = larger(value[e], inside ? v[e] : nothing);
#endif
        }
    }
#if AVERAGE
    float all = float(COUNT_PAD == 1 ? p.kh * p.kw : max(count, 1u));
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) value[e] = quotient(value[e], all);
#endif
    puts(pixel * p.c + c, value);
}
