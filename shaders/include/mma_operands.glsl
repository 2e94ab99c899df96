// What `mma.glsl` multiplies, by the layout of the operands:
// - a of f16: b of f16, or codes that become f16, times their scale, on the way into shared memory. Sums are f32.
// - a of f32: both operands become pairs of f16 whose sum has 22 bits, and a pair times a pair is three products
//   (Ootomo and Yokota 2022). Elements are brought to the range of f16 by a power of two for each line of a slab, and
//   sums of a slab move to f32 each time, because matrix units truncate as they add up. Codes and f16 are one f16.
// - a of INT8 codes: b of codes, as INT8. Sums are i32, within a block that shares scales. Where the magnitude of a is
//   an operand `most`, a is floats that become codes on the way into shared memory.
#ifndef HAS_most
#define HAS_most 0
#endif
#if HAS_most
#include "codes.glsl"
float code_r, code_scale;
#endif
#if PACKED_a || HAS_most
#define CODES_A 1
#else
#define CODES_A 0
#endif
#if CODES_A
#define ELEMENT int8_t
#define PRODUCT int
#define PER_VECTOR 16u
#define PLANES_A 1u
#define PLANES_B 1u
#elif F16_a
#define ELEMENT float16_t
#define PRODUCT float
#define PER_VECTOR 8u
#define PLANES_A 1u
#define PLANES_B 1u
#else
#define ELEMENT float16_t
#define PRODUCT float
#define PER_VECTOR 8u
#define PLANES_A 2u
#if PACKED_b || F16_b
#define PLANES_B 1u
#else
#define PLANES_B 2u
#define PAIRS_B
#endif
#define PAIRS_A
#endif
// Whether sums move to others, times factors of their row and column, each FLUSH_K terms.
#if defined(PAIRS_A) || (CODES_A && BLOCK_b)
#define FLUSHED
#define SUM float
#else
#define SUM PRODUCT
#endif

// 16 bytes of f16 or codes, 32 of f32, what 16 codes are made of: elements along the line.
#if HAS_most && F16_a
#define PART_A 2u
#elif HAS_most
#define PART_A 4u
#elif defined(PAIRS_A)
#define PART_A 2u
#else
#define PART_A 1u
#endif
#ifdef PAIRS_B
#define PART_B 2u
#else
#define PART_B 1u
#endif
struct PartA {
    uvec4 v[PART_A];
};
struct PartB {
    uvec4 v[PART_B];
    float scale;
    float zero;
#if BYTES_b
    uvec2 low;
#endif
};
// Vectors of a line of shared memory that a part of b becomes.
#if PACKED_b
const uint VECTORS_B = 128u / PACKED_b / PER_VECTOR;
#else
const uint VECTORS_B = 1u;
#endif

#if !CODES_A
// Two elements as f16: a pair of codes is in bits 0 to 7 and 16 to 23, as numbers without sign. In the low bits of an
// f16 of 1024 each is an exact difference away from itself.
#if PACKED_b
uint f16_of_codes(uint pair, PartB part) {
    const float offset = 1024.0 + float(1 << ((BYTES_b == 1 ? 8 : PACKED_b) - 1));
    f16vec2 v = unpackFloat2x16(pair | 0x64006400u) - f16vec2(offset + part.zero);
#ifndef PAIRS_A
    v = clamp(v * f16vec2(part.scale), f16vec2(-65504.0), f16vec2(65504.0));
#endif
    return packFloat2x16(v);
}
uint low_halves(uint a, uint b) { return (a & 0xffffu) | (b << 16); }
uint high_halves(uint a, uint b) { return (a >> 16) | (b & 0xffff0000u); }
#endif
#endif

// What a part of a is in shared memory, where that is one vector.
uvec4 vector_of_a(PartA part) {
#if HAS_most && F16_a
    uvec4 q;
    [[unroll]] for (uint i = 0u; i < 2u; i++) {
        uvec4 v = part.v[i];
        q[2u * i] = four_codes(vec4(unpackFloat2x16(v.x), unpackFloat2x16(v.y)), code_r);
        q[2u * i + 1u] = four_codes(vec4(unpackFloat2x16(v.z), unpackFloat2x16(v.w)), code_r);
    }
    return q;
#elif HAS_most
    return uvec4(four_codes(uintBitsToFloat(part.v[0]), code_r), four_codes(uintBitsToFloat(part.v[1]), code_r),
        four_codes(uintBitsToFloat(part.v[2]), code_r), four_codes(uintBitsToFloat(part.v[3]), code_r));
#else
    return part.v[0];
#endif
}

#if BYTES_b
// Codes of word `word` of a part as bytes: the even ones, and the odd ones.
uint even_bytes(PartB part, uint word) {
    return bytes_b(part.v[0][word] & 0x0f0f0f0fu, (part.low >> (2u * word)) & 0x01010101u);
}
uint odd_bytes(PartB part, uint word) {
    return bytes_b((part.v[0][word] >> 4) & 0x0f0f0f0fu, (part.low >> (2u * word + 1u)) & 0x01010101u);
}
#endif

