// exp(x - max) over its sum, or the logarithm of that, of rows of n elements that are held in registers.
#include "common.glsl"
#include "held_row.glsl"
#include "power.glsl"

void main() {
    find_thread();
    uint base = row_index() * p.n;
    float x[HELD][WIDTH], largest = uintBitsToFloat(0xff800000u);
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) x[h][e] = uintBitsToFloat(0xff800000u);
        if (column(h) < p.n) lds_x(base + column(h), x[h]);
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) largest = larger(largest, x[h][e]);
    }
    largest = row_max(largest);
    float sum = 0.0;
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) {
            x[h][e] -= largest;
#if LOG
            sum += power(x[h][e]);
#else
            sum += x[h][e] = power(x[h][e]);
#endif
        }
    }
    sum = row_sum(sum);
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) {
#if LOG
            x[h][e] = isnan(sum) ? sum : x[h][e] - log(sum);
#else
            x[h][e] /= sum;
#endif
        }
        if (is_row() && column(h) < p.n) puts(base + column(h), x[h]);
    }
}
