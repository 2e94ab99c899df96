// The maximum or the average over a window of each channel; padding is never a maximum.
#include "common.glsl"

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    uint ox = i % p.ow, oy = i / p.ow % p.oh, plane = i / p.ow / p.oh;
    float value = AVERAGE == 1 ? 0.0 : uintBitsToFloat(0xff800000u);
    uint count = 0u;
    for (uint ky = 0u; ky < p.kh; ky++) {
        int y = int(oy * p.sh + ky * p.dh) - int(p.pt);
        if (y < 0 || uint(y) >= p.h) continue;
        for (uint kx = 0u; kx < p.kw; kx++) {
            int x = int(ox * p.sw + kx * p.dw) - int(p.pl);
            if (x < 0 || uint(x) >= p.w) continue;
            float v = ld_x((plane * p.h + uint(y)) * p.w + uint(x));
            count++;
#if AVERAGE
            value += v;
#else
            value = larger(value, v);
#endif
        }
    }
#if AVERAGE
    value /= float(COUNT_PAD == 1 ? p.kh * p.kw : max(count, 1u));
#endif
    put(i, value);
}
