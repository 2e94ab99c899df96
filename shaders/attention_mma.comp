// softmax(scores) x v on cooperative matrices of SIDE x SIDE x SIDE: f16 operands, f32 sums. Rows are queries, and for
// each the heads that share its keys. A subgroup has SIDE of them, which stay in matrices as their weighted sums of
// values do; blocks of KEYS keys in turn are in shared memory. Either STRIPS subgroups have rows of their own and read
// the same keys, or WAYS subgroups have the same rows and each its own blocks in turn, until their sums meet: then
// none waits for others on the way. Scores go through shared memory, where an invocation has part of a row of them, so
// that nothing depends on where a matrix has its elements.
#include "common.glsl"
#include "attention.glsl"
#include "weights.glsl"
const uint SUBGROUP = SHARE * SIDE, WARPS = STRIPS * WAYS, THREADS = WARPS * SUBGROUP, ROWS = STRIPS * SIDE;
// Lines of vectors of 8 elements of f16, with one more, so that lines begin in different banks.
const uint HEAD = 16u * HEAD16, VECTORS = HEAD / 8u, LINE = VECTORS + 1u, BLOCK = KEYS * LINE;
// Of vectors of 4 scores, of so many keys at a time; the weights in f16 of all take their place.
const uint AT_ONCE = min(KEYS, 32u), LINE_S = max(AT_ONCE / 4u, KEYS / 8u) + 1u, STRIP = SIDE * LINE_S;
const uint TILE = (1u + BOTH) * BLOCK, SCORES = WAYS * TILE;
// Of vectors of 4 sums, where those of ways meet.
const uint LINE_Y = HEAD / 4u + 1u, SUMS = WAYS > 1u ? WARPS * SIDE * LINE_Y : 0u;
shared uvec4 s_tile[max(max(SCORES + WARPS * STRIP, ROWS * LINE), SUMS)];
shared float s_lane[THREADS];
// One number for each row of a subgroup: by what its sum shrinks, in the end the sum of its weights; and the largest
// score.
shared float s_row[WARPS * SIDE];
#if WAYS_OF_K > 1
shared float s_most[WARPS * SIDE];
#define MEET() subgroupBarrier()
#else
#define MEET() barrier()
#endif
// SHARE invocations have a row of scores, so many each, and so many of those that are there at a time.
const uint OWN = KEYS / SHARE, OWN_AT_ONCE = AT_ONCE / SHARE;
// Vectors of k and of v that an invocation brings, of those that share them.
const uint BRINGERS = STRIPS * SUBGROUP, LOADS = (KEYS * VECTORS + BRINGERS - 1u) / BRINGERS;
uvec4 next_k[LOADS], next_v[LOADS];

// Subgroups need not be numbered as invocations are.
uint thread() { return gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID; }
uint bringer() { return gl_SubgroupID % STRIPS * SUBGROUP + gl_SubgroupInvocationID; }

// Of keys past the last, the last again; values there are 0, as infinities would make NaN of weights of 0.
void fetch_k(uint base, uint n0, uint end) {
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint e = bringer() + i * BRINGERS, d = e % VECTORS * 8u;
        next_k[i] = d < p.head ? v_k[(base + min(n0 + e / VECTORS, end - 1u) * p.k_r + d) >> 3] : uvec4(0u);
    }
}
void fetch_v(uint base, uint n0, uint end) {
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint e = bringer() + i * BRINGERS, d = e % VECTORS * 8u, key = n0 + e / VECTORS;
        next_v[i] = d < p.v_head && key < end ? v_v[(base + key * p.v_r + d) >> 3] : uvec4(0u);
    }
}
#define PUT(next, at) [[unroll]] for (uint i = 0u; i < LOADS; i++) { \
    uint e = bringer() + i * BRINGERS; \
    if (KEYS * VECTORS % BRINGERS == 0u || e < KEYS * VECTORS) \
        s_tile[tile + (at) + e / VECTORS * LINE + e % VECTORS] = next[i]; }

// Where a row of the result begins.
uint place_of_row(uint b, uint h0, uint i) {
    return b * p.y_b + (h0 + i % p.repeats) * p.y_h + i / p.repeats * p.y_r;
}

