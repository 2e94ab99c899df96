// The maximum or the average over a window of each channel; padding is never a maximum.
#include "common.glsl"
#include "quotient.glsl"
#include "parts.glsl"

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    uint ox = i % p.ow, oy = i / p.ow % p.oh, plane = i / p.ow / p.oh;
    float value = AVERAGE == 1 ? 0.0 : uintBitsToFloat(0xff800000u);
    float total = 0.0, lost = 0.0;
    uint count = 0u, ky = 0u, kx = 0u, size = p.kh * p.kw;
    EACH(k, 0u, size, 1u) {
        int y = int(oy * p.sh + ky * p.dh) - int(p.pt), x = int(ox * p.sw + kx * p.dw) - int(p.pl);
        if (y >= 0 && x >= 0 && uint(y) < p.h && uint(x) < p.w) {
            float v = ld_x((plane * p.h + uint(y)) * p.w + uint(x));
            count++;
#if AVERAGE
            value += v;
            if (count % PART == 0u) {
                total = added(total, value, lost);
                value = 0.0;
            }
#else
            value = larger(value, v);
#endif
        }
        kx++;
        if (kx == p.kw) { kx = 0u; ky++; }
    }
#if AVERAGE
    value = quotient(added(total, value, lost), float(COUNT_PAD == 1 ? size : max(count, 1u)));
#endif
    put(i, value);
}
