// y[i] = x[offset + sum(i[d] * s[d])] inside the box lo..hi, `fill` outside, given by its bits: transposed, sliced,
// expanded, padded. Vectors are of neighbours in both.
#include "common.glsl"
#include "generic.glsl"

#if BOXED
#define PLACE(c, s, lo, hi) at += int(c) * s; inside = inside && c >= lo && c < hi;
#else
#define PLACE(c, s, lo, hi) at += int(c) * s;
#endif
#define STEP(d, s, lo, hi) { uint q = rest / d, c = rest - q * d; PLACE(c, s, lo, hi) rest = q; }

void main() {
    uint i = invocation() * WIDTH;
    if (i >= p.n) return;
    uint rest = i;
    int at = p.offset;
    bool inside = true;
#if RANK > 7
    STEP(p.d7, p.s7, p.lo7, p.hi7)
#endif
#if RANK > 6
    STEP(p.d6, p.s6, p.lo6, p.hi6)
#endif
#if RANK > 5
    STEP(p.d5, p.s5, p.lo5, p.hi5)
#endif
#if RANK > 4
    STEP(p.d4, p.s4, p.lo4, p.hi4)
#endif
#if RANK > 3
    STEP(p.d3, p.s3, p.lo3, p.hi3)
#endif
#if RANK > 2
    STEP(p.d2, p.s2, p.lo2, p.hi2)
#endif
#if RANK > 1
    STEP(p.d1, p.s1, p.lo1, p.hi1)
#endif
#if RANK > 0
    // What is left is the place along the outermost axis.
    PLACE(rest, p.s0, p.lo0, p.hi0)
#endif
    T_x v[WIDTH];
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] = of_bits(p.fill, p.fill_high, ZERO(T_x));
    if (inside) lds_x(uint(at), v);
    puts(i, v);
}
