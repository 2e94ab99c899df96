// The rows of b as `mma.glsl` reads them, 16 bytes at a time: f16, or codes that become f16 on the way into shared memory.
#if PACKED_b
#define B_VECTORS (32u / PACKED_b / 2u)
struct PartB {
    uvec4 codes;
    float scale;
    float zero;
};
PartB part_of_b(uint row, uint k) {
    PartB raw;
    raw.codes = v_b[row * (p.b_pitch >> 2) + k / (B_VECTORS * 8u)];
    raw.scale = scale_b(row, k);
    raw.zero = float(ZERO_b(row, k));
    return raw;
}
// A code, as an unsigned number in the low bits of an f16 of 1024, is an exact difference away from itself.
f16vec2 f16_of_codes(uint pair, PartB raw) {
    const float offset = 1024.0 + float(1 << (PACKED_b - 1));
    f16vec2 v = (unpackFloat2x16(pair | 0x64006400u) - f16vec2(offset + raw.zero)) * f16vec2(raw.scale);
    return clamp(v, f16vec2(-65504.0), f16vec2(65504.0));
}
uvec4 b_vector(PartB raw, uint v) {
#if PACKED_b == 4
    uint w = raw.codes[v] ^ 0x88888888u;
    // Codes 0 and 4, 1 and 5, and so on.
    f16vec2 p0 = f16_of_codes(w & 0x000f000fu, raw), p1 = f16_of_codes((w >> 4) & 0x000f000fu, raw);
    f16vec2 p2 = f16_of_codes((w >> 8) & 0x000f000fu, raw), p3 = f16_of_codes((w >> 12) & 0x000f000fu, raw);
    return uvec4(packFloat2x16(f16vec2(p0.x, p1.x)), packFloat2x16(f16vec2(p2.x, p3.x)),
        packFloat2x16(f16vec2(p0.y, p1.y)), packFloat2x16(f16vec2(p2.y, p3.y)));
#else
    uvec2 w = uvec2(raw.codes[2u * v], raw.codes[2u * v + 1u]) ^ 0x80808080u;
    // Codes 0 and 2, 1 and 3, and so on.
    f16vec2 p0 = f16_of_codes(w.x & 0x00ff00ffu, raw), p1 = f16_of_codes((w.x >> 8) & 0x00ff00ffu, raw);
    f16vec2 p2 = f16_of_codes(w.y & 0x00ff00ffu, raw), p3 = f16_of_codes((w.y >> 8) & 0x00ff00ffu, raw);
    return uvec4(packFloat2x16(f16vec2(p0.x, p1.x)), packFloat2x16(f16vec2(p0.y, p1.y)),
        packFloat2x16(f16vec2(p2.x, p3.x)), packFloat2x16(f16vec2(p2.y, p3.y)));
#endif
}
#else
#define B_VECTORS 1u
#define PartB uvec4
uvec4 b_vector(PartB raw, uint v) { return raw; }
#endif
