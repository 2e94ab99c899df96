// One value of all elements along some axes. `kd`, `ks` are sizes and strides of the axes kept, `rd`, `rs` of those
// reduced, outermost first. `start` has the bits of what no elements give.
#include "common.glsl"
#include "quotient.glsl"
#define ROW_T T_x
float mean(float sum, uint n) { return quotient(sum, float(n)); }
#ifdef U64_x
#define LARGER w_ularger
#define SMALLER w_usmaller
#define MEAN w_umean
#else
#define MEAN mean
#endif
#include "row.glsl"

#define AXIS(d, s) at += rest % d * s; rest /= d;
uint kept(uint rest) {
    uint at = 0u;
#if KEPT > 3
    AXIS(p.kd3, p.ks3)
#endif
#if KEPT > 2
    AXIS(p.kd2, p.ks2)
#endif
#if KEPT > 1
    AXIS(p.kd1, p.ks1)
#endif
#if KEPT > 0
    AXIS(p.kd0, p.ks0)
#endif
    return at;
}

uint reduced(uint rest) {
    uint at = 0u;
#if REDUCED > 3
    AXIS(p.rd3, p.rs3)
#endif
#if REDUCED > 2
    AXIS(p.rd2, p.rs2)
#endif
#if REDUCED > 1
    AXIS(p.rd1, p.rs1)
#endif
#if REDUCED > 0
    AXIS(p.rd0, p.rs0)
#endif
    return at;
}

void main() {
    uint row = row_index();
    if (row >= p.n) return;
    uint base = kept(row);
#if KIND < 2
    Sum sum = no_sum();
    EACH(i, row_lane(), p.n_reduced, LANES) add(sum, ld_x(base + reduced(i)), i);
    T_x value = sum_lanes(sum);
#else
    T_x value = of_bits(p.start, p.start_high, ZERO(T_x));
    // Element 0 is joined to itself, so that a lane without elements has one.
    if (KIND != JOIN_PROD && p.n_reduced > 0u) value = ld_x(base + reduced(0u));
    EACH(i, row_lane(), p.n_reduced, LANES) value = join(KIND, value, ld_x(base + reduced(i)));
    value = join_lanes(KIND, value);
#endif
#if KIND == 1
#ifdef U32_x
    // The sum wraps before it is divided.
    value = w_words(uvec2(w_bits(value).x, 0u));
#endif
    value = MEAN(value, p.n_reduced);
#endif
    if (row_lane() == 0u) put(row, value);
}
