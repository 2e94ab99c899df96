// y[m, n] = a[m, k] x b[n, k] on cooperative matrices of 16x16x16: a of f16, b of f16 or packed. Matrices are filled
// element by element from what each lane reads of memory, 16 neighbours of a row at a time: no slab lies in shared
// memory, and no subgroup waits for another before the sums are added. WAYS subgroups share the reduction axis, each
// takes every WAYS-th chunk of 64 of it, the next on its way to registers meanwhile. Which terms are multiplied when
// does not matter, as long as both operands have them in the same order.
//
// Vulkan does not say which elements of a matrix a lane has. Each subgroup looks; where they are others than the text
// takes them to be, elements of the result are computed one by one, which is slow and right.
#include "common.glsl"
#include "mma_operands.glsl"
const uint MATRICES_M = TILE_M / 16u, MATRICES_N = TILE_N / 16u, CHUNK = 64u, THREADS = WAYS * 32u;
// Lines of sums, in vectors, and the sums of a subgroup.
const uint LINE_Y = TILE_N / 4u + 1u, SUMS = TILE_M * LINE_Y;
shared uvec4 s_sums[max(SUMS * ((WAYS + 1u) / 2u), WAYS * 32u)];
shared uint s_is_other;
#define MATRIX_A coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define MATRIX_B coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define MATRIX_Y coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>

#if PACKED_b == 4
const uint WORDS_B = 2u;
#elif PACKED_b == 8
const uint WORDS_B = 4u;
#else
const uint WORDS_B = 8u;
#endif
// What a lane has of a chunk of one row of b, and of a.
struct ChunkB {
    uint w[WORDS_B];
#if PACKED_b
    float scale, zero;
#endif
};
struct ChunkA {
    uvec4 v[2];
};
// The rows of matrices i that a lane has are `row()` and 8 more; its elements of a chunk begin at `column()`.
uint row() { return gl_SubgroupInvocationID / 4u; }
uint column() { return gl_SubgroupInvocationID % 4u * 16u; }
ChunkA a0[MATRICES_M][2], a1[MATRICES_M][2];
ChunkB b0[MATRICES_N][2], b1[MATRICES_N][2];
MATRIX_Y sums[MATRICES_M][MATRICES_N];

ChunkA fetch_a(uint m, uint k) {
    ChunkA chunk;
    uint at = (m * p.k + k) >> 3;
    chunk.v[0] = v_a[at];
    chunk.v[1] = v_a[at + 1u];
    return chunk;
}

ChunkB fetch_b(uint n, uint k) {
    ChunkB chunk;
#if PACKED_b
    uint word = k / (32u / PACKED_b);
#if PACKED_b == 8
    uvec4 v = v_b[n * (p.b_pitch >> 2) + (word >> 2)];
    chunk.w[0] = v.x;
    chunk.w[1] = v.y;
    chunk.w[2] = v.z;
    chunk.w[3] = v.w;
#else
    chunk.w[0] = raw_b(n, word);
    chunk.w[1] = raw_b(n, word + 1u);
#endif
    chunk.scale = scale_b(n, k);
    chunk.zero = 0.0;
#if ZEROS_b
    chunk.zero = float(ZERO_b(n, k));
#endif
#else
    uint at = (n * p.k + k) >> 3;
    uvec4 v = v_b[at], w = v_b[at + 1u];
    chunk.w[0] = v.x;
    chunk.w[1] = v.y;
    chunk.w[2] = v.z;
    chunk.w[3] = v.w;
    chunk.w[4] = w.x;
    chunk.w[5] = w.y;
    chunk.w[6] = w.z;
    chunk.w[7] = w.w;
#endif
    return chunk;
}

