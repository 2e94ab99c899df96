// Functions of expressions on integers, and from floats to them; those of floats are in maths.glsl. Each part begins
// with a line of two slashes and a colon, its name and those it needs; only those that a kernel uses are in its text.
//: nx_int
int nx_int(float v) {
    if (isnan(v)) return 0;
    return v >= 2147483648.0 ? 2147483647 : v < -2147483648.0 ? int(0x80000000u) : int(v);
}
//: nx_f16
// v rounded to f16, ties to even: 65520 and above are infinity, what is below 2^-14 is a multiple of 2^-24. Integers
// alone: what a device's own conversions round and flush is its choice.
float nx_f16(float v) {
    uint bits = floatBitsToUint(v), size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return v;
    uint rest;
    if (size >= 0x477ff000u) {
        rest = 0x7f800000u;
    } else if (size >= 0x38800000u) {
        rest = (size + 0xfffu + ((size >> 13) & 1u)) & 0xffffe000u;
    } else {
        rest = floatBitsToUint(roundEven(uintBitsToFloat(size) * 16777216.0) * 5.9604644775390625e-8);
    }
    return uintBitsToFloat(rest | (bits & 0x80000000u));
}
//: nx_sf16 nx_f16
// v rounded to f16 as it is stored: what is finite stays so.
float nx_sf16(float v) { return isinf(v) || isnan(v) ? v : nx_f16(clamp(v, -65504.0, 65504.0)); }
//: nx_bf16
float nx_bf16(float v) {
    uint bits = floatBitsToUint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return v;
    return uintBitsToFloat((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}
//: nx_idiv
// Division by zero gives 0, and the one quotient that overflows wraps: what a device does there is undefined.
int nx_idiv(int a, int b) { return b == 0 ? 0 : b == -1 ? 0 - a : a / b; }
//: nx_irem nx_idiv
int nx_irem(int a, int b) { return b == 0 ? 0 : a - nx_idiv(a, b) * b; }
//: nx_imod nx_irem
int nx_imod(int a, int b) { int r = nx_irem(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
//: nx_ipow
int nx_ipow(int a, int b) {
    if (b < 0) return a == 1 || (a == -1 && (b & 1) == 0) ? 1 : a == -1 ? -1 : 0;
    int r = 1;
    for (int n = b; n != 0; n >>= 1) {
        if ((n & 1) != 0) r *= a;
        a *= a;
    }
    return r;
}
//: nx_shl
int nx_shl(int a, int b) { return b < 0 || b > 31 ? 0 : a << b; }
//: nx_ushr
// Of a word that is not negative.
int nx_ushr(int a, int b) { return b < 0 || b > 31 ? 0 : a >> b; }
//: nx_shr
int nx_shr(int a, int b) { return a >> (b < 0 || b > 31 ? 31 : b); }
