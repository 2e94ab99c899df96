// The product of few rows of a (at most ROWS) with rows of b that are packed, k a multiple of 32 and each scale of b
// one of 32 codes or more. A step is 32 columns: those of a become integers of 16 or 24 bits with a scale of their own,
// held in shared memory as planes of signed bytes, the highest first. Codes of 4 bits are multiplied as 16 times what
// they are, or as the bytes that they stand for: the even ones of a word, then the odd ones.
#include "common.glsl"
#include "gemv.glsl"
#if HALF
const uint PLANES = 2u, BIAS = 0x80u;
const float MOST = 32512.0;
#else
const uint PLANES = 3u, BIAS = 0x8080u;
const float MOST = 4128768.0;
#endif
// The smallest magnitude of a step that is distinguished from 0.
const float LEAST = 1e-28;
// Vectors of 16 bytes that a step has of a row of b, and in shared memory; those of the latter are odd in number, so
// that lanes meet no bank twice.
const uint B_VECTORS = PACKED_b / 4u, A_VECTORS = 2u * PLANES + 1u;
shared uvec4 s_a[ROWS * STEPS * A_VECTORS];

// Puts a step of row r of a in its place.
void stage(uint r, uint s, uint place) {
    float x[32];
    uint i = r * p.k + s * 32u;
#if F16_a
    [[unroll]] for (uint v = 0u; v < 4u; v++) {
        uvec4 w = v_a[(i >> 3) + v];
        vec2 w0 = unpackHalf2x16(w.x), w1 = unpackHalf2x16(w.y), w2 = unpackHalf2x16(w.z), w3 = unpackHalf2x16(w.w);
        x[v * 8u] = w0.x; x[v * 8u + 1u] = w0.y; x[v * 8u + 2u] = w1.x; x[v * 8u + 3u] = w1.y;
        x[v * 8u + 4u] = w2.x; x[v * 8u + 5u] = w2.y; x[v * 8u + 6u] = w3.x; x[v * 8u + 7u] = w3.y;
    }
#else
    [[unroll]] for (uint v = 0u; v < 8u; v++) {
        vec4 w = uintBitsToFloat(v_a[(i >> 2) + v]);
        x[v * 4u] = w.x; x[v * 4u + 1u] = w.y; x[v * 4u + 2u] = w.z; x[v * 4u + 3u] = w.w;
    }
#endif
    // Magnitudes as integers are ordered as they are as floats, infinities and NaN last.
    uint most = 0u;
    [[unroll]] for (uint e = 0u; e < 32u; e++) most = max(most, floatBitsToUint(x[e]) & 0x7fffffffu);
    float magnitude = max(uintBitsToFloat(most), LEAST), scale = magnitude * (1.0 / MOST), factor = MOST / magnitude;
    // Added to 1.5 * 2^23, a number of less than 2^22 is rounded to an integer and stands in the low bits, here with
    // half of every lower plane's range on top: so the bytes of a sum are the planes, but for the sign bits of all
    // below the highest.
    uint q[32];
    [[unroll]] for (uint e = 0u; e < 32u; e++) q[e] = floatBitsToUint(fma(x[e], factor, 12582912.0)) + BIAS;
    if (most >= 0x7f800000u) {
        // What is not finite decides alone: signs, with infinity or NaN as their scale.
        scale = uintBitsToFloat(most);
        [[unroll]] for (uint e = 0u; e < 32u; e++) {
            uint bits = floatBitsToUint(x[e]);
            q[e] = 0x4b400000u + BIAS + ((bits & 0x7fffffffu) < 0x7f800000u ? 0u : (bits >> 31) != 0u ? ~0u : 1u);
        }
    }
    uint at = place * A_VECTORS;
    [[unroll]] for (uint h = 0u; h < 2u; h++) {
        uvec4 low, middle, high;
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            // The four codes of a word of b, or every second of eight.
#if PACKED_b == 4
            uint e = j * 8u + h;
            const uint next = 2u;
#else
            uint e = (h * 4u + j) * 4u;
            const uint next = 1u;
#endif
            uint even = (q[e] & 0xffffu) | (q[e + 2u * next] << 16), odd = (q[e + next] & 0xffffu) | (q[e + 3u
                * next] << 16);
            low[j] = ((even & 0x00ff00ffu) | ((odd << 8) & 0xff00ff00u)) ^ 0x80808080u;
            middle[j] = ((even >> 8) & 0x00ff00ffu) | (odd & 0xff00ff00u);
#if !HALF
            even = (q[e] >> 16 & 0xffu) | (q[e + 2u * next] & 0xff0000u);
            odd = (q[e + next] >> 16 & 0xffu) | (q[e + 3u * next] & 0xff0000u);
            // The highest of three planes has 0x40 on top.
            uint top = even | (odd << 8);
            high[j] = (top ^ 0x40404040u) | ((~top & 0x40404040u) << 1);
#endif
        }
#if HALF
        s_a[at + h] = middle;
        s_a[at + 2u + h] = low;
#else
        s_a[at + h] = high;
        s_a[at + 2u + h] = middle ^ 0x80808080u;
        s_a[at + 4u + h] = low;
#endif
    }
    float sum = 0.0;
