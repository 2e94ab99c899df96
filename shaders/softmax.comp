// exp(x - max) over its sum, or the logarithm of that, along one axis of [outer, n, inner].
#include "common.glsl"
#define ROW_T float
#include "row.glsl"
#include "power.glsl"

void main() {
    uint row = row_index();
    if (row >= p.rows) return;
    uint base = row / p.inner * p.n * p.inner + row % p.inner;
    float largest = LEAST;
    EACH(i, row_lane(), p.n, LANES) largest = join(JOIN_MAX, largest, ld_x(base + i * p.inner));
    largest = join_lanes(JOIN_MAX, largest);
    Sum powers = no_sum();
    EACH(i, row_lane(), p.n, LANES) add(powers, power(ld_x(base + i * p.inner) - largest), i);
    float sum = sum_lanes(powers);
    EACH(i, row_lane(), p.n, LANES) {
        uint at = base + i * p.inner;
        float v = ld_x(at) - largest;
#if LOG
        put(at, isnan(sum) ? sum : v - log(sum));
#else
        put(at, power(v) / sum);
#endif
    }
}
