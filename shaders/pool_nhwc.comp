// The maximum or the average over a window of VECTOR channels, channels last; padding is never a maximum.
#include "common.glsl"
#include "quotient.glsl"
#include "channels.glsl"

void main() {
    uint i = invocation(), vectors = p.c / VECTOR;
    if (i >= p.images * p.oh * p.ow * vectors) return;
    uint c = i % vectors * VECTOR, pixel = i / vectors, ox = pixel % p.ow, row = pixel / p.ow, oy = row % p.oh, image = row / p.oh;
    V value = V(AVERAGE == 1 ? 0.0 : uintBitsToFloat(0xff800000u));
    uint count = 0u;
    EACH_TAP for (uint ky = 0u; ky < p.kh; ky++) {
        EACH_TAP for (uint kx = 0u; kx < p.kw; kx++) {
            int y = int(oy * p.sh + ky * p.dh) - int(p.pt), x = int(ox * p.sw + kx * p.dw) - int(p.pl);
            if (y >= 0 && x >= 0 && uint(y) < p.h && uint(x) < p.w) {
                V v = LOAD_x(((image * p.h + uint(y)) * p.w + uint(x)) * p.c + c);
                count++;
#if AVERAGE
                value += v;
#else
                value = OF_EACH(larger, value, v);
#endif
            }
        }
    }
#if AVERAGE
    V all = V(float(COUNT_PAD == 1 ? p.kh * p.kw : max(count, 1u)));
    value = OF_EACH(quotient, value, all);
#endif
    PUT(pixel * p.c + c, value);
}
