// softmax(scores) x v on cooperative matrices of SIDE x SIDE x SIDE: f16 operands, f32 sums. A subgroup has SIDE
// queries, which stay in matrices as their weighted sums of values do; blocks of 32 keys in turn lie in shared memory
// for all subgroups. Scores go through shared memory, where an invocation has part of a row of them, so that nothing
// depends on where a matrix has its elements.
#include "common.glsl"
#include "attention.glsl"
#include "weights.glsl"
const uint SUBGROUP = SHARE * SIDE, WARPS = 128u / SUBGROUP, ROWS = WARPS * SIDE, KEYS = 32u;
// Lines of vectors of 8 elements of f16, with one more, so that lines begin in different banks.
const uint HEAD = 16u * HEAD16, VECTORS = HEAD / 8u, LINE = VECTORS + 1u, BLOCK = KEYS * LINE;
// Of vectors of 4 scores; the weights in f16 take their place.
const uint LINE_S = KEYS / 4u + 1u, STRIP = SIDE * LINE_S, SCORES = (1u + BOTH) * BLOCK;
shared uvec4 s_tile[max(SCORES + WARPS * STRIP, ROWS * LINE)];
shared float s_lane[128];
// One number for each query: by what its sum shrinks, in the end the sum of its weights.
shared float s_row[ROWS];
// SHARE invocations have a row of scores, so many each.
const uint OWN = KEYS / SHARE;
const uint LOADS = (KEYS * VECTORS + 127u) / 128u;
uvec4 next_k[LOADS], next_v[LOADS];

// Subgroups need not be numbered as invocations are.
uint thread() { return gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID; }

// Of keys past the last, the last again; values there are 0, as infinities would make NaN of weights of 0.
void fetch_k(uint base, uint n0, uint end) {
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint e = thread() + i * 128u, d = e % VECTORS * 8u;
        next_k[i] = d < p.head ? v_k[(base + min(n0 + e / VECTORS, end - 1u) * p.k_r + d) >> 3] : uvec4(0u);
    }
}
void fetch_v(uint base, uint n0, uint end) {
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint e = thread() + i * 128u, d = e % VECTORS * 8u, key = n0 + e / VECTORS;
        next_v[i] = d < p.v_head && key < end ? v_v[(base + key * p.v_r + d) >> 3] : uvec4(0u);
    }
}
#define PUT(next, at) [[unroll]] for (uint i = 0u; i < LOADS; i++) { \
    uint e = thread() + i * 128u; \
    if (KEYS * VECTORS % 128u == 0u || e < KEYS * VECTORS) s_tile[at + e / VECTORS * LINE + e % VECTORS] = next[i]; }