void main() {
    uint all = p.queries * p.repeats, tiles = (all + ROWS - 1u) / ROWS, kv_heads = p.heads / p.repeats, g = group();
    uint b = g / tiles / kv_heads, kv = g / tiles % kv_heads;
    if (b >= p.batch) return;
    // Those that see most keys first.
    uint first = (tiles - 1u - g % tiles) * ROWS, h0 = kv * p.repeats;
    uint k_base = b * p.k_b + kv * p.k_h, v_base = b * p.v_b + kv * p.v_h;
    int place = place_of(b), keys = keys_of(b);
    uint end = uint(end_key(place + int((min(first + ROWS, all) - 1u) / p.repeats), keys));
    uint start = min(uint(first_key(place + int(first / p.repeats))), end) / KEYS * KEYS;
    uint strip = gl_SubgroupID % STRIPS * SIDE, lane = gl_SubgroupInvocationID;
    uint own = lane / SHARE, part = lane % SHARE, own_row = gl_SubgroupID * SIDE + own;
    uint tile = gl_SubgroupID / STRIPS * TILE, scores = SCORES + gl_SubgroupID * STRIP;
    uint turn = gl_SubgroupID / STRIPS * KEYS;
    if (start < end) {
        fetch_k(k_base, start + turn, end);
        fetch_v(v_base, start + turn, end);
    }

    // Rows of all subgroups, where keys will be; of those past the last, the last again.
    [[unroll]] for (uint i = 0u; i < (ROWS * VECTORS + THREADS - 1u) / THREADS; i++) {
        uint e = thread() + i * THREADS, r = e / VECTORS, d = e % VECTORS * 8u;
        uint n = min(first + r, all - 1u);
        uint at = b * p.q_b + (h0 + n % p.repeats) * p.q_h + n / p.repeats * p.q_r;
        uvec4 v = d < p.head ? v_q[(at + d) >> 3] : uvec4(0u);
        if (ROWS * VECTORS % THREADS == 0u || r < ROWS) s_tile[r * LINE + e % VECTORS] = v;
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
    uint own_n = min(first + strip + own, all - 1u), row = own_n / p.repeats, h = h0 + own_n % p.repeats;
    int at = place + int(row);
    uint row_start = uint(first_key(at)), row_end = uint(end_key(at, keys));
    float largest = LEAST, weights = 0.0;
    barrier();
    // All ways come round as often, the last time some without keys: a driver may have subgroups meet as workgroups do.
    [[dont_unroll]] for (uint n1 = start; n1 < end; n1 += KEYS * WAYS) {
        uint n0 = n1 + turn;
        MEET();
        PUT(next_k, 0u)
#if BOTH
        PUT(next_v, BLOCK)
#endif
        MEET();
        uint next = min(n0 + KEYS * WAYS, end - 1u);
        fetch_k(k_base, next, end);
#if BOTH
        fetch_v(v_base, next, end);
#endif
        float w[OWN], here = LEAST;
        [[unroll]] for (uint c = 0u; c < KEYS / AT_ONCE; c++) {
            coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator> s[AT_ONCE / SIDE];
            [[unroll]] for (uint j = 0u; j < AT_ONCE / SIDE; j++)
                s[j] = coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>(0.0);
            [[unroll]] for (uint d = 0u; d < HEAD / SIDE; d++)
                [[unroll]] for (uint j = 0u; j < AT_ONCE / SIDE; j++) {
                    coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> k;
                    coopMatLoad(k, s_tile, tile + (c * AT_ONCE + j * SIDE) * LINE + d * (SIDE / 8u), LINE,
                        gl_CooperativeMatrixLayoutColumnMajor);
                    s[j] = coopMatMulAdd(q[d], k, s[j]);
                }
            if (c > 0u) subgroupBarrier();
            [[unroll]] for (uint j = 0u; j < AT_ONCE / SIDE; j++)
                coopMatStore(s[j], s_tile, scores + j * (SIDE / 4u), LINE_S, gl_CooperativeMatrixLayoutRowMajor);
            subgroupBarrier();
            [[unroll]] for (uint x = 0u; x < OWN_AT_ONCE / 4u; x++) {
                vec4 v = uintBitsToFloat(s_tile[scores + own * LINE_S + part * (OWN_AT_ONCE / 4u) + x]);
                [[unroll]] for (uint y = 0u; y < 4u; y++) {
                    uint key = n0 + c * AT_ONCE + part * OWN_AT_ONCE + 4u * x + y;
                    float one = key >= row_start && key < row_end ? score(v[y], b, h, row, key) : LEAST;
                    w[c * OWN_AT_ONCE + 4u * x + y] = one;
                    here = max(here, one);
                }
            }
        }
        s_lane[thread()] = here;
        subgroupBarrier();
        // Of NaN it may be either: the weight of such a score is NaN.
        here = largest;
        [[unroll]] for (uint x = 0u; x < SHARE; x++)
            here = max(here, s_lane[gl_SubgroupID * SUBGROUP + own * SHARE + x]);
        float shift = shift_of(here), factor = power(largest - shift);
        largest = here;
        weights *= factor;
        [[unroll]] for (uint x = 0u; x < OWN; x++) {
            w[x] = power(w[x] - shift);
            weights += w[x];
        }
        [[unroll]] for (uint x = 0u; x < OWN / 8u; x++) {
            uvec4 v;
            [[unroll]] for (uint y = 0u; y < 4u; y++)
                v[y] = packHalf2x16(vec2(w[8u * x + 2u * y], w[8u * x + 2u * y + 1u]));
            uint at_once = 8u * x / OWN_AT_ONCE, from = 8u * x % OWN_AT_ONCE;
            s_tile[scores + own * LINE_S + (at_once * AT_ONCE + part * OWN_AT_ONCE + from) / 8u] = v;
        }
        if (part == 0u) s_row[own_row] = factor;
        subgroupBarrier();
#if !BOTH
        MEET();
        PUT(next_v, 0u)
        MEET();
        fetch_v(v_base, next, end);
#endif
        coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator> shrunk;
        coopMatLoad(shrunk, s_row, gl_SubgroupID * SIDE, 0u, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++) sums[j] = sums[j] * shrunk;
        [[unroll]] for (uint n = 0u; n < KEYS / SIDE; n++) {
            coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA> w;
            coopMatLoad(w, s_tile, scores + n * (SIDE / 8u), LINE_S, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++) {
                coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> v;
                coopMatLoad(v, s_tile, tile + BOTH * BLOCK + n * SIDE * LINE + j * (SIDE / 8u), LINE,
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
    if (part == 0u) s_row[own_row] = total;
#if WAYS_OF_K > 1
    if (part == 0u) s_most[own_row] = largest;
    barrier();
    [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++)
        coopMatStore(sums[j], s_tile, gl_SubgroupID * SIDE * LINE_Y + j * (SIDE / 4u), LINE_Y,
            gl_CooperativeMatrixLayoutRowMajor);
    barrier();
    [[unroll]] for (uint x = 0u; x < (SIDE * VECTORS + THREADS - 1u) / THREADS; x++) {
        uint i = thread() + x * THREADS, r = min(i / VECTORS, SIDE - 1u), e = i % VECTORS * 8u;
        float most = LEAST, factor[WAYS], total = 0.0, y[8];
        [[unroll]] for (uint w = 0u; w < WAYS; w++) most = larger(most, s_most[w * SIDE + r]);
        [[unroll]] for (uint w = 0u; w < WAYS; w++) {
            factor[w] = power(s_most[w * SIDE + r] - shift_of(most));
            total += factor[w] * s_row[w * SIDE + r];
        }
        [[unroll]] for (uint z = 0u; z < 2u; z++) {
            vec4 sum = vec4(0.0);
            [[unroll]] for (uint w = 0u; w < WAYS; w++)
                sum += factor[w] * uintBitsToFloat(s_tile[(w * SIDE + r) * LINE_Y + e / 4u + z]);
            [[unroll]] for (uint u = 0u; u < 4u; u++) y[4u * z + u] = divided(sum[u], total);
        }
        if (i < SIDE * VECTORS && first + r < all && e < p.v_head) puts(place_of_row(b, h0, first + r) + e, y);
    }
#else
    [[unroll]] for (uint j = 0u; j < HEAD / SIDE; j++) {
        subgroupBarrier();
        coopMatStore(sums[j], s_tile, scores, LINE_S, gl_CooperativeMatrixLayoutRowMajor);
        subgroupBarrier();
        [[unroll]] for (uint x = 0u; x < (SIDE * SIDE / 8u + SUBGROUP - 1u) / SUBGROUP; x++) {
            uint i = lane + x * SUBGROUP, r = min(i / (SIDE / 8u), SIDE - 1u), c = i % (SIDE / 8u) * 8u;
            uint e = j * SIDE + c;
            float y[8];
            [[unroll]] for (uint z = 0u; z < 2u; z++) {
                vec4 sum = uintBitsToFloat(s_tile[scores + r * LINE_S + c / 4u + z]);
                [[unroll]] for (uint u = 0u; u < 4u; u++)
                    y[4u * z + u] = divided(sum[u], s_row[gl_SubgroupID * SIDE + r]);
            }
            if (i < SIDE * SIDE / 8u && first + strip + r < all && e < p.v_head)
                puts(place_of_row(b, h0, first + strip + r) + e, y);
        }
    }
#endif
}
