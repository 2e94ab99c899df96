// Integers of 64 bits as pairs of words, the low one first: the same on every device, also on those that have such
// integers, since lavapipe 22.3 computes powers wrongly with its own. Arithmetic wraps modulo 2^64. Functions with a
// `u` take the bits as those of u64. Distances of shifts are words; outside 0..63 they leave 0, or the sign.
#define LONG uvec2
LONG w_words(uvec2 v) { return v; }
uvec2 w_bits(LONG v) { return v; }
LONG w_of(int v) { return uvec2(v, v >> 31); }
LONG plus(LONG a, LONG b) {
    uint carry;
    uint low = uaddCarry(a.x, b.x, carry);
    return uvec2(low, a.y + b.y + carry);
}
LONG minus(LONG a, LONG b) {
    uint borrow;
    uint low = usubBorrow(a.x, b.x, borrow);
    return uvec2(low, a.y - b.y - borrow);
}
LONG times(LONG a, LONG b) {
    uint high, low;
    umulExtended(a.x, b.x, high, low);
    return uvec2(low, high + a.x * b.y + a.y * b.x);
}
LONG w_not(LONG a) { return ~a; }
LONG w_and(LONG a, LONG b) { return a & b; }
LONG w_or(LONG a, LONG b) { return a | b; }
LONG w_xor(LONG a, LONG b) { return a ^ b; }
LONG w_shl(LONG a, int d) {
    if (d < 0 || d > 63) return uvec2(0u);
    if (d > 31) return uvec2(0u, a.x << (d - 32));
    return d == 0 ? a : uvec2(a.x << d, (a.y << d) | (a.x >> (32 - d)));
}
LONG w_shr(LONG a, int d) {
    int high = int(a.y);
    if (d < 0 || d > 63) return uvec2(high >> 31);
    if (d > 31) return uvec2(high >> (d - 32), high >> 31);
    return d == 0 ? a : uvec2((a.x >> d) | (a.y << (32 - d)), high >> d);
}
LONG w_ushr(LONG a, int d) {
    if (d < 0 || d > 63) return uvec2(0u);
    if (d > 31) return uvec2(a.y >> (d - 32), 0u);
    return d == 0 ? a : uvec2((a.x >> d) | (a.y << (32 - d)), a.y >> d);
}
bool w_eq(LONG a, LONG b) { return a.x == b.x && a.y == b.y; }
bool w_ult(LONG a, LONG b) { return a.y < b.y || (a.y == b.y && a.x < b.x); }
bool w_lt(LONG a, LONG b) { return int(a.y) < int(b.y) || (a.y == b.y && a.x < b.x); }
int w_low(LONG a) { return int(w_bits(a).x); }
bool w_negative(LONG a) { return int(w_bits(a).y) < 0; }
LONG w_neg(LONG a) { return minus(w_of(0), a); }
LONG w_abs(LONG a) { return w_negative(a) ? w_neg(a) : a; }
LONG w_sign(LONG a) { return w_of(w_negative(a) ? -1 : w_eq(a, w_of(0)) ? 0 : 1); }
LONG larger(LONG a, LONG b) { return w_lt(a, b) ? b : a; }
LONG smaller(LONG a, LONG b) { return w_lt(b, a) ? b : a; }
LONG w_ularger(LONG a, LONG b) { return w_ult(a, b) ? b : a; }
LONG w_usmaller(LONG a, LONG b) { return w_ult(b, a) ? b : a; }
LONG of_bits(uint low, uint high, LONG like) { return w_words(uvec2(low, high)); }
// Clamped to 32 bits.
int to_int(LONG a) {
    uvec2 bits = w_bits(a);
    return bits.y == uint(int(bits.x) >> 31) ? int(bits.x) : int(bits.y) < 0 ? int(0x80000000u) : 0x7fffffff;
}