#if ZEROS_b
    int total = 0;
    [[unroll]] for (uint e = 0u; e < 32u; e++) total += int(q[e] - BIAS - 0x4b400000u);
    sum = float(total);
#endif
#if PACKED_b == 4 && !BYTES_b
    scale *= 0.0625;
    sum *= 16.0;
#endif
    s_a[at + A_VECTORS - 1u] = uvec4(floatBitsToUint(scale), floatBitsToUint(sum), 0u, 0u);
}

// A step of one row of b.
struct Codes {
    uvec4 v[B_VECTORS];
#if BYTES_b
    uvec2 low;
#endif
    float scale, zero;
};

Codes fetch(uint row, uint s) {
    Codes codes;
    uint at = row * (p.b_pitch >> 2) + s * B_VECTORS;
    [[unroll]] for (uint v = 0u; v < B_VECTORS; v++) codes.v[v] = v_b[at + v];
#if BYTES_b
    codes.low = low_b(row, s);
#endif
#if BLOCK_b
    codes.scale = scale_b(row, s * 32u);
#if ZEROS_b
    codes.zero = float(ZERO_b(row, s * 32u));
#endif
#endif
    return codes;
}

int dot4(uvec4 a, uvec4 b) {
    return dotPacked4x8EXT(int(a.x), int(b.x)) + dotPacked4x8EXT(int(a.y), int(b.y)) + dotPacked4x8EXT(int(a.z),
        int(b.z))
        + dotPacked4x8EXT(int(a.w), int(b.w));
}

void main() {
    uint steps = p.k / 32u, t = thread(), row[COLUMNS];
    float acc[ROWS][COLUMNS], scale[COLUMNS], zero[COLUMNS];
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
        row[c] = row_of_b(c);
        [[unroll]] for (uint r = 0u; r < ROWS; r++) acc[r][c] = 0.0;
    }
    for (uint from = 0u; from < steps; from += STEPS) {
        uint n = min(STEPS, steps - from), to = from + n, s = from + first_step();
        // The first of b are on their way while a is prepared.
        Codes codes[COLUMNS];
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) codes[c] = fetch(row[c], min(s, to - 1u));
#if !BLOCK_b
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            scale[c] = scale_b(row[c], 0u);
#if ZEROS_b
            zero[c] = float(ZERO_b(row[c], 0u));
#endif
        }
#endif
        if (from > 0u) barrier();
        uint n_rows = ROWS > 1u ? min(ROWS, p.m) : 1u;
        for (uint e = t; e < n * n_rows; e += THREADS) stage(e / n, from + e % n, e / n * STEPS + e % n);
        barrier();
        for (; s < to; s += SPLIT) {
            uvec4 high[COLUMNS], low[COLUMNS];
            [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
#if BYTES_b
                [[unroll]] for (uint j = 0u; j < 4u; j++) {
                    uvec2 even = (codes[c].low >> (2u * j)) & 0x01010101u;
                    uvec2 odd = (codes[c].low >> (2u * j + 1u)) & 0x01010101u;
                    high[c][j] = bytes_b(codes[c].v[0][j] & 0x0f0f0f0fu, even);
                    low[c][j] = bytes_b((codes[c].v[0][j] >> 4) & 0x0f0f0f0fu, odd);
                }
#elif PACKED_b == 4
                high[c] = (codes[c].v[0] << 4) & 0xf0f0f0f0u;
                low[c] = codes[c].v[0] & 0xf0f0f0f0u;
#else
                high[c] = codes[c].v[0];
                low[c] = codes[c].v[1];
#endif
#if BLOCK_b
                scale[c] = codes[c].scale;
#if ZEROS_b
                zero[c] = codes[c].zero;
#endif
#endif
            }
            if (s + SPLIT < to) {
                [[unroll]] for (uint c = 0u; c < COLUMNS; c++) codes[c] = fetch(row[c], s + SPLIT);
            }
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                // Of rows past the last, the last again: every loop has as many turns as were compiled, so that sums
                // stay in registers.
                uint at = (min(r, n_rows - 1u) * STEPS + s - from) * A_VECTORS;
                uvec4 x[2u * PLANES];
                [[unroll]] for (uint v = 0u; v < 2u * PLANES; v++) x[v] = s_a[at + v];
                vec2 rest = uintBitsToFloat(s_a[at + A_VECTORS - 1u].xy);
                [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
                    int d[PLANES];
                    [[unroll]] for (uint i = 0u; i < PLANES; i++) d[i] = dot4(high[c], x[2u * i]) + dot4(low[c],
                        x[2u * i + 1u]);
#if HALF
                    float value = float(d[0] * 256 + d[1]);
#else
                    float value = fma(float(d[0]), 65536.0, float(d[1] * 256 + d[2]));
#endif
#if ZEROS_b
                    value -= zero[c] * rest.y;
#endif
                    acc[r][c] = fma(value * rest.x, scale[c], acc[r][c]);
                }
            }
        }
    }
    for (uint r = 0u; r < ROWS; r++) finish(acc[r], r);
}