// Vector v of those that a part of b becomes, in memory's order.
uvec4 vector_of_b(PartB part, uint v) {
#if PACKED_b == 4
    // Codes 0 and 4, 1 and 5, and so on, of a word of eight.
#if CODES_A
#if BYTES_b
    uvec2 even = uvec2(even_bytes(part, 2u * v), even_bytes(part, 2u * v + 1u));
    uvec2 odd = uvec2(odd_bytes(part, 2u * v), odd_bytes(part, 2u * v + 1u));
#else
    uvec2 w = uvec2(part.v[0][2u * v], part.v[0][2u * v + 1u]);
    uvec2 even = w & 0x0f0f0f0fu, odd = (w >> 4) & 0x0f0f0f0fu;
    even |= (even & 0x08080808u) * 0x1eu;
    odd |= (odd & 0x08080808u) * 0x1eu;
#endif
    // Bytes 0 and 1 of both in turn, then bytes 2 and 3.
    uvec2 low = (even & 0xffu) | ((odd & 0xffu) << 8) | ((even & 0xff00u) << 8) | ((odd & 0xff00u) << 16);
    uvec2 high = ((even >> 16) & 0xffu) | ((odd >> 8) & 0xff00u) | ((even >> 8) & 0xff0000u) | (odd & 0xff000000u);
    return uvec4(low.x, high.x, low.y, high.y);
#else
#if BYTES_b
    uint even = even_bytes(part, v) ^ 0x80808080u, odd = odd_bytes(part, v) ^ 0x80808080u;
    uint p0 = f16_of_codes(even & 0x00ff00ffu, part), p1 = f16_of_codes(odd & 0x00ff00ffu, part);
    uint p2 = f16_of_codes((even >> 8) & 0x00ff00ffu, part), p3 = f16_of_codes((odd >> 8) & 0x00ff00ffu, part);
#else
    uint w = part.v[0][v] ^ 0x88888888u;
    uint p0 = f16_of_codes(w & 0x000f000fu, part), p1 = f16_of_codes((w >> 4) & 0x000f000fu, part);
    uint p2 = f16_of_codes((w >> 8) & 0x000f000fu, part), p3 = f16_of_codes((w >> 12) & 0x000f000fu, part);
#endif
    return uvec4(low_halves(p0, p1), low_halves(p2, p3), high_halves(p0, p1), high_halves(p2, p3));
#endif
#elif PACKED_b == 8 && !CODES_A
    // Codes 0 and 2, 1 and 3 of a word of four.
    uvec2 w = uvec2(part.v[0][2u * v], part.v[0][2u * v + 1u]) ^ 0x80808080u;
    uint p0 = f16_of_codes(w.x & 0x00ff00ffu, part), p1 = f16_of_codes((w.x >> 8) & 0x00ff00ffu, part);
    uint p2 = f16_of_codes(w.y & 0x00ff00ffu, part), p3 = f16_of_codes((w.y >> 8) & 0x00ff00ffu, part);
    return uvec4(low_halves(p0, p1), high_halves(p0, p1), low_halves(p2, p3), high_halves(p2, p3));
#else
    return part.v[0];
#endif
}

// A part of row `row` of packed b, from column k.
#if PACKED_b
PartB codes_of_b(uint row, uint k) {
    PartB part;
    part.v[0] = v_b[row * (p.b_pitch >> 2) + k / (128u / PACKED_b)];
    part.scale = 1.0;
    part.zero = 0.0;
#if BYTES_b
    part.low = low_b(row, k / 32u);
#endif
#if !CODES_A || BLOCK_b
    part.scale = scale_b(row, k);
#endif
#if ZEROS_b
    part.zero = float(ZERO_b(row, k));
#endif
    return part;
}
#endif

#ifdef PAIRS_A
// The bits of the largest magnitude among what the lanes that hold a line have: `lanes` neighbours, a power of two of
// at most 32.
uint most_of_line(uvec4 v[2], uint lanes) {
    uvec4 both = max(v[0] & 0x7fffffffu, v[1] & 0x7fffffffu);
    uint most = max(max(both.x, both.y), max(both.z, both.w));
    if (lanes > 1u) most = max(most, subgroupShuffleXor(most, 1u));
    if (lanes > 2u) most = max(most, subgroupShuffleXor(most, 2u));
    if (lanes > 4u) most = max(most, subgroupShuffleXor(most, 4u));
    if (lanes > 8u) most = max(most, subgroupShuffleXor(most, 8u));
    if (lanes > 16u) most = max(most, subgroupShuffleXor(most, 16u));
    return most;
}
// The power of two that brings this magnitude to 2^14 or somewhat more, and its inverse.
float to_f16(uint most) { return uintBitsToFloat((268u - max(most >> 23, 15u)) << 23); }
float from_f16(uint most) { return uintBitsToFloat((max(most >> 23, 15u) - 14u) << 23); }
// Four elements, times a power of two, as pairs of f16: the high ones, which hold 11 bits each, then what is left. Of
// what is not finite nothing is left.
uvec4 split4(uvec4 v, float factor) {
    vec4 x = uintBitsToFloat(v) * factor;
    vec4 top = uintBitsToFloat(floatBitsToUint(x) & 0xffffe000u);
    vec4 rest = mix(x - top, vec4(0.0), equal(v & 0x7f800000u, uvec4(0x7f800000u)));
    return uvec4(packHalf2x16(top.xy), packHalf2x16(top.zw), packHalf2x16(rest.xy), packHalf2x16(rest.zw));
}
// The same of eight elements.
void split(uvec4 v[2], float factor, out uvec4 high, out uvec4 low) {
    uvec4 first = split4(v[0], factor), second = split4(v[1], factor);
    high = uvec4(first.xy, second.xy);
    low = uvec4(first.zw, second.zw);
}
#endif
