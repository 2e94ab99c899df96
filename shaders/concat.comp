// One operand of a concatenation: row `outer` of `run` elements goes to element `first` of the same row of the result,
// which has `pitch`.
#include "common.glsl"

void main() {
    uint i = invocation() * WIDTH;
    if (i >= p.n) return;
    uint outer = i / p.run;
    T_x v[WIDTH];
    lds_x(i, v);
    sts_y(outer * p.pitch + p.first + (i - outer * p.run), v);
}
