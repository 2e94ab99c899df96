// What templates for numbers of every type do, by one name: `wide.glsl` has the same for integers of 64 bits.
float of_bits(uint low, uint high, float like) { return uintBitsToFloat(low); }
int of_bits(uint low, uint high, int like) { return int(low); }
float plus(float a, float b) { return a + b; }
int plus(int a, int b) { return a + b; }
float times(float a, float b) { return a * b; }
int times(int a, int b) { return a * b; }
int mean(int sum, uint n) { return sum / int(n); }
int to_int(int v) { return v; }
#define ZERO(type) type(0)
