// y[outer, index, inner] = data[outer, indices[index], inner]. Where the rows of data come in slices, this dispatch
// holds those from `first` on, `size` of `total`, and leaves the others' elements alone.
#include "common.glsl"
#include "generic.glsl"

void main() {
    uint i = invocation() * WIDTH;
    if (i >= p.n) return;
    uint run = i / p.inner, inner = i - run * p.inner, outer = run / p.n_indices;
    int row = to_int(ld_indices(run - outer * p.n_indices));
    row = clamp(row < 0 ? row + int(p.total) : row, 0, int(p.total) - 1) - int(p.first);
    if (row < 0 || uint(row) >= p.size) return;
    V_OWN v[WIDTH];
#if PACKED_data
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] = value_data(uint(row), inner + e);
#else
    lds_data((outer * p.size + uint(row)) * p.inner + inner, v);
#endif
    puts(i, v);
}
