// A workgroup a query: the parts of its chunks, each scaled from its own largest score to that of all, in the order of
// the chunks.
#include "common.glsl"
#include "power.glsl"
#include "weights.glsl"
shared float s_most[128], s_factor[128];

void main() {
    uint t = gl_LocalInvocationID.x, i = group();
    if (i >= p.rows) return;
    uint row = i % p.queries, h = i / p.queries % p.heads, b = i / p.queries / p.heads;
    uint width = p.v_head + 2u, base = i * p.chunks * width;
    float most = LEAST;
    for (uint c = t; c < p.chunks; c += 128u) most = larger(most, ld_parts(base + c * width + p.v_head));
    s_most[t] = most;
    barrier();
#define FOLD(n) if (t < n) s_most[t] = larger(s_most[t], s_most[t + n]); barrier();
    FOLD(64u) FOLD(32u) FOLD(16u) FOLD(8u) FOLD(4u) FOLD(2u) FOLD(1u)
#undef FOLD
    most = shift_of(s_most[0]);
    float sum[2], weights = 0.0;
    sum[0] = sum[1] = 0.0;
    for (uint c0 = 0u; c0 < p.chunks; c0 += 128u) {
        barrier();
        if (c0 + t < p.chunks) {
            uint at = base + (c0 + t) * width + p.v_head;
            float f = power(ld_parts(at) - most);
            s_factor[t] = f;
            s_most[t] = f * ld_parts(at + 1u);
        }
        barrier();
        uint here = min(128u, p.chunks - c0);
        for (uint c = 0u; c < here; c += 8u) {
            float v[8][2];
            [[unroll]] for (uint u = 0u; u < 8u; u++)
                [[unroll]] for (uint x = 0u; x < 2u; x++) {
                    uint e = t + 128u * x;
                    v[u][x] = c + u < here && e < p.v_head ? ld_parts(base + (c0 + c + u) * width + e) : 0.0;
                }
            [[unroll]] for (uint u = 0u; u < 8u; u++) {
                bool is_here = c + u < here;
                float f = is_here ? s_factor[c + u] : 0.0;
                weights += is_here ? s_most[c + u] : 0.0;
                [[unroll]] for (uint x = 0u; x < 2u; x++) sum[x] = fma(f, v[u][x], sum[x]);
            }
        }
    }
    [[unroll]] for (uint x = 0u; x < 2u; x++) {
        uint e = t + 128u * x;
        if (e < p.v_head) put(b * p.y_b + h * p.y_h + row * p.y_r + e, divided(sum[x], weights));
    }
}
