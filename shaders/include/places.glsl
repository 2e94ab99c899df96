// Where the elements are that a position of an enlarged or reduced axis draws on. The f32 arithmetic is that of
// src/ops/core/resize.rs.
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
