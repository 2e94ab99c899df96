// The bits of the largest magnitude of x, joined into a word that is 0 before. Each workgroup has a part.
#include "common.glsl"
shared uint s_most;

void main() {
    uint t = gl_LocalInvocationID.x, g = group();
    if (g >= p.parts) return;
    if (t == 0u) s_most = 0u;
    uint most = 0u;
    for (uint i = g * INVOCATIONS + t; i < p.n; i += p.parts * INVOCATIONS)
        most = max(most, floatBitsToUint(ld_x(i)) & 0x7fffffffu);
    barrier();
    atomicMax(s_most, most);
    barrier();
    if (t == 0u) atomicMax(d_y[0], int(s_most));
}
