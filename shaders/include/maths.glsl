// Functions of floats. Each part begins with a line of two slashes and a colon, its name and those it needs; only those
// that a kernel uses are in its text. docs/maths.md has their errors. What Vulkan says of a device's own functions is
// too loose for it: trigonometric functions may err by 2^-11, exp and log by as much as their arguments are large, and
// denormals may count as 0. So these use additions, products and integers, in the order written where that matters
// (`precise`), and build numbers from their bits where a device could flush them.
//: nx_signed
// The size of one number with the sign of another.
float nx_signed(float size, float sign) {
    return uintBitsToFloat((floatBitsToUint(size) & 0x7fffffffu) | (floatBitsToUint(sign) & 0x80000000u));
}
//: nx_sign
float nx_sign(float v) {
    uint size = floatBitsToUint(v) & 0x7fffffffu;
    return size == 0u || size > 0x7f800000u ? v : uintBitsToFloat((floatBitsToUint(v) & 0x80000000u) | 0x3f800000u);
}
//: nx_scale
// v * 2^e, rounded once, for v from 0.5 to 2 and e from -252 to 254.
float nx_scale(float v, int e) {
    int first = e >> 1;
    precise float r = v * intBitsToFloat((first + 127) << 23);
    r = r * intBitsToFloat((e - first + 127) << 23);
    return r;
}
//: nx_exponent
// The exponent of a finite number that is not 0, and its significand as the bits of a number from 1 to 2.
int nx_exponent(uint size, out uint significand) {
    int e = -127;
    if (size < 0x800000u) {
        // float counts the units of 2^-149 that a denormal has, on devices that flush them too.
        size = floatBitsToUint(float(size));
        e = -149;
        e -= 127;
    }
    significand = (size & 0x7fffffu) | 0x3f800000u;
    return e + int(size >> 23);
}
//: nx_div
#include "quotient.glsl"
float nx_div(float a, float b) { return quotient(a, b); }
//: nx_sqrt nx_exponent
// Correctly rounded: the device's root of the significand, corrected by what its square lacks.
float nx_sqrt(float v) {
    uint bits = floatBitsToUint(v), m;
    if (bits >= 0x7f800000u || bits == 0u) return bits > 0x80000000u && bits <= 0xff800000u
        ? uintBitsToFloat(0x7fc00000u) : v;
    int e = nx_exponent(bits, m);
    uint odd = uint(e & 1);
    float s = sqrt(uintBitsToFloat(m + (odd << 23)));
    uint root = (floatBitsToUint(clamp(s, 1.0, 1.99999988)) & 0x7fffffu) | 0x800000u;
    int rest = int((((m & 0x7fffffu) | 0x800000u) << (23u + odd)) - root * root);
#define STEP if (rest > int(root)) { rest -= int(2u * root + 1u); root++; } else if (rest <= -int(root)) \
    { rest += int(2u * root - 1u); root--; }
    STEP STEP STEP STEP
#undef STEP
    return uintBitsToFloat((uint((e - int(odd)) / 2 + 127) << 23) + (root - 0x800000u));
}
//: nx_rsqrt nx_sqrt nx_div
float nx_rsqrt(float v) { return quotient(1.0, nx_sqrt(v)); }
//: nx_root nx_sqrt
// The power of 1/2, which differs from the square root in minus infinity and minus zero.
float nx_root(float v) { return isinf(v) || (floatBitsToUint(v) << 1) == 0u ? abs(v) : nx_sqrt(v); }
//: nx_exp nx_scale
float nx_exp(float v) {
    if (isnan(v)) return v;
    float a = clamp(v, -104.0, 89.0);
    float k = roundEven(a * 1.44269504);
    precise float r = a - k * 0.693359375;
    r = r - k * -2.12194440e-4;
    float t = ((((1.9875691500e-4 * r + 1.3981999507e-3) * r + 8.3334519073e-3) * r + 4.1665795894e-2) * r
        + 1.6666665459e-1) * r + 5.0000001201e-1;
    return nx_scale(t * r * r + r + 1.0, int(k));
}
//: nx_log_near
// log(1 + z) for -0.3 < z < 0.42 (Cephes).
float nx_log_near(float z) {
    float s = z * z;
    float r = ((7.0376836292e-2 * z - 1.1514610310e-1) * z + 1.1676998740e-1) * z - 1.2420140846e-1;
    r = (((r * z + 1.4249322787e-1) * z - 1.6668057665e-1) * z + 2.0000714765e-1) * z - 2.4999993993e-1;
    return (r * z + 3.3333331174e-1) * z * s - 0.5 * s + z;
}
//: nx_log nx_log_near nx_exponent
float nx_log(float v) {
    uint bits = floatBitsToUint(v), m;
    if ((bits << 1) == 0u) return uintBitsToFloat(0xff800000u);
    if (bits >= 0x7f800000u) return bits > 0x80000000u && bits <= 0xff800000u ? uintBitsToFloat(0x7fc00000u) : v;
    int e = nx_exponent(bits, m);
    float f = uintBitsToFloat(m);
    if (f > 1.41421354) { f *= 0.5; e++; }
    return nx_log_near(f - 1.0) + float(e) * -2.12194440e-4 + float(e) * 0.693359375;
}
//: nx_log1p nx_log nx_log_near
float nx_log1p(float v) {
    if (v > -0.29 && v < 0.41) return nx_log_near(v);
    // Kahan's correction: the rounding error of 1 + v cancels in the quotient.
    precise float w = 1.0 + v;
    precise float rest = w - 1.0;
    // A divisor above 2^126 has no inverse on devices that flush; there 1 + v is v.
    return rest == 0.0 || isinf(w) ? v : nx_log(w) * (v > 1e10 ? 1.0 : v / rest);
}
//: nx_turn
// The rest of a finite v >= 0 after its nearest multiple of pi/2, and which multiple (modulo 4). Up to 100 by Cody and
// Waite in three parts, whose products with the multiple are exact; beyond by Payne and Hanek: the product with those
// 96 bits of 2/pi that decide.
float nx_turn(float v, out uint quarter) {
    if (v < 100.0) {
        float k = roundEven(v * 0.636619772);
        quarter = uint(k);
        precise float r = v - k * 1.57077026;
        r = r - k * 2.60630623e-5;
        r = r - k * 6.07710063e-11;
        return r;
    }
    const uint BITS[8] = uint[8](0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u,
        0xfe5163abu);
    uint size = floatBitsToUint(v), m = (size & 0x7fffffu) | 0x800000u;
    // v is m * 2^e; bits of 2/pi before bit e - 1 lead to multiples of 4.
    uint at = (size >> 23) - 120u, word = min(at >> 5, 4u), shift = at & 31u;
#define WORD(i) ((BITS[word + i] << shift) | ((BITS[word + i + 1u] >> 1) >> (31u - shift)))
    uint high, low, rest, unused;
    umulExtended(m, WORD(1u), high, low);
    umulExtended(m, WORD(2u), rest, unused);
    uint fraction = low + rest;
    uint whole = m * WORD(0u) + high + uint(fraction < low);
#undef WORD
    quarter = whole >> 30;
    uint f = (whole << 2) | (fraction >> 30), g = fraction << 2;
    bool over = f >= 0x80000000u;
    if (over) {
        quarter++;
        g = ~g + 1u;
        f = ~f + uint(g == 0u);
    }
    float r = (float(f) + float(g) * 2.3283064365386963e-10) * (1.57079637 * 2.3283064365386963e-10);
    return over ? -r : r;
}
//: nx_sin_near
float nx_sin_near(float r) { float z = r * r; return ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1)
    * z * r + r; }
