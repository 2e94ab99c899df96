// a / b, correctly rounded: a device's own division may err by 2.5 ULP (Vulkan 1.3, appendix "Precision and Operation of SPIR-V Instructions"). a is 0 or
// positive and normal, b positive and normal, and so is the quotient; NaN where b is. The significands of a and of quotient times b lie so near
// each other that the low 32 bits of their difference are all of it.
float quotient(float a, float b) {
    float q = a / b;
    if (a == 0.0 || isnan(q)) return q;
    int wa = floatBitsToInt(a), wb = floatBitsToInt(b);
    int ma = (wa & 0x7fffff) | 0x800000, mb = (wb & 0x7fffff) | 0x800000;
    for (int i = 0; i < 3; i++) {
        int wq = floatBitsToInt(q);
        int mq = (wq & 0x7fffff) | 0x800000;
        int rest = (ma << ((wa >> 23) - (wb >> 23) - (wq >> 23) + 150)) - mq * mb;
        q = intBitsToFloat(wq + int(2 * rest > mb) - int(2 * rest < -mb));
    }
    return q;
}
