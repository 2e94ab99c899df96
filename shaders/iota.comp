// y[i] = start + i * step: numbers counted from sizes.
#include "common.glsl"
#include "generic.glsl"

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    st_y(i, plus(as_y(p.start), times(as_y(int(i)), as_y(p.step))));
}