// Eight neighbours as four pairs, in the order in which codes become pairs.
uvec4 pairs_of_a(uvec4 v) {
#if PACKED_b == 4
    return uvec4(low_halves(v.x, v.z), high_halves(v.x, v.z), low_halves(v.y, v.w), high_halves(v.y, v.w));
#elif PACKED_b == 8
    return uvec4(low_halves(v.x, v.y), high_halves(v.x, v.y), low_halves(v.z, v.w), high_halves(v.z, v.w));
#else
    return v;
#endif
}
uvec4 pairs_of_b(ChunkB chunk, const uint half_chunk) {
#if PACKED_b
    PartB part;
    part.scale = chunk.scale;
    part.zero = chunk.zero;
#if PACKED_b == 4
    uint w = chunk.w[half_chunk] ^ 0x88888888u;
    return uvec4(f16_of_codes(w & 0x000f000fu, part), f16_of_codes((w >> 4) & 0x000f000fu, part),
        f16_of_codes((w >> 8) & 0x000f000fu, part), f16_of_codes((w >> 12) & 0x000f000fu, part));
#else
    uint v = chunk.w[2u * half_chunk] ^ 0x80808080u, w = chunk.w[2u * half_chunk + 1u] ^ 0x80808080u;
    return uvec4(f16_of_codes(v & 0x00ff00ffu, part), f16_of_codes((v >> 8) & 0x00ff00ffu, part),
        f16_of_codes(w & 0x00ff00ffu, part), f16_of_codes((w >> 8) & 0x00ff00ffu, part));
#endif
#else
    const uint at = 4u * half_chunk;
    return uvec4(chunk.w[at], chunk.w[at + 1u], chunk.w[at + 2u], chunk.w[at + 3u]);
#endif
}

// Two rows, two pairs of each.
#define FILL(matrix, p, q, r, s) { \
    f16vec2 pair = unpackFloat2x16(p); \
    matrix[0] = pair.x; \
    matrix[1] = pair.y; \
    pair = unpackFloat2x16(q); \
    matrix[2] = pair.x; \
    matrix[3] = pair.y; \
    pair = unpackFloat2x16(r); \
    matrix[4] = pair.x; \
    matrix[5] = pair.y; \
    pair = unpackFloat2x16(s); \
    matrix[6] = pair.x; \
    matrix[7] = pair.y; \
}

#define FETCH(a, b, m0, n0, k0) { \
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
        [[unroll]] for (uint h = 0u; h < 2u; h++) \
            b[j][h] = fetch_b(min(n0 + j * 16u + h * 8u + row(), p.n - 1u), k0 + column()); \
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) \
        [[unroll]] for (uint h = 0u; h < 2u; h++) \
            a[i][h] = fetch_a(min(m0 + i * 16u + h * 8u + row(), p.m - 1u), k0 + column()); \
}

#define MULTIPLY(a, b) [[unroll]] for (uint s = 0u; s < 2u; s++) { \
    MATRIX_B of_b[MATRICES_N][2]; \
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) { \
        uvec4 low = pairs_of_b(b[j][0], s), high = pairs_of_b(b[j][1], s); \
        FILL(of_b[j][0], low.x, low.y, high.x, high.y) \
        FILL(of_b[j][1], low.z, low.w, high.z, high.w) \
    } \
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) { \
        uvec4 low = pairs_of_a(a[i][0].v[s]), high = pairs_of_a(a[i][1].v[s]); \
        MATRIX_A of_a; \
        FILL(of_a, low.x, low.y, high.x, high.y) \
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
            sums[i][j] = coopMatMulAdd(of_a, of_b[j][0], sums[i][j]); \
        FILL(of_a, low.z, low.w, high.z, high.w) \
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
            sums[i][j] = coopMatMulAdd(of_a, of_b[j][1], sums[i][j]); \
    } \
}

