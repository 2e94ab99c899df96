// y[outer, index, inner] = data[outer, indices[index], inner]. Where the rows of data come in slices, this dispatch holds those from
// `first` on, `size` of `total`, and leaves the others' elements alone.
#include "common.glsl"
#include "generic.glsl"

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    uint inner = i % p.inner, outer = i / p.inner / p.n_indices;
    int row = to_int(ld_indices(i / p.inner % p.n_indices));
    row = clamp(row < 0 ? row + int(p.total) : row, 0, int(p.total) - 1) - int(p.first);
    if (row < 0 || uint(row) >= p.size) return;
#if PACKED_data
    put(i, value_data(uint(row), inner));
#else
    put(i, ld_data((outer * p.size + uint(row)) * p.inner + inner));
#endif
}
