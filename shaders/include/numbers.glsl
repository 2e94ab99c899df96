// NaN and infinity by their bits, and what depends on them: a compiler may take it that no value is NaN or infinite
// (Vulkan 1.3, appendix "Precision and Operation of SPIR-V Instructions", without `SignedZeroInfNanPreserve`). It then
// drops tests, and makes max, in which NaN is lost, of `a < b ? b : a`: NVIDIA's does. The generated text has this part
// before everything else.
#define isnan(v) ((floatBitsToUint(v) & 0x7fffffffu) > 0x7f800000u)
#define isinf(v) ((floatBitsToUint(v) & 0x7fffffffu) == 0x7f800000u)
// Before a comparison whose result says which of the two is taken.
#define ordered(a, b) (!isnan(a) && !isnan(b))

// NaN where one operand is.
float larger(float a, float b) { return isnan(a) ? a : isnan(b) ? b : max(a, b); }
float smaller(float a, float b) { return isnan(a) ? a : isnan(b) ? b : min(a, b); }
int larger(int a, int b) { return max(a, b); }
int smaller(int a, int b) { return min(a, b); }