void main() {
    uint tiles = (p.queries + ROWS - 1u) / ROWS, g = group();
    uint b = g / tiles / p.heads, h = g / tiles % p.heads;
    if (b >= p.batch) return;
    // Those that see most keys first.
    uint first = (tiles - 1u - g % tiles) * ROWS, kv = h / p.repeats;
    uint q_base = b * p.q_b + h * p.q_h, k_base = b * p.k_b + kv * p.k_h, v_base = b * p.v_b + kv * p.v_h;
    int place = place_of(b) + int(first), keys = keys_of(b);
    uint end = uint(end_key(place + int(min(ROWS, p.queries - first)) - 1, keys));
    uint start = min(uint(first_key(place)), end) / KEYS * KEYS;
    uint strip = gl_SubgroupID * SIDE, lane = gl_SubgroupInvocationID, own = lane / SHARE, part = lane % SHARE;
    uint scores = SCORES + gl_SubgroupID * STRIP;

    // Queries of all subgroups, where keys will lie; of rows past the last, the last again.
    [[unroll]] for (uint i = 0u; i < (ROWS * VECTORS + 127u) / 128u; i++) {
        uint e = thread() + i * 128u, r = e / VECTORS, d = e % VECTORS * 8u;
        uvec4 v = d < p.head ? v_q[(q_base + min(first + r, p.queries - 1u) * p.q_r + d) >> 3] : uvec4(0u);
        if (ROWS * VECTORS % 128u == 0u || r < ROWS) s_tile[r * LINE + e % VECTORS] = v;
    }
    barrier();
    coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA> q[HEAD / SIDE];
    [[unroll]] for (uint d = 0u; d < HEAD / SIDE; d++)
        coopMatLoad(q[d], s_tile, strip * LINE + d * (SIDE / 8u), LINE, gl_CooperativeMatrixLayoutRowMajor);
    coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator> sums[HEAD / SIDE];
    [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++)
        sums[j] = coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>(0.0);

    // The row of this invocation, and the keys that it sees. Where others of the workgroup see more, it has weights of
    // 0 for them.
    uint row = min(first + strip + own, p.queries - 1u);
    int at = place + int(strip + own);
    uint row_start = uint(first_key(at)), row_end = uint(end_key(at, keys));
    float largest = LEAST, weights = 0.0;
    if (start < end) {
        fetch_k(k_base, start, end);
        fetch_v(v_base, start, end);
    }
    [[dont_unroll]] for (uint n0 = start; n0 < end; n0 += KEYS) {
        barrier();
        PUT(next_k, 0u)
#if BOTH
        PUT(next_v, BLOCK)
#endif
        barrier();
        uint next = min(n0 + KEYS, end - 1u);
        fetch_k(k_base, next, end);
#if BOTH
        fetch_v(v_base, next, end);
#endif
        coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator> s[KEYS / SIDE];
        [[unroll]] for (uint j = 0u; j < KEYS / SIDE; j++)
            s[j] = coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>(0.0);
        [[unroll]] for (uint d = 0u; d < HEAD / SIDE; d++)
            [[unroll]] for (uint j = 0u; j < KEYS / SIDE; j++) {
                coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> k;
                coopMatLoad(k, s_tile, j * SIDE * LINE + d * (SIDE / 8u), LINE, gl_CooperativeMatrixLayoutColumnMajor);
                s[j] = coopMatMulAdd(q[d], k, s[j]);
            }
        [[unroll]] for (uint j = 0u; j < KEYS / SIDE; j++)
            coopMatStore(s[j], s_tile, scores + j * (SIDE / 4u), LINE_S, gl_CooperativeMatrixLayoutRowMajor);
        subgroupBarrier();
        float w[OWN], here = LEAST;
        [[unroll]] for (uint x = 0u; x < OWN / 4u; x++) {
            vec4 v = uintBitsToFloat(s_tile[scores + own * LINE_S + part * (OWN / 4u) + x]);
            [[unroll]] for (uint y = 0u; y < 4u; y++) {
                uint key = n0 + part * OWN + 4u * x + y;
                float one = key >= row_start && key < row_end ? score(v[y], b, h, row, key) : LEAST;
                w[4u * x + y] = one;
                here = larger(here, one);
            }
        }
        s_lane[thread()] = here;
        subgroupBarrier();
        here = largest;
        [[unroll]] for (uint x = 0u; x < SHARE; x++) here = larger(here, s_lane[gl_SubgroupID * SUBGROUP + own
            * SHARE + x]);
        float shift = shift_of(here), factor = power(largest - shift);
        largest = here;
        weights *= factor;
        [[unroll]] for (uint x = 0u; x < OWN; x++) {
            w[x] = power(w[x] - shift);
            weights += w[x];
        }
        [[unroll]] for (uint x = 0u; x < OWN / 8u; x++) {
            uvec4 v;
            [[unroll]] for (uint y = 0u; y < 4u; y++) v[y] = packHalf2x16(vec2(w[8u * x + 2u * y], w[8u * x + 2u
                * y + 1u]));
            s_tile[scores + own * LINE_S + part * (OWN / 8u) + x] = v;
        }
        if (part == 0u) s_row[strip + own] = factor;
        subgroupBarrier();
#if !BOTH
        barrier();
        PUT(next_v, 0u)
        barrier();
        fetch_v(v_base, next, end);
#endif
        coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator> shrunk;
        coopMatLoad(shrunk, s_row, strip, 0u, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++) sums[j] = sums[j] * shrunk;
        [[unroll]] for (uint n = 0u; n < KEYS / SIDE; n++) {
            coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA> w;
            coopMatLoad(w, s_tile, scores + n * (SIDE / 8u), LINE_S, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++) {
                coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> v;
                coopMatLoad(v, s_tile, BOTH * BLOCK + n * SIDE * LINE + j * (SIDE / 8u), LINE,
                    gl_CooperativeMatrixLayoutRowMajor);
                sums[j] = coopMatMulAdd(w, v, sums[j]);
            }
        }
    }
    s_lane[thread()] = weights;
    subgroupBarrier();
    float total = 0.0;
    [[unroll]] for (uint x = 0u; x < SHARE; x++) total += s_lane[gl_SubgroupID * SUBGROUP + own * SHARE + x];
    subgroupBarrier();
    if (part == 0u) s_row[strip + own] = total;
    [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++) {
        subgroupBarrier();
        coopMatStore(sums[j], s_tile, scores, LINE_S, gl_CooperativeMatrixLayoutRowMajor);
        subgroupBarrier();
        [[unroll]] for (uint x = 0u; x < SIDE * SIDE / SUBGROUP; x++) {
            uint i = lane + x * SUBGROUP, r = strip + i / SIDE, c = i % SIDE, e = j * SIDE + c;
            float sum = uintBitsToFloat(s_tile[scores + i / SIDE * LINE_S + c / 4u][c % 4u]);
            if (first + r < p.queries && e < p.v_head) put(b * p.y_b + h * p.y_h + (first + r) * p.y_r + e,
                divided(sum, s_row[r]));
        }
    }
}
