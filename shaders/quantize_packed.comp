// INT8 codes with scales absmax/127, bit for bit as src/ir/packed/dynamic.rs: rows of `cols` codes take `pitch` words,
// the scales begin at word `scales`. By row a workgroup does it all (STAGE 0). For one scale in all, a few workgroups
// first leave maxima of their parts in the words of the codes (1), one workgroup makes the scale of these (2), and then
// every invocation writes one word of codes (3); where the magnitude is given in `most`, that alone.
#include "common.glsl"
#define WIDE 1
#define ROW_T float
#include "row.glsl"
#include "codes.glsl"

// The largest magnitude so far; NaN once one is not finite.
float magnitude(float m, float x) { return isnan(x) || isinf(x) ? uintBitsToFloat(QUIET_NAN) : larger(m, abs(x)); }

uint scale_of(float absmax) { return scale_bits(floatBitsToUint(absmax)); }

// Four codes of a row; those beyond its end are 0.
uint codes(uint row, uint word, float r) {
    uint v = 0u;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint col = word * 4u + i;
        if (col < p.cols) {
            float x = ld_x(row * p.cols + col) * r;
            int q = isnan(x) ? 0 : int(roundEven(clamp(x, -127.0, 127.0)));
            v = bitfieldInsert(v, uint(q), int(i * 8u), 8);
        }
    }
    return v;
}

void main() {
    uint t = gl_LocalInvocationID.x, g = group();
#if STAGE == 0
    if (g >= p.rows) return;
    float m = 0.0;
    for (uint col = t; col < p.cols; col += INVOCATIONS) m = magnitude(m, ld_x(g * p.cols + col));
    uint s = scale_of(join_lanes(JOIN_MAX, m));
    float r = quotient(1.0, uintBitsToFloat(s));
    for (uint word = t; word < p.pitch; word += INVOCATIONS) d_y[g * p.pitch + word] = codes(g, word, r);
    if (t == 0u) d_y[p.scales + g] = s;
#elif STAGE == 1
    if (g >= p.parts) return;
    float m = 0.0;
    for (uint i = g * INVOCATIONS + t; i < p.rows * p.cols; i += p.parts * INVOCATIONS) m = magnitude(m, ld_x(i));
    m = join_lanes(JOIN_MAX, m);
    if (t == 0u) d_y[g] = floatBitsToUint(m);
#elif STAGE == 2
    float m = 0.0;
    for (uint i = t; i < p.parts; i += INVOCATIONS) m = magnitude(m, uintBitsToFloat(d_y[i]));
    m = join_lanes(JOIN_MAX, m);
    if (t == 0u) d_y[p.scales] = scale_of(m);
#else
    uint word = invocation();
#if HAS_most
    uint scale = scale_bits(uint(ld_most(0u)));
    if (word == 0u) d_y[p.scales] = scale;
#else
    uint scale = d_y[p.scales];
#endif
    if (word < p.rows * p.pitch) d_y[word] = codes(word / p.pitch, word % p.pitch, quotient(1.0,
        uintBitsToFloat(scale)));
#endif
}
