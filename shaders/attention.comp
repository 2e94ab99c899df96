// softmax(scores) x v of 32 queries by 128 threads, without the scores ever in memory: blocks of 64 keys in turn, the
// largest score and the sum of weights so far beside the weighted sum of values, which is scaled whenever the largest
// grows.
#include "common.glsl"
#include "attention.glsl"
#include "weights.glsl"
const uint ROWS = 32u, KEYS = 64u, SLAB = 4u;
// Vectors of four along the head, a slab at a time; one vector between rows keeps them in different banks.
const uint PITCH = SLAB + 1u;
shared vec4 s_q[ROWS * PITCH];
shared vec4 s_k[KEYS * PITCH];
shared float s_p[ROWS][KEYS + 1u];
shared float s_row[ROWS];
// A vector of v that serves four queries.
const uint COLS = COLUMNS;

void main() {
    uint t = gl_LocalInvocationID.x, tm = t / 16u, tn = t % 16u;
    uint tiles = (p.queries + ROWS - 1u) / ROWS, g = group();
    uint b = g / tiles / p.heads, h = g / tiles % p.heads;
    if (b >= p.batch) return;
    // Those that see most keys first.
    uint first = (tiles - 1u - g % tiles) * ROWS;
    uint kv = h / p.repeats;
    uint q_base = b * p.q_b + h * p.q_h, k_base = b * p.k_b + kv * p.k_h, v_base = b * p.v_b + kv * p.v_h;
    int place = place_of(b) + int(first), keys = keys_of(b);
    uint end = uint(end_key(place + int(min(ROWS, p.queries - first)) - 1, keys));
    uint start = min(uint(first_key(place)), end) / KEYS * KEYS;

    vec4 acc[4][COLS];
    [[unroll]] for (uint i = 0u; i < 4u; i++) [[unroll]] for (uint j = 0u; j < COLS; j++) acc[i][j] = vec4(0.0);
    // Four threads share a query's row of scores.
    uint own = t / 4u, part = t % 4u;
    float largest = LEAST, weights = 0.0;

    for (uint n0 = start; n0 < end; n0 += KEYS) {
        float s[4][4];
        [[unroll]] for (uint i = 0u; i < 4u; i++) [[unroll]] for (uint j = 0u; j < 4u; j++) s[i][j] = 0.0;
        for (uint d0 = 0u; d0 < p.head; d0 += 4u * SLAB) {
            uint d = d0 + 4u * (t % SLAB), r = t / SLAB;
            vec4 q = row_q(q_base + min(first + r, p.queries - 1u) * p.q_r, d, p.head);
            vec4 k0 = row_k(k_base + min(n0 + r, end - 1u) * p.k_r, d, p.head);
            vec4 k1 = row_k(k_base + min(n0 + r + 32u, end - 1u) * p.k_r, d, p.head);
            barrier();
            uint at = r * PITCH + t % SLAB;
            s_q[at] = q;
            s_k[at] = k0;
            s_k[at + 32u * PITCH] = k1;
            barrier();
            [[unroll]] for (uint c = 0u; c < SLAB; c++) {
                vec4 a[4], w[4];
                [[unroll]] for (uint i = 0u; i < 4u; i++) a[i] = s_q[(tm + 8u * i) * PITCH + c];
                [[unroll]] for (uint j = 0u; j < 4u; j++) w[j] = s_k[(tn + 16u * j) * PITCH + c];
                [[unroll]] for (uint i = 0u; i < 4u; i++)
                    [[unroll]] for (uint j = 0u; j < 4u; j++)
                        s[i][j] = fma(a[i].w, w[j].w, fma(a[i].z, w[j].z, fma(a[i].y, w[j].y, fma(a[i].x, w[j].x,
                            s[i][j]))));
            }
        }
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            uint r = tm + 8u * i, row = min(first + r, p.queries - 1u);
            int at = place + int(r);
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint key = n0 + tn + 16u * j;
                bool sees = int(key) >= first_key(at) && int(key) < end_key(at, keys);
                s_p[r][tn + 16u * j] = sees ? score(s[i][j], b, h, row, key) : LEAST;
            }
        }
        barrier();
        float here = LEAST;
        [[unroll]] for (uint x = 0u; x < 16u; x++) here = larger(here, s_p[own][part + 4u * x]);
        // The slab is read by nobody now.
        s_q[own][part] = here;
        barrier();
        vec4 all = s_q[own];
        here = larger(larger(larger(largest, all.x), larger(all.y, all.z)), all.w);
        float shift = shift_of(here), shrunk = power(largest - shift);
        largest = here;
        weights *= shrunk;
        [[unroll]] for (uint x = 0u; x < 16u; x++) {
            float w = power(s_p[own][part + 4u * x] - shift);
            s_p[own][part + 4u * x] = w;
            weights += w;
        }
        if (part == 0u) s_row[own] = shrunk;
        barrier();
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            float f = s_row[tm + 8u * i];
            [[unroll]] for (uint j = 0u; j < COLS; j++) acc[i][j] *= f;
        }
        for (uint n = 0u; n < min(KEYS, end - n0); n += 4u) {
            [[unroll]] for (uint u = 0u; u < 4u; u++) {
                bool is_key = n0 + n + u < end;
                uint base = v_base + min(n0 + n + u, end - 1u) * p.v_r;
                vec4 w[COLS];
                [[unroll]] for (uint j = 0u; j < COLS; j++) w[j] = row_v(base, 4u * (tn + 16u * j), is_key
                    ? p.v_head : 0u);
                [[unroll]] for (uint i = 0u; i < 4u; i++) {
                    float weight = s_p[tm + 8u * i][n + u];
                    [[unroll]] for (uint j = 0u; j < COLS; j++) acc[i][j] = fma(vec4(weight), w[j], acc[i][j]);
                }
            }
        }
    }
    barrier();
    s_q[own][part] = weights;
    barrier();
    if (part == 0u) {
        vec4 all = s_q[own];
        s_row[own] = (all.x + all.y) + (all.z + all.w);
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint r = tm + 8u * i, row = first + r;
        uint at = b * p.y_b + h * p.y_h + row * p.y_r;
        [[unroll]] for (uint j = 0u; j < COLS; j++)
            [[unroll]] for (uint x = 0u; x < 4u; x++) {
                uint e = 4u * (tn + 16u * j) + x;
                if (row < p.queries && e < p.v_head) put(at + e, divided(acc[i][j][x], s_row[r]));
            }
    }
}
