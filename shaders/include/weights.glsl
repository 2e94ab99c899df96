// A sum of weighted values over the sum of the weights, which are none where all scores are minus infinity.
float divided(float sum, float weights) {
    float none = p.zero_masked != 0u ? 0.0 : uintBitsToFloat(0x7fc00000u);
    return (floatBitsToUint(weights) << 1) == 0u ? none : sum / weights;
}
