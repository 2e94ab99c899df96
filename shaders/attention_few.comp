// A chunk of 128 keys for few queries. First a thread a key: all its elements against those of every query, which are
// in shared memory. Then threads side by side along a row of v, LANES of them, sets of which take keys in turn; the
// sets meet in shared memory.
#include "common.glsl"
#include "attention.glsl"
#include "weights.glsl"
const uint KEYS = 128u, MAX_HEAD = 256u, LANES = COLUMNS == 64 ? 16u : 32u, WAYS = 128u / LANES;
// Vectors of four columns that a thread has of a row of v.
const uint PARTS = COLUMNS == 256 ? 2u : 1u;
// Keys whose values a thread has in flight.
const uint AHEAD = ROWS > 2u ? 4u : 8u;
const uint VECTORS = max(ROWS * MAX_HEAD / 4u, 2u * 128u);
shared vec4 s_q[VECTORS];
shared float s_p[ROWS][KEYS];
shared vec4 s_most[ROWS][4];
shared float s_weights[128];

void main() {
    uint t = gl_LocalInvocationID.x, all = p.queries * p.repeats, blocks = (all + ROWS - 1u) / ROWS;
    uint g = group(), chunk = g % p.chunks, block = g / p.chunks % blocks, kv_heads = p.heads / p.repeats;
    uint kv = g / p.chunks / blocks % kv_heads, b = g / p.chunks / blocks / kv_heads;
    if (b >= p.batch) return;
    int place = place_of(b), keys = keys_of(b);
    uint head4 = (p.head + 3u) / 4u, n0 = chunk * KEYS;
    // Of rows past the last, the last again. Rows are queries, and for each the heads that share the keys.
    uint h[ROWS], row[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uint i = min(block * ROWS + r, all - 1u);
        row[r] = i / p.repeats;
        h[r] = kv * p.repeats + i % p.repeats;
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        vec4 q = row_q(b * p.q_b + h[r] * p.q_h + row[r] * p.q_r, 4u * t, p.head);
        if (t < head4) s_q[r * (MAX_HEAD / 4u) + t] = q;
    }
    barrier();
    // What any of the rows sees of the chunk.
    uint last = row[ROWS - 1u];
    uint end = min(n0 + KEYS, uint(end_key(place + int(last), keys)));
    uint key = n0 + t;
    float s[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) s[r] = 0.0;
    if (key < end) {
        uint base = b * p.k_b + kv * p.k_h + key * p.k_r;
        for (uint c0 = 0u; c0 < head4; c0 += 8u) {
            vec4 k[8];
            [[unroll]] for (uint c = 0u; c < 8u; c++) k[c] = row_k(base, 4u * (c0 + c), p.head);
            [[unroll]] for (uint c = 0u; c < 8u; c++) {
                uint at = min(c0 + c, head4 - 1u);
                [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                    vec4 q = s_q[r * (MAX_HEAD / 4u) + at];
                    // Behind the end of a row k is 0, and so is what it is multiplied with.
                    if (c0 + c >= head4) q = vec4(0.0);
                    s[r] = fma(q.w, k[c].w, fma(q.z, k[c].z, fma(q.y, k[c].y, fma(q.x, k[c].x, s[r]))));
                }
            }
        }
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        int at = place + int(row[r]);
        bool sees = key < end && int(key) >= first_key(at) && int(key) < end_key(at, keys);
        s_p[r][t] = sees ? score(s[r], b, h[r], row[r], key) : LEAST;
    }
    barrier();
    if (t < 16u * ROWS) {
        float here = LEAST;
        [[unroll]] for (uint x = 0u; x < 8u; x++) here = larger(here, s_p[t / 16u][t % 16u + 16u * x]);
        s_most[t / 16u][t % 16u / 4u][t % 4u] = here;
    }
    barrier();
    float most[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        most[r] = LEAST;
        [[unroll]] for (uint x = 0u; x < 4u; x++) {
            vec4 v = s_most[r][x];
            most[r] = larger(most[r], larger(larger(v.x, v.y), larger(v.z, v.w)));
        }
        s_p[r][t] = power(s_p[r][t] - shift_of(most[r]));
    }
    barrier();
    uint lane = t % LANES, way = t / LANES;
    vec4 acc[ROWS][PARTS];
    float weights[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        [[unroll]] for (uint x = 0u; x < PARTS; x++) acc[r][x] = vec4(0.0);
        weights[r] = 0.0;
    }
    uint v_base = b * p.v_b + kv * p.v_h, n_here = end > n0 ? end - n0 : 0u;
    for (uint n = way; n < n_here; n += AHEAD * WAYS) {
        vec4 v[AHEAD][PARTS];
        [[unroll]] for (uint u = 0u; u < AHEAD; u++) {
            uint at = n + u * WAYS, base = v_base + (n0 + min(at, n_here - 1u)) * p.v_r, size = at < n_here
                ? p.v_head : 0u;
            [[unroll]] for (uint x = 0u; x < PARTS; x++) v[u][x] = row_v(base, 4u * lane + 128u * x, size);
        }
        [[unroll]] for (uint u = 0u; u < AHEAD; u++) {
            uint at = n + u * WAYS;
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                float w = at < n_here ? s_p[r][min(at, KEYS - 1u)] : 0.0;
                weights[r] += w;
                [[unroll]] for (uint x = 0u; x < PARTS; x++) acc[r][x] = fma(vec4(w), v[u][x], acc[r][x]);
            }
        }
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        barrier();
        [[unroll]] for (uint x = 0u; x < PARTS; x++) s_q[128u * x + t] = acc[r][x];
        s_weights[t] = weights[r];
        barrier();
        float total = 0.0;
        [[unroll]] for (uint w = 0u; w < WAYS; w++) total += s_weights[w * LANES];
        [[unroll]] for (uint x = 0u; x < PARTS; x++) {
            uint e = t + 128u * x;
            float sum = 0.0;
            [[unroll]] for (uint w = 0u; w < WAYS; w++) sum += s_q[128u * x + w * LANES + t / 4u % LANES][t % 4u];
            if (e < p.v_head && block * ROWS + r < all) {
#if WHOLE
                put(b * p.y_b + h[r] * p.y_h + row[r] * p.y_r + e, divided(sum, total));
#else
                uint at = (((b * p.heads + h[r]) * p.queries + row[r]) * p.chunks + chunk) * (p.v_head + 2u);
                put(at + e, sum);
                if (e == 0u) {
                    put(at + p.v_head, most[r]);
                    put(at + p.v_head + 1u, total);
                }
#endif
            }
        }
    }
}
