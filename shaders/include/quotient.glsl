#ifndef QUOTIENT
#define QUOTIENT
// a / b, correctly rounded for all numbers: a device's own division may err by 2.5 ULP and flush denormals (Vulkan 1.3,
// appendix "Precision and Operation of SPIR-V Instructions"). The device divides the significands, and what that lacks
// is counted in integers: the significands of a and of quotient times b are so near each other that the low 32 bits of
// their difference are all of it.
float quotient(float a, float b) {
    uint sign = (floatBitsToUint(a) ^ floatBitsToUint(b)) & 0x80000000u;
    uint wa = floatBitsToUint(a) & 0x7fffffffu, wb = floatBitsToUint(b) & 0x7fffffffu;
    if (wa - 1u >= 0x7f7fffffu || wb - 1u >= 0x7f7fffffu) {
        bool undefined = wa > 0x7f800000u || wb > 0x7f800000u || wa == wb;
        return uintBitsToFloat(undefined ? 0x7fc00000u : wa == 0u || wb == 0x7f800000u ? sign : sign | 0x7f800000u);
    }
    int e = 127;
    if (wa < 0x800000u) { wa = floatBitsToUint(float(wa)); e -= 149; }
    if (wb < 0x800000u) { wb = floatBitsToUint(float(wb)); e += 149; }
    e += int(wa >> 23) - int(wb >> 23);
    uint ma = (wa & 0x7fffffu) | 0x800000u, mb = (wb & 0x7fffffu) | 0x800000u;
    float q = float(ma) / float(mb);
    // 24 bits of the quotient.
    uint shift = 23u;
    if (ma < mb) { shift = 24u; e--; }
    uint mq = uint(q * (shift == 24u ? 16777216.0 : 8388608.0));
    int rest = int((ma << shift) - mq * mb), own = int(mb);
#define STEP if (2 * rest > own) { mq++; rest -= own; } else if (2 * rest < -own) { mq--; rest += own; }
    STEP STEP STEP STEP
#undef STEP
    if (e > 254) return uintBitsToFloat(sign | 0x7f800000u);
    if (e > 0) return uintBitsToFloat(sign | ((uint(e) << 23) + (mq - 0x800000u)));
    // A denormal result: rounded where its last bit stands, to the even one of two.
    uint lost = uint(min(1 - e, 26)), part = mq & ((1u << lost) - 1u), mid = 1u << (lost - 1u), kept = mq >> lost;
    bool up = part > mid || (part == mid && (rest > 0 || (rest == 0 && (kept & 1u) == 1u)));
    return uintBitsToFloat(sign | (kept + uint(up)));
}
#endif
