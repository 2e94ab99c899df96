// One operand of a concatenation: row `outer` of `run` elements goes to element `first` of the same row of the result, which has `pitch`.
#include "common.glsl"

void main() {
    uint i = invocation();
    if (i < p.n) st_y(i / p.run * p.pitch + p.first + i % p.run, ld_x(i));
}
