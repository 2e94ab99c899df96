#define LEAST uintBitsToFloat(0xff800000u)

// The exponential of a number up to 0, as of differences from the largest. Where a device's exp is not defined it is
// not asked: some make infinity of NaN.
float power(float v) { return isnan(v) ? v : v < -104.0 ? 0.0 : exp(v); }

// What numbers whose largest is v are shifted by: nothing where all are minus infinity.
float shift_of(float v) { return floatBitsToUint(v) == 0xff800000u ? 0.0 : v; }
