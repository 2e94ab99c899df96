// Functions of expressions. Each part begins with a line of two slashes and a colon, its name and those it needs; only those that a kernel uses
// are in its text.
// Vulkan's own trigonometric functions may err by 2^-11 and its atan by 4096 ULP, so these bring their own polynomials (Cephes; Juffa's erf).
//: nx_exp
// Explicit ends: the range in which a device's exp is defined may be narrower than f32, and NaN lies outside (SwiftShader gives infinity).
float nx_exp(float v) { return isnan(v) ? v : v > 88.8 ? uintBitsToFloat(0x7f800000u) : v < -104.0 ? 0.0 : exp(v); }
//: nx_log_near
// log(1 + z) for -0.3 < z < 0.42 (Cephes). A device's own log may err by 2^-21 between 0.5 and 2, which is all of a logarithm near 1.
float nx_log_near(float z) {
    float s = z * z;
    float r = ((7.0376836292e-2 * z - 1.1514610310e-1) * z + 1.1676998740e-1) * z - 1.2420140846e-1;
    r = (((r * z + 1.4249322787e-1) * z - 1.6668057665e-1) * z + 2.0000714765e-1) * z - 2.4999993993e-1;
    return (r * z + 3.3333331174e-1) * z * s - 0.5 * s + z;
}
//: nx_log nx_log_near
float nx_log(float v) {
    if (v == 0.0) return uintBitsToFloat(0xff800000u);
    if (v < 0.0 || isinf(v) || isnan(v)) return v < 0.0 ? uintBitsToFloat(0x7fc00000u) : v;
    bool tiny = v < 1.17549435e-38;
    int bits = floatBitsToInt(tiny ? v * 8388608.0 : v);
    int e = (bits >> 23) - (tiny ? 149 : 126);
    float m = intBitsToFloat((bits & 0x7fffff) | 0x3f000000);
    if (m < 0.707106781) { m *= 2.0; e--; }
    return nx_log_near(m - 1.0) + float(e) * -2.12194440e-4 + float(e) * 0.693359375;
}
//: nx_log1p nx_log nx_log_near
float nx_log1p(float v) {
    if (v > -0.29 && v < 0.41) return nx_log_near(v);
    // Kahan's correction: the rounding error of 1 + v cancels in the quotient.
    precise float w = 1.0 + v;
    precise float rest = w - 1.0;
    return rest == 0.0 || isinf(w) ? v : nx_log(w) * (v / rest);
}
//: nx_sign
float nx_sign(float v) { return v > 0.0 ? 1.0 : v < 0.0 ? -1.0 : v; }
//: nx_int
int nx_int(float v) {
    if (isnan(v)) return 0;
    return v >= 2147483648.0 ? 2147483647 : v < -2147483648.0 ? int(0x80000000u) : int(v);
}
//: nx_turn
// The rest of v after its nearest multiple of pi/2, and which multiple: Cody and Waite's reduction in three parts, good to |v| of some 10^4.
float nx_turn(float v, out int quarter) {
    float k = roundEven(v * 0.636619772);
    quarter = int(k);
    precise float r = v - k * 1.5703125;
    precise float s = r - k * 4.83751297e-4;
    precise float t = s - k * 7.54978995e-8;
    return t;
}
//: nx_wave nx_turn
float nx_wave(float v, int shift) {
    if (isnan(v) || isinf(v)) return uintBitsToFloat(0x7fc00000u);
    int quarter;
    float r = nx_turn(v, quarter);
    quarter += shift;
    float z = r * r;
    float s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    float c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
    float w = (quarter & 1) == 0 ? s : c;
    return (quarter & 2) == 0 ? w : -w;
}
//: nx_root
// The power of 1/2, which differs from the square root in minus infinity and minus zero.
float nx_root(float v) { return isinf(v) || v == 0.0 ? abs(v) : sqrt(v); }
//: nx_sin nx_wave
float nx_sin(float v) { return nx_wave(v, 0); }
//: nx_cos nx_wave
float nx_cos(float v) { return nx_wave(v, 1); }
//: nx_tan nx_wave
float nx_tan(float v) { return nx_wave(v, 0) / nx_wave(v, 1); }
//: nx_atan
float nx_atan(float v) {
    float a = abs(v), base = 0.0;
    if (a > 2.414213562) { base = 1.57079632679; a = -1.0 / a; }
    else if (a > 0.4142135624) { base = 0.78539816339; a = (a - 1.0) / (a + 1.0); }
    float z = a * a;
    float r = base + ((((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1) * z * a + a);
    return v < 0.0 ? -r : r;
}
//: nx_asin
float nx_asin(float v) {
    float a = abs(v);
    if (!(a <= 1.0)) return uintBitsToFloat(0x7fc00000u);
    bool far = a > 0.5;
    float z = far ? 0.5 * (1.0 - a) : a * a, x = far ? sqrt(z) : a;
    float r = ((((4.2163199048e-2 * z + 2.4181311049e-2) * z + 4.5470025998e-2) * z + 7.4953002686e-2) * z + 1.6666752422e-1) * z * x + x;
    r = far ? 1.57079632679 - 2.0 * r : r;
    return v < 0.0 ? -r : r;
}
//: nx_acos nx_asin
float nx_acos(float v) {
    if (v > 0.5) return 2.0 * nx_asin(sqrt(0.5 - 0.5 * v));
    return v < -0.5 ? 3.14159265359 - 2.0 * nx_asin(sqrt(0.5 + 0.5 * v)) : 1.57079632679 - nx_asin(v);
}
//: nx_sinh nx_exp
float nx_sinh(float v) {
    float a = abs(v), z = v * v;
    if (a < 1.0) return ((2.03721912945e-4 * z + 8.33028376239e-3) * z + 1.66667160211e-1) * z * v + v;
    float e = nx_exp(0.5 * a);
    float r = 0.5 * e * e - 0.5 / (e * e);
    return v < 0.0 ? -r : r;
}
//: nx_cosh nx_exp
float nx_cosh(float v) { float e = nx_exp(0.5 * abs(v)); return 0.5 * e * e + 0.5 / (e * e); }
//: nx_tanh
float nx_tanh(float v) {
    float a = abs(v), z = v * v;
    if (a < 0.625) {
        return ((((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z - 3.33332819422e-1) * z * v + v;
    }
    float r = a > 10.0 ? 1.0 : 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    return isnan(v) ? v : v < 0.0 ? -r : r;
}
//: nx_asinh nx_log1p nx_log
float nx_asinh(float v) {
    float a = abs(v);
    float r = a > 1e18 ? nx_log(a) + 0.69314718056 : nx_log1p(a + a * a / (1.0 + sqrt(1.0 + a * a)));
    return v < 0.0 ? -r : r;
}
//: nx_acosh nx_log1p nx_log
float nx_acosh(float v) {
    if (!(v >= 1.0)) return uintBitsToFloat(0x7fc00000u);
    float t = v - 1.0;
    return v > 1e18 ? nx_log(v) + 0.69314718056 : nx_log1p(t + sqrt(t * (t + 2.0)));
}
//: nx_atanh nx_log1p
float nx_atanh(float v) {
    float a = abs(v);
    if (!(a <= 1.0)) return uintBitsToFloat(0x7fc00000u);
    float r = 0.5 * nx_log1p(2.0 * a / (1.0 - a));
    return v < 0.0 ? -r : r;
}
//: nx_erf
float nx_erf(float v) {
    float a = abs(v), s = v * v;
    if (isnan(v)) return v;
    if (a > 4.0) return v < 0.0 ? -1.0 : 1.0;
    if (a > 0.927734375) {
        float r = -1.72853470e-5 * a + 3.83197126e-4;
        float u = -3.88396438e-3 * a + 2.42546219e-2;
        r = r * s + u;
        r = r * a - 1.06777877e-1;
        r = r * a - 6.34846687e-1;
        r = r * a - 1.28717512e-1;
        r = 1.0 - exp(r * a - a);
        return v < 0.0 ? -r : r;
    }
    float r = -5.96761703e-4 * s + 4.99119423e-3;
    r = r * s - 2.67681349e-2;
    r = r * s + 1.12819925e-1;
    r = r * s - 3.76125336e-1;
    r = r * s + 1.28379166e-1;
    return r * v + v;
}
//: nx_sigmoid nx_exp
float nx_sigmoid(float v) {
    float e = nx_exp(-abs(v));
    return v < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
}
//: nx_softplus nx_log1p nx_exp
float nx_softplus(float v) { return isnan(v) ? v : max(v, 0.0) + nx_log1p(nx_exp(-abs(v))); }
//: nx_pow
// As C's powf: a negative base has a power where the exponent is integral.
float nx_pow(float a, float b) {
    if (b == 0.0 || a == 1.0) return 1.0;
    if (isnan(a) || isnan(b)) return uintBitsToFloat(0x7fc00000u);
    float m = abs(a);
    bool integral = b == floor(b);
    bool odd = integral && abs(b) < 16777216.0 && mod(b, 2.0) != 0.0;
    float r;
    if (m == 0.0 || isinf(m)) {
        r = (m == 0.0) == (b > 0.0) ? 0.0 : uintBitsToFloat(0x7f800000u);
    } else if (isinf(b)) {
        r = m == 1.0 ? 1.0 : (m > 1.0) == (b > 0.0) ? b * b : 0.0;
    } else if (a < 0.0 && !integral) {
        return uintBitsToFloat(0x7fc00000u);
    } else if (integral && abs(b) <= 64.0) {
        // Repeated squaring errs less than exp2(b * log2(a)).
        r = 1.0;
        float square = m;
        for (uint n = uint(abs(b)); n != 0u; n >>= 1) {
            if ((n & 1u) != 0u) r *= square;
            square *= square;
        }
        r = b < 0.0 ? 1.0 / r : r;
    } else {
        r = pow(m, b);
    }
    return odd && a < 0.0 ? -r : r;
}
//: nx_fmod
float nx_fmod(float a, float b) {
    if (isinf(b) && !isinf(a)) return a;
    if (b == 0.0) return uintBitsToFloat(0x7fc00000u);
    precise float r = a - b * trunc(a / b);
    // A device's quotient may be off in its last bits, and then the next whole number is the right one.
    if (abs(r) >= abs(b)) r -= r < 0.0 ? -abs(b) : abs(b);
    else if (r != 0.0 && (r < 0.0) != (a < 0.0)) r += a < 0.0 ? -abs(b) : abs(b);
    return r;
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