// Whether a lane has other elements of matrices than FILL takes it to have: of one whose elements are their numbers.
bool is_other() {
    uint first = gl_SubgroupInvocationID * 8u, at = gl_SubgroupID * 32u;
    vec4 low = vec4(first, first + 1u, first + 2u, first + 3u), high = low + 4.0;
    s_sums[at + gl_SubgroupInvocationID] = uvec4(packHalf2x16(low.xy), packHalf2x16(low.zw), packHalf2x16(high.xy),
        packHalf2x16(high.zw));
    subgroupBarrier();
    MATRIX_A a;
    MATRIX_B b;
    coopMatLoad(a, s_sums, at, 2u, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(b, s_sums, at, 2u, gl_CooperativeMatrixLayoutColumnMajor);
    bool other = gl_SubgroupSize != 32u;
    [[unroll]] for (uint e = 0u; e < 8u; e++) {
        uint r = row() + e / 4u * 8u, c = column() / 8u + e % 2u + e / 2u % 2u * 8u;
        other = other || float(a[e]) != float(r * 16u + c) || float(b[e]) != float(r * 16u + c);
    }
    return other;
}

float ld_element_of_b(uint n, uint k) {
#if PACKED_b
    return value_b(n, k);
#else
    return ld_b(n * p.k + k);
#endif
}

void main() {
    uint n_tiles = (p.n + TILE_N - 1u) / TILE_N, m_tiles = (p.m + TILE_M - 1u) / TILE_M;
    uint g = group();
    if (g / n_tiles >= m_tiles) return;
    uint m0 = g / n_tiles * TILE_M, n0 = g % n_tiles * TILE_N, way = gl_SubgroupID;
    uint thread = way * 32u + gl_SubgroupInvocationID;
    s_is_other = 0u;
    barrier();
    if (is_other()) s_is_other = 1u;
    uint n_chunks = p.k / CHUNK;
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) sums[i][j] = MATRIX_Y(0.0);
    barrier();
    bool is_slow = s_is_other != 0u;
    if (!is_slow && way < n_chunks) {
        uint last = n_chunks - 1u;
        FETCH(a0, b0, m0, n0, way * CHUNK)
        [[dont_unroll]] for (uint c = way; c < n_chunks; c += 2u * WAYS) {
            FETCH(a1, b1, m0, n0, min(c + WAYS, last) * CHUNK)
            MULTIPLY(a0, b0)
            FETCH(a0, b0, m0, n0, min(c + 2u * WAYS, last) * CHUNK)
            if (c + WAYS < n_chunks) MULTIPLY(a1, b1)
        }
    }
    // Half of the subgroups leave their sums to the other half, until one has all.
    [[unroll]] for (uint half_ways = WAYS / 2u; half_ways > 0u; half_ways /= 2u) {
        if (way >= half_ways && way < 2u * half_ways) {
            [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
                [[unroll]] for (uint j = 0u; j < MATRICES_N; j++)
                    coopMatStore(sums[i][j], s_sums, (way - half_ways) * SUMS + i * 16u * LINE_Y + j * 4u, LINE_Y,
                        gl_CooperativeMatrixLayoutRowMajor);
        }
        barrier();
        if (way < half_ways) {
            [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
                [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) {
                    MATRIX_Y other;
                    coopMatLoad(other, s_sums, way * SUMS + i * 16u * LINE_Y + j * 4u, LINE_Y,
                        gl_CooperativeMatrixLayoutRowMajor);
                    sums[i][j] = sums[i][j] + other;
                }
        }
        barrier();
    }
    if (way == 0u) {
        [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
            [[unroll]] for (uint j = 0u; j < MATRICES_N; j++)
                coopMatStore(sums[i][j], s_sums, i * 16u * LINE_Y + j * 4u, LINE_Y,
                    gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
    [[dont_unroll]] for (uint e = thread; e < TILE_M * TILE_N; e += THREADS) {
        uint r = e / TILE_N, c = e % TILE_N, m = m0 + r, n = n0 + c;
        if (m >= p.m || n >= p.n) continue;
        float sum = uintBitsToFloat(s_sums[r * LINE_Y + c / 4u][c % 4u]);
        if (is_slow) {
            sum = 0.0;
            for (uint k = 0u; k < p.k; k += 8u)
                [[unroll]] for (uint s = 0u; s < 8u; s++)
                    sum = fma(ld_a(m * p.k + k + s), ld_element_of_b(n, k + s), sum);
        }
        put(m * p.n_total + p.n_base + n, sum);
    }
}