//: nx_cos_near
float nx_cos_near(float r) {
    float z = r * r;
    return ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
}
//: nx_sin nx_turn nx_sin_near nx_cos_near nx_signed
float nx_sin(float v) {
    if (isnan(v) || isinf(v)) return uintBitsToFloat(0x7fc00000u);
    uint quarter;
    float r = nx_turn(abs(v), quarter);
    float w = (quarter & 1u) == 0u ? nx_sin_near(r) : nx_cos_near(r);
    return uintBitsToFloat(floatBitsToUint(w) ^ ((quarter & 2u) << 30) ^ (floatBitsToUint(v) & 0x80000000u));
}
//: nx_cos nx_turn nx_sin_near nx_cos_near
float nx_cos(float v) {
    if (isnan(v) || isinf(v)) return uintBitsToFloat(0x7fc00000u);
    uint quarter;
    float r = nx_turn(abs(v), quarter);
    float w = (quarter & 1u) == 0u ? nx_cos_near(r) : nx_sin_near(r);
    return (quarter + 1u & 2u) == 0u ? w : -w;
}
//: nx_tan nx_turn nx_sin_near nx_cos_near
float nx_tan(float v) {
    if (isnan(v) || isinf(v)) return uintBitsToFloat(0x7fc00000u);
    uint quarter;
    float r = nx_turn(abs(v), quarter), s = nx_sin_near(r), c = nx_cos_near(r);
    // The small angles apart: a device's quotient may flush them.
    float t = (quarter & 1u) == 0u ? (abs(r) < 1e-4 ? r : s / c) : -c / s;
    return uintBitsToFloat(floatBitsToUint(t) ^ (floatBitsToUint(v) & 0x80000000u));
}
//: nx_atan nx_signed
float nx_atan(float v) {
    float a = abs(v), base = 0.0;
    if (a > 2.414213562) { base = 1.57079632679; a = a > 1e9 ? 0.0 : -1.0 / a; }
    else if (a > 0.4142135624) { base = 0.78539816339; a = (a - 1.0) / (a + 1.0); }
    float z = a * a;
    float r = base + ((((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1)
        * z * a + a);
    return isnan(v) ? v : nx_signed(r, v);
}
//: nx_asin_near
// asin(x) for x from 0 to 0.5.
float nx_asin_near(float x) {
    float z = x * x;
    return ((((4.2163199048e-2 * z + 2.4181311049e-2) * z + 4.5470025998e-2) * z + 7.4953002686e-2) * z
        + 1.6666752422e-1) * z * x + x;
}
//: nx_asin nx_asin_near nx_sqrt nx_signed
float nx_asin(float v) {
    float a = abs(v);
    if (isnan(v) || a > 1.0) return uintBitsToFloat(0x7fc00000u);
    float r = nx_asin_near(a > 0.5 ? nx_sqrt(0.5 - 0.5 * a) : a);
    return nx_signed(a > 0.5 ? 1.57079632679 - 2.0 * r : r, v);
}
//: nx_acos nx_asin_near nx_sqrt
float nx_acos(float v) {
    float a = abs(v);
    if (isnan(v) || a > 1.0) return uintBitsToFloat(0x7fc00000u);
    float r = nx_asin_near(a > 0.5 ? nx_sqrt(0.5 - 0.5 * a) : a);
    if (a > 0.5) return v < 0.0 ? 3.14159265359 - 2.0 * r : 2.0 * r;
    return 1.57079632679 - (v < 0.0 ? -r : r);
}
//: nx_sinh nx_exp nx_signed
float nx_sinh(float v) {
    float a = abs(v), z = v * v;
    if (a < 1.0) return nx_signed(((2.03721912945e-4 * z + 8.33028376239e-3) * z + 1.66667160211e-1) * z * a + a, v);
    // Half the argument: the result may be finite where exp is not.
    float e = nx_exp(0.5 * a);
    precise float r = 0.5 * e * e;
    return isnan(v) ? v : nx_signed(a > 20.0 ? r : r - 0.25 / r, v);
}
//: nx_cosh nx_exp
float nx_cosh(float v) {
    float e = nx_exp(0.5 * abs(v));
    precise float r = 0.5 * e * e;
    return abs(v) > 20.0 ? r : r + 0.25 / r;
}
//: nx_tanh nx_exp nx_signed
float nx_tanh(float v) {
    float a = abs(v), z = v * v;
    if (isnan(v)) return v;
    if (a < 0.625) {
        float r = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1)
            * z - 3.33332819422e-1;
        return nx_signed(r * z * a + a, v);
    }
    return nx_signed(a > 10.0 ? 1.0 : 1.0 - 2.0 / (nx_exp(2.0 * a) + 1.0), v);
}
//: nx_asinh nx_log1p nx_signed
float nx_asinh(float v) {
    float a = abs(v);
    // One logarithm for all: of two in a choice lavapipe 22.3 made neither behind a product.
    bool large = a > 1e18;
    float r = nx_log1p(large ? a : a + a * a / (1.0 + sqrt(1.0 + a * a))) + (large ? 0.69314718056 : 0.0);
    r = a < 1e-4 ? a : r;
    return isnan(v) ? v : nx_signed(r, v);
}
//: nx_acosh nx_log1p nx_log nx_sqrt
float nx_acosh(float v) {
    if (isnan(v) || v < 1.0) return uintBitsToFloat(0x7fc00000u);
    float t = v - 1.0;
    return v > 1e18 ? nx_log(v) + 0.69314718056 : nx_log1p(t + nx_sqrt(t * (t + 2.0)));
}
//: nx_atanh nx_log1p nx_signed
float nx_atanh(float v) {
    float a = abs(v);
    if (isnan(v) || a > 1.0) return uintBitsToFloat(0x7fc00000u);
    if (a == 1.0) return nx_signed(uintBitsToFloat(0x7f800000u), v);
    return nx_signed(a < 1e-4 ? a : 0.5 * nx_log1p(2.0 * a / (1.0 - a)), v);
}
//: nx_erf nx_exp nx_signed
// By Juffa's approximations.
float nx_erf(float v) {
    float a = abs(v), s = v * v;
    if (isnan(v)) return v;
    if (a > 4.0) return nx_signed(1.0, v);
    if (a > 0.927734375) {
        float r = -1.72853470e-5 * a + 3.83197126e-4;
        float u = -3.88396438e-3 * a + 2.42546219e-2;
        r = r * s + u;
        r = r * a - 1.06777877e-1;
        r = r * a - 6.34846687e-1;
        r = r * a - 1.28717512e-1;
        return nx_signed(1.0 - nx_exp(r * a - a), v);
    }
    // Apart where a device would flush the difference from a.
    if (a < 1e-4) return nx_signed(1.12837917 * a, v);
    float r = -5.96761703e-4 * s + 4.99119423e-3;
    r = r * s - 2.67681349e-2;
    r = r * s + 1.12819925e-1;
    r = r * s - 3.76125336e-1;
    r = r * s + 1.28379166e-1;
    return nx_signed(r * a + a, v);
}
//: nx_sigmoid nx_exp
float nx_sigmoid(float v) {
    float e = nx_exp(-abs(v));
    // Where 1 + e is 1 the quotient is e, which a device's division might flush.
    return v < -20.0 ? e : (v < 0.0 ? e : 1.0) / (1.0 + e);
}
//: nx_softplus nx_log_near nx_log1p nx_exp
float nx_softplus(float v) {
    if (isnan(v)) return v;
    float e = nx_exp(-abs(v));
    return v < -20.0 ? e : max(v, 0.0) + nx_log1p(e);
}
//: nx_product
// The upper half of a significand: products of halves are exact.
#define UPPER(v) uintBitsToFloat(floatBitsToUint(v) & 0xfffff000u)
// a * b, and what its rounding left out (Dekker).
float nx_product(float a, float b, out float rest) {
    precise float r = a * b;
    float ah = UPPER(a), bh = UPPER(b);
    precise float al = a - ah;
    precise float bl = b - bh;
    precise float left = ((ah * bh - r) + ah * bl + al * bh) + al * bl;
    rest = left;
    return r;
}
//: nx_pow nx_product nx_exponent nx_scale
// As C's powf: a negative base has a power where the exponent is integral. 2^(b * log2(a)), with the logarithm as a sum
// of two numbers.
float nx_pow(float a, float b) {
    uint wa = floatBitsToUint(a) & 0x7fffffffu, wb = floatBitsToUint(b) & 0x7fffffffu, m;
    bool below = floatBitsToUint(a) > 0x7fffffffu, down = floatBitsToUint(b) > 0x7fffffffu;
    if (wb == 0u || floatBitsToUint(a) == 0x3f800000u) return 1.0;
    if (wa > 0x7f800000u || wb > 0x7f800000u) return uintBitsToFloat(0x7fc00000u);
    bool integral = wb >= 0x3f800000u && b == floor(b);
    // Of numbers from 2^24 on all are even.
    uint sign = integral && wb < 0x4b800000u && (int(b) & 1) != 0 && below ? 0x80000000u : 0u;
    if (wa == 0u || wa == 0x7f800000u) return uintBitsToFloat(sign | ((wa == 0u) == down ? 0x7f800000u : 0u));
    if (wb == 0x7f800000u) return wa == 0x3f800000u ? 1.0 : uintBitsToFloat((wa > 0x3f800000u) == down ? 0u
        : 0x7f800000u);
    if (below && !integral) return uintBitsToFloat(0x7fc00000u);
    int e = nx_exponent(wa, m);
    float x = uintBitsToFloat(m);
    if (x > 1.41421354) { x *= 0.5; e++; }
    // log2(x) = 2/log(2) * (f + f^3/3 + f^5/5 + ...), f = (x - 1) / (x + 1).
    precise float d = x - 1.0;
    precise float s = x + 1.0;
    precise float s_rest = x - (s - 1.0);
    precise float f = d / s;
    float rest;
    precise float back = nx_product(f, s, rest);
    precise float f_rest = (((d - back) - rest) - f * s_rest) / s;
    float z = f * f;
    float t = z * (0.333333333 + z * (0.2 + z * (0.142857143 + z * (0.111111111 + z * 0.0909090909))));
    precise float tail = f_rest + f * t;
    precise float h = f + tail;
    precise float l = tail - (h - f);
    precise float g = nx_product(h, 2.88539004, rest);
    precise float g_rest = rest + (h * 3.85192598e-8 + l * 2.88539004);
    precise float log_high = float(e) + g;
    precise float log_low = e == 0 ? g_rest : (g - (log_high - float(e))) + g_rest;
    // Beyond 2^40 every power but that of 1 is out of range.
    float y = clamp(b, -1.0995116e12, 1.0995116e12);
    precise float power = nx_product(y, log_high, rest);
    precise float power_rest = rest + y * log_low;
    if (power > 129.0) return uintBitsToFloat(sign | 0x7f800000u);
    if (power < -152.0) return uintBitsToFloat(sign);
    float k = roundEven(power);
    // 2^r = 1 + r * log(2) + r^2 * ..., the first terms exact: powers that are numbers come out as these.
    precise float r = power - k;
    precise float q = nx_product(r, 0.693147182, rest);
    precise float q_rest = rest + (r * -1.90465421e-9 + power_rest * 0.693147182);
    precise float v = r + power_rest;
    float t2 = ((((((1.32154868e-6 * v + 1.52527338e-5) * v + 1.54035304e-4) * v + 1.33335581e-3) * v
        + 9.61812911e-3) * v + 5.55041087e-2) * v + 2.40226507e-1) * v * v;
    precise float sum = 1.0 + q;
    precise float sum_rest = (q - (sum - 1.0)) + (q_rest + t2);
    return uintBitsToFloat(floatBitsToUint(nx_scale(sum + sum_rest, int(k))) | sign);
}
//: nx_fmod
// Exact: the rest of the significands by long division, 8 bits of the quotient at a time; at most 32 times.
float nx_fmod(float a, float b) {
    uint wa = floatBitsToUint(a) & 0x7fffffffu, wb = floatBitsToUint(b) & 0x7fffffffu, sign = floatBitsToUint(a)
        & 0x80000000u;
    if (wa >= 0x7f800000u || wb > 0x7f800000u || wb == 0u) return uintBitsToFloat(0x7fc00000u);
    if (wa < wb) return a;
    uint ea = max(wa >> 23, 1u), eb = max(wb >> 23, 1u);
    uint ma = (wa & 0x7fffffu) | (wa >= 0x800000u ? 0x800000u : 0u), mb = (wb & 0x7fffffu) | (wb >= 0x800000u
        ? 0x800000u : 0u);
    uint rest = ma % mb;
    for (uint left = ea - eb; left != 0u && rest != 0u;) {
        uint bits = min(left, 8u);
        rest = (rest << bits) % mb;
        left -= bits;
    }
    // rest * 2^(eb - 150).
    uint r = floatBitsToUint(float(rest));
    int e = int(r >> 23) + int(eb) - 150;
    return uintBitsToFloat(sign | (rest == 0u ? 0u : e > 0 ? (uint(e) << 23) | (r & 0x7fffffu) : rest << (eb - 1u)));
}
//: nx_mod nx_fmod
// The rest with the sign of the divisor, as Python's.
float nx_mod(float a, float b) {
    float r = nx_fmod(a, b);
    uint w = floatBitsToUint(r);
    if ((w << 1) == 0u) return uintBitsToFloat(floatBitsToUint(b) & 0x80000000u);
    return ((w ^ floatBitsToUint(b)) & 0x80000000u) != 0u ? r + b : r;
}
