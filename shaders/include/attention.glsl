// What every kernel of attention does with a score: scale, cap, mask, window; and exponentials of differences of
// scores.
//
// Parameters: strides in elements `q_b`, `q_h`, `q_r` from one batch, head and place of q to the next, the same of k,
// v, the result `y` and, with one for keys, of the mask; `repeats` heads of q share one of k and v; a window of `left`
// keys before and `right` behind the place of a query.
#include "power.glsl"

// The hyperbolic tangent, right to the last bits of 1.
float capped(float v) {
    if (isnan(v)) return v;
    float e = exp(min(2.0 * abs(v), 60.0));
    return (v < 0.0 ? -1.0 : 1.0) * (1.0 - 2.0 / (e + 1.0));
}

// Keys of a batch that count, and the place of its first query among them.
int keys_of(uint b) {
#if HAS_lengths
    return clamp(int(ld_lengths(b)), 0, int(p.keys));
#else
    return int(p.keys);
#endif
}
int place_of(uint b) {
#if HAS_lengths
    return int(ld_lengths(b)) - int(p.queries);
#else
    return p.offset;
#endif
}

// The first key that a query at `place` sees, and the one behind the last.
int first_key(int place) { return max(place - p.left, 0); }
int end_key(int place, int keys) { return clamp(place + p.right + 1, 0, keys); }

// What a mask adds: itself, or a truth value that says what is seen.
float added(float mask) { return mask; }
float added(int mask) { return mask != 0 ? 0.0 : LEAST; }

// The score of a key that may be seen, from the product of q and k.
float score(float product, uint b, uint h, uint row, uint key) {
    float s = product * p.scale;
    if (p.softcap > 0.0) s = capped(s / p.softcap) * p.softcap;
#if HAS_mask
    uint at = b * p.mask_b + h * p.mask_h + row * p.mask_r + key * p.mask_k;
    s += added(ld_mask(at));
#endif
    return s;
}

// Elements d to d + 3 of a row that begins at element `base` and has n, zeros behind its end. With VEC all rows begin
// at, and have, multiples of 8.
#if VEC
#define ROW4(name, f16) vec4 row_##name(uint base, uint d, uint n) { \
    if (d >= n) return vec4(0.0); \
    uint at = base + d; \
    if (f16) { uvec4 v = v_##name[at >> 3]; uvec2 w = (at & 4u) == 0u ? v.xy : v.zw; return vec4(unpackHalf2x16(w.x), \
        unpackHalf2x16(w.y)); } \
    return uintBitsToFloat(v_##name[at >> 2]); }
#else
#define ROW4(name, f16) vec4 row_##name(uint base, uint d, uint n) { \
    vec4 v = vec4(0.0); \
    [[unroll]] for (uint i = 0u; i < 4u; i++) if (d + i < n) v[i] = ld_##name(base + d + i); \
    return v; }
#endif
ROW4(q, F16_q == 1)
ROW4(k, F16_k == 1)
ROW4(v, F16_v == 1)
