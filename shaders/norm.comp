// (x - mean) / sqrt(variance + epsilon) * scale + bias along rows of n elements; without the mean with RMS. In two
// passes, because the difference of mean square and squared mean loses digits; squares beyond f32 take a third.
#include "common.glsl"
#define ROW_T float
#include "row.glsl"
#include "quotient.glsl"

void main() {
    uint row = row_index();
    if (row >= p.rows) return;
    uint base = row * p.n;
    float mean = 0.0;
#if RMS == 0
    Sum sum = no_sum();
    EACH(i, row_lane(), p.n, LANES) add(sum, ld_x(base + i), i);
    // Exact, so that nothing is left of numbers that are all the same.
    mean = quotient(sum_lanes(sum), float(p.n));
#endif
    Sum squares = no_sum();
    EACH(i, row_lane(), p.n, LANES) {
        float v = ld_x(base + i) - mean;
        add(squares, v * v, i);
    }
    float square = sum_lanes(squares) / float(p.n), scale = 1.0;
    if (square > 3.4028235e38) {
        // Squares beyond f32: of values a power of two smaller.
        scale = uintBitsToFloat(0x1f800000u);
        squares = no_sum();
        EACH(i, row_lane(), p.n, LANES) {
            float v = (ld_x(base + i) - mean) * scale;
            add(squares, v * v, i);
        }
        square = sum_lanes(squares) / float(p.n);
    }
    float factor = scale / sqrt(square + p.epsilon * scale * scale);
    EACH(i, row_lane(), p.n, LANES) {
        float v = (ld_x(base + i) - mean) * factor;
#if HAS_scale
        v *= ld_scale(i);
#endif
#if HAS_bias
        v += ld_bias(i);
#endif
        put(base + i, v);
    }
}