// Quotients of u64 bit by bit: exact on every driver. By 0 it is 0, and so is the rest.
LONG w_udiv(LONG a, LONG b) {
    uvec2 n = w_bits(a), d = w_bits(b);
    if (d.y == 0u && d.x == 0u) return w_of(0);
    if (n.y == 0u && d.y == 0u) return w_words(uvec2(n.x / d.x, 0u));
    LONG quotient = w_of(0), rest = w_of(0);
    // No more bits than the dividend has.
    int top = n.y != 0u ? 32 + findMSB(n.y) : findMSB(n.x);
    for (int i = top; i >= 0; i--) {
        bool carries = w_negative(rest);
        rest = w_or(w_shl(rest, 1), w_and(w_ushr(a, i), w_of(1)));
        if (carries || !w_ult(rest, b)) {
            rest = minus(rest, b);
            quotient = w_or(quotient, w_shl(w_of(1), i));
        }
    }
    return quotient;
}
LONG w_umod(LONG a, LONG b) { return w_eq(b, w_of(0)) ? w_of(0) : minus(a, times(w_udiv(a, b), b)); }
LONG w_div(LONG a, LONG b) {
    LONG quotient = w_udiv(w_abs(a), w_abs(b));
    return w_negative(a) != w_negative(b) ? w_neg(quotient) : quotient;
}
LONG w_rem(LONG a, LONG b) { return w_eq(b, w_of(0)) ? w_of(0) : minus(a, times(w_div(a, b), b)); }
LONG w_mod(LONG a, LONG b) {
    LONG rest = w_rem(a, b);
    return !w_eq(rest, w_of(0)) && w_negative(rest) != w_negative(b) ? plus(rest, b) : rest;
}
LONG mean(LONG sum, uint n) { return w_div(sum, w_words(uvec2(n, 0u))); }
LONG w_umean(LONG sum, uint n) { return w_udiv(sum, w_words(uvec2(n, 0u))); }
LONG w_pow(LONG a, LONG b) {
    bool odd = (w_bits(b).x & 1u) != 0u;
    if (w_negative(b)) {
        bool one = w_eq(a, w_of(1)), minus_one = w_eq(a, w_of(-1));
        return w_of(one || (minus_one && !odd) ? 1 : minus_one ? -1 : 0);
    }
    LONG r = w_of(1);
    for (LONG n = b; !w_eq(n, w_of(0)); n = w_shr(n, 1)) {
        if ((w_bits(n).x & 1u) != 0u) r = times(r, a);
        a = times(a, a);
    }
    return r;
}
// To f32, rounded to nearest even: the upper 32 bits with a sticky bit below them round as all 64 do.
float w_ufloat(LONG a) {
    uvec2 bits = w_bits(a);
    if (bits.y == 0u) return float(bits.x);
    int shift = findMSB(bits.y) + 1;
    LONG dropped = w_shl(a, 64 - shift);
    uint top = w_bits(w_ushr(a, shift)).x | (w_eq(dropped, w_of(0)) ? 0u : 1u);
    return float(top) * uintBitsToFloat(uint(127 + shift) << 23);
}
float w_float(LONG a) { return w_negative(a) ? -w_ufloat(w_neg(a)) : w_ufloat(a); }
// From f32, towards zero; clamped, NaN to 0.
LONG w_truncated(float v) {
    uint bits = floatBitsToUint(v);
    int e = int((bits >> 23) & 0xffu) - 150;
    LONG m = w_words(uvec2((bits & 0x7fffffu) | 0x800000u, 0u));
    return e < -23 ? w_of(0) : e < 0 ? w_ushr(m, -e) : w_shl(m, e);
}
LONG w_int64(float v) {
    if (isnan(v)) return w_of(0);
    if (v >= 9223372036854775808.0) return w_words(uvec2(0xffffffffu, 0x7fffffffu));
    if (v < -9223372036854775808.0) return w_words(uvec2(0u, 0x80000000u));
    LONG m = w_truncated(v);
    return v < 0.0 ? w_neg(m) : m;
}
LONG w_uint64(float v) {
    if (v < 0.0) return w_int64(v);
    return isnan(v) ? w_of(0) : v >= 18446744073709551616.0 ? w_of(-1) : w_truncated(v);
}
