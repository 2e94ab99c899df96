// Images enlarged and reduced along the last two axes. The f32 arithmetic of positions is that of src/ops/resize.rs.
#include "common.glsl"
#include "quotient.glsl"

float place(uint at, float scale, uint own, uint out_size) {
    precise float v = float(at);
    if (scale == 1.0 && own == out_size) return v;
#if COORDINATES == 4
    return quotient(v, scale);
#elif COORDINATES == 3
    return out_size == 1u ? 0.0 : quotient(v * float(own - 1u), float(out_size - 1u));
#elif COORDINATES == 1
    precise float adjustment = quotient(float(out_size), scale * float(own));
    precise float shifted = float(own) / 2.0 * (1.0 - adjustment) + quotient(v + 0.5, scale) - 0.5;
    return shifted;
#else
    if (COORDINATES == 2 && out_size == 1u) return 0.0;
    precise float shifted = quotient(v + 0.5, scale) - 0.5;
    return shifted;
#endif
}

// The elements that a position draws on, and the weight of the second.
void taps(uint at, float scale, uint own, uint out_size, out uint first, out uint second, out float weight) {
    float v = place(at, scale, own, out_size);
#if LINEAR
    v = clamp(v, 0.0, float(own - 1u));
    first = min(uint(floor(v)), own - 1u);
    second = min(first + 1u, own - 1u);
    weight = v - float(first);
#else
    float rounded = NEAREST == 1 ? floor(v + 0.5) : NEAREST == 2 ? floor(v) : NEAREST == 3 ? ceil(v) : ceil(v - 0.5);
    first = min(uint(max(rounded, 0.0)), own - 1u);
    second = first;
    weight = 0.0;
#endif
}

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    uint base = i / p.ow / p.oh * p.h, y0, y1, x0, x1;
    float wy, wx;
    taps(i / p.ow % p.oh, p.scale_y, p.h, p.oh, y0, y1, wy);
    taps(i % p.ow, p.scale_x, p.w, p.ow, x0, x1, wx);
#if LINEAR
    float upper = ld_x((base + y0) * p.w + x0) * (1.0 - wx) + ld_x((base + y0) * p.w + x1) * wx;
    float lower = ld_x((base + y1) * p.w + x0) * (1.0 - wx) + ld_x((base + y1) * p.w + x1) * wx;
    put(i, upper * (1.0 - wy) + lower * wy);
#else
    put(i, ld_x((base + y0) * p.w + x0));
#endif
}
