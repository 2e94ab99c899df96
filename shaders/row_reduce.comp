// One value of each row of n floats that is held in registers.
#include "common.glsl"
#include "held_row.glsl"
#include "quotient.glsl"

// Sums; of minima the negative is the maximum of negatives. A NaN is kept.
#if KIND == 2
#define NONE uintBitsToFloat(0xff800000u)
#define NO_ELEMENT NONE
#define JOIN(a, b) larger(a, b)
#elif KIND == 3
#define NONE uintBitsToFloat(0xff800000u)
#define NO_ELEMENT -NONE
#define JOIN(a, b) larger(a, -(b))
#else
#define NONE 0.0
#define NO_ELEMENT NONE
#define JOIN(a, b) (a + (b))
#endif

void main() {
    find_thread();
    uint row = row_index();
    float value = NONE;
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        float x[WIDTH];
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) x[e] = NO_ELEMENT;
        if (column(h) < p.n) lds_x(row * p.n + column(h), x);
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) value = JOIN(value, x[e]);
    }
#if KIND == 0
    value = row_sum(value);
#elif KIND == 1
    value = quotient(row_sum(value), float(p.n));
#elif KIND == 2
    value = row_max(value);
#else
    value = -row_max(value);
#endif
    if (is_row() && lane() == 0u) put(row, value);
}
