// (x - mean) / sqrt(variance + epsilon) * scale + bias along rows of n elements; without the mean with RMS. In two passes, because the
// difference of mean square and squared mean loses digits.
#include "common.glsl"
#define ROW_T float
#include "row.glsl"

void main() {
    uint row = row_index();
    if (row >= p.rows) return;
    uint base = row * p.n;
    float mean = 0.0;
#if RMS == 0
    EACH(i, row_lane(), p.n, LANES) mean += ld_x(base + i);
    mean = join_lanes(JOIN_SUM, mean) / float(p.n);
#endif
    float square = 0.0;
    EACH(i, row_lane(), p.n, LANES) {
        float v = ld_x(base + i) - mean;
        square += v * v;
    }
    square = join_lanes(JOIN_SUM, square) / float(p.n);
    float factor = 1.0 / sqrt(square + p.epsilon);
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
