// y[outer, at + row, inner] = x[outer, row, inner] from the position on that is in memory: the other rows of y stay.
// Rows beyond the axis are left out.
#include "common.glsl"
#include "generic.glsl"

void main() {
    uint i = invocation() * WIDTH;
    if (i >= p.n) return;
    uint run = i / p.inner, inner = i - run * p.inner, outer = run / p.n_rows;
    // A position below the axis wraps to one beyond it: rows are fewer than 2^31.
    uint row = run - outer * p.n_rows, place = uint(to_int(ld_at(0u))) + row;
    if (place >= p.size) return;
    T_x v[WIDTH];
    lds_x(i, v);
    sts_y((outer * p.size + place) * p.inner + inner, v);
}
