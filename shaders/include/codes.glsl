// The scale of INT8 codes by the bits of the largest magnitude, and what x is multiplied by, bit for bit as
// src/ir/packed/dynamic.rs. Where something is not finite, the scale is NaN, and codes are any.
#include "quotient.glsl"
const uint QUIET_NAN = 0x7fc00000u;
uint scale_bits(uint most) {
    if (most >= 0x7f800000u) return QUIET_NAN;
    return most < 0x0d800000u ? 0x3f800000u : floatBitsToUint(uintBitsToFloat(most) * uintBitsToFloat(0x3c010204u));
}
float reciprocal(uint scale) { return scale == QUIET_NAN ? 0.0 : quotient(1.0, uintBitsToFloat(scale)); }
// Four codes as bytes. No |x| is larger than the magnitude, so that none is beyond 127. To add 1.5 * 2^23 rounds half
// to even, and leaves integers in the low bits.
uint four_codes(vec4 x, float r) {
    precise vec4 scaled = x * r;
    precise vec4 rounded = scaled + 12582912.0;
    uvec4 q = floatBitsToUint(rounded) & 0xffu;
    return q.x | q.y << 8 | q.z << 16 | q.w << 24;
}
