// y[i] = start + i * step: numbers counted from sizes.
#include "common.glsl"

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    st_y(i, p.start + int(i) * p.step);
}
