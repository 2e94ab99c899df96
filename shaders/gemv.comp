// The product of few rows of a (at most ROWS) with rows of b that are floats, k a multiple of 8. A step is one vector
// of b; what goes with it of a is contiguous too, and comes from the cache for all but the first column.
#include "common.glsl"
#include "gemv.glsl"
#if F16_b
const uint STEP = 8u;
#else
const uint STEP = 4u;
#endif
// Vectors of b in flight.
const uint AHEAD = COLUMNS > 4u ? 1u : 8u / COLUMNS;

void spread_b(uvec4 v, out float f[STEP]) {
#if F16_b
    vec2 v0 = unpackHalf2x16(v.x), v1 = unpackHalf2x16(v.y), v2 = unpackHalf2x16(v.z), v3 = unpackHalf2x16(v.w);
    f[0] = v0.x; f[1] = v0.y; f[2] = v1.x; f[3] = v1.y; f[4] = v2.x; f[5] = v2.y; f[6] = v3.x; f[7] = v3.y;
#else
    vec4 w = uintBitsToFloat(v);
    f[0] = w.x; f[1] = w.y; f[2] = w.z; f[3] = w.w;
#endif
}

// What of row r of a goes with a step.
void load_a(uint r, uint s, out float f[STEP]) {
    uint i = r * p.k + s * STEP;
#if F16_a
    uvec4 v = v_a[i >> 3];
#if F16_b
    vec2 v0 = unpackHalf2x16(v.x), v1 = unpackHalf2x16(v.y), v2 = unpackHalf2x16(v.z), v3 = unpackHalf2x16(v.w);
    f[0] = v0.x; f[1] = v0.y; f[2] = v1.x; f[3] = v1.y; f[4] = v2.x; f[5] = v2.y; f[6] = v3.x; f[7] = v3.y;
#else
    bool high = (i & 4u) != 0u;
    vec2 v0 = unpackHalf2x16(high ? v.z : v.x), v1 = unpackHalf2x16(high ? v.w : v.y);
    f[0] = v0.x; f[1] = v0.y; f[2] = v1.x; f[3] = v1.y;
#endif
#else
    vec4 v = uintBitsToFloat(v_a[i >> 2]);
    f[0] = v.x; f[1] = v.y; f[2] = v.z; f[3] = v.w;
#if F16_b
    vec4 w = uintBitsToFloat(v_a[(i >> 2) + 1u]);
    f[4] = w.x; f[5] = w.y; f[6] = w.z; f[7] = w.w;
#endif
#endif
}

float acc[ROWS][COLUMNS];

void multiply(uvec4 v[COLUMNS], uint s) {
    float w[COLUMNS][STEP], x[STEP];
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) spread_b(v[c], w[c]);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        // Of rows past the last, the last again: every loop has as many turns as were compiled, so that sums stay in
        // registers.
        load_a(ROWS > 1u ? min(r, p.m - 1u) : 0u, s, x);
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            [[unroll]] for (uint i = 0u; i < STEP; i++) acc[r][c] = fma(w[c][i], x[i], acc[r][c]);
        }
    }
}

void main() {
    uint steps = p.k / STEP, s = first_step(), at[COLUMNS];
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) at[c] = row_of_b(c) * steps;
    [[unroll]] for (uint r = 0u; r < ROWS; r++) [[unroll]] for (uint c = 0u; c < COLUMNS; c++) acc[r][c] = 0.0;
    for (; s + (AHEAD - 1u) * SPLIT < steps; s += AHEAD * SPLIT) {
        uvec4 v[AHEAD][COLUMNS];
        [[unroll]] for (uint i = 0u; i < AHEAD; i++) [[unroll]] for (uint c = 0u; c < COLUMNS; c++)
            v[i][c] = v_b[at[c] + s + i * SPLIT];
        [[unroll]] for (uint i = 0u; i < AHEAD; i++) multiply(v[i], s + i * SPLIT);
    }
    for (; s < steps; s += SPLIT) {
        uvec4 v[COLUMNS];
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) v[c] = v_b[at[c] + s];
        multiply(v, s);
    }
    for (uint r = 0u; r < ROWS; r++) finish(acc[r], r);
}
