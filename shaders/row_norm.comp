// (x - mean) / sqrt(variance + epsilon) * scale + bias along rows of n elements that are held in registers; without the
// mean with RMS. The variance is that of what is held: the difference of mean square and squared mean loses digits.
#include "common.glsl"
#define MORE_PARTS
#include "held_row.glsl"
#include "quotient.glsl"

void main() {
    find_thread();
    uint base = row_index() * p.n;
    // All is read before lanes wait for one another.
    float x[HELD][WIDTH], mean = 0.0;
#if HAS_scale
    float scale[HELD][WIDTH];
#endif
#if HAS_bias
    float bias[HELD][WIDTH];
#endif
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) x[h][e] = 0.0;
        if (column(h) < p.n) lds_x(base + column(h), x[h]);
#if HAS_scale
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) scale[h][e] = 0.0;
        if (column(h) < p.n) lds_scale(column(h), scale[h]);
#endif
#if HAS_bias
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) bias[h][e] = 0.0;
        if (column(h) < p.n) lds_bias(column(h), bias[h]);
#endif
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) mean += x[h][e];
    }
#if RMS
    mean = 0.0;
#else
    // Exact, so that nothing is left of numbers that are all the same.
    mean = quotient(row_sum(mean), float(p.n));
#endif
    // Squares beyond f32 are those of values a power of two smaller. Both are summed: rows of a workgroup share
    // barriers.
    const float LESS = uintBitsToFloat(0x1f800000u);
    float square = 0.0, less = 0.0;
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) {
            x[h][e] -= mean;
            if (column(h) < p.n) {
                float v = x[h][e] * LESS;
                square += x[h][e] * x[h][e];
                less += v * v;
            }
        }
    }
    vec2 squares = row_sums(vec2(square, less)) / float(p.n);
    square = squares.x;
    less = squares.y;
    float factor = square > 3.4028235e38 ? LESS / sqrt(less + p.epsilon * LESS * LESS) : 1.0 / sqrt(square + p.epsilon);
    [[unroll]] for (uint h = 0u; h < HELD; h++) {
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) x[h][e] *= factor;
#if HAS_scale
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) x[h][e] *= scale[h][e];
#endif
#if HAS_bias
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) x[h][e] += bias[h][e];
#endif
        if (is_row() && column(h) < p.n) puts(base + column(h), x[h]);
    }
}
