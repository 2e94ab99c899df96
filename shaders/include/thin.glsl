// One TILE_M x TILE_N tile of a product of f16 with f16 or packed rows on cooperative matrices of 16x16x16. Matrices
// are filled element by element from what each lane reads of memory, 16 neighbours of a row at a time: nothing passes
// through shared memory, and no subgroup waits for another before the sums are added. WAYS subgroups share the
// reduction axis, each takes every WAYS-th chunk of 64 of it, the next on its way to registers meanwhile. Which terms
// are multiplied when does not matter, as long as both operands have them in the same order.
//
// Vulkan does not say which elements of a matrix a lane has. Each subgroup looks; where they are others than the text
// takes them to be, elements of the result are computed one by one, which is slow and right.
//
// The includer has `struct RowA`, what a lane knows of a row of a, and `RowA row_of_a(uint m)`; `uvec4[2]
// part_of_a(RowA row, uint k, out uint mask)`, 16 elements from column k on, of which none counts where the mask is
// 0; `uint element_of_b(uint n)`, where row n of b begins, in elements, or its number where it is packed; `float
// slow_product(uint m, uint n)`; and `void tile_put(uint m, uint n, float v)`. The reduction axis is a multiple of
// 16; MASKED says whether masks may be 0.
const uint MATRICES_M = TILE_M / 16u, MATRICES_N = TILE_N / 16u, CHUNK = 64u, THREADS = WAYS * 32u;
// Lines of sums, in vectors, and the sums of a subgroup.
const uint LINE_Y = TILE_N / 4u + 1u, SUMS = TILE_M * LINE_Y;
shared uvec4 s_sums[max(SUMS * SLOTS, WAYS * 32u)];
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
    uint mask;
};
ChunkA a0[MATRICES_M][2], a1[MATRICES_M][2];
ChunkB b0[MATRICES_N][2], b1[MATRICES_N][2];
MATRIX_Y sums[MATRICES_M][MATRICES_N];
RowA rows_a[MATRICES_M][2];
uint rows_b[MATRICES_N][2];
// The rows of matrices that a lane has are `lane_row()` and 8 more; its elements of a chunk begin at `lane_column()`.
uint lane_row() { return gl_SubgroupInvocationID / 4u; }
uint lane_column() { return gl_SubgroupInvocationID % 4u * 16u; }

ChunkA fetch_a(RowA row, uint k, uint k_end) {
    ChunkA chunk;
    chunk.v = part_of_a(row, min(k, k_end - 16u), chunk.mask);
#if MASKED
    if (k >= k_end) chunk.mask = 0u;
#endif
    return chunk;
}

ChunkB fetch_b(uint row, uint k) {
    ChunkB chunk;
#if PACKED_b
    uint word = k / (32u / PACKED_b);
#if PACKED_b == 8
    uvec4 v = v_b[row * (p.b_pitch >> 2) + (word >> 2)];
    chunk.w[0] = v.x;
    chunk.w[1] = v.y;
    chunk.w[2] = v.z;
    chunk.w[3] = v.w;
#else
    chunk.w[0] = raw_b(row, word);
    chunk.w[1] = raw_b(row, word + 1u);
#endif
    chunk.scale = scale_b(row, k);
    chunk.zero = 0.0;
#if ZEROS_b
    chunk.zero = float(ZERO_b(row, k));
#endif
#else
    uint at = (row + k) >> 3;
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
uvec4 pairs_of_a(ChunkA chunk, const uint half_chunk) {
    uvec4 v = chunk.v[half_chunk];
#if MASKED
    v &= chunk.mask;
#endif
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
#define FILL(matrix, p0, p1, q0, q1) { \
    f16vec2 pair = unpackFloat2x16(p0); \
    matrix[0] = pair.x; \
    matrix[1] = pair.y; \
    pair = unpackFloat2x16(p1); \
    matrix[2] = pair.x; \
    matrix[3] = pair.y; \
    pair = unpackFloat2x16(q0); \
    matrix[4] = pair.x; \
    matrix[5] = pair.y; \
    pair = unpackFloat2x16(q1); \
    matrix[6] = pair.x; \
    matrix[7] = pair.y; \
}

#define FETCH(a, b, k) { \
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
        [[unroll]] for (uint h = 0u; h < 2u; h++) b[j][h] = fetch_b(rows_b[j][h], min(k, k_end - 16u)); \
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) \
        [[unroll]] for (uint h = 0u; h < 2u; h++) a[i][h] = fetch_a(rows_a[i][h], k, k_end); \
}

#define MULTIPLY(a, b) [[unroll]] for (uint s = 0u; s < 2u; s++) { \
    MATRIX_B of_b[MATRICES_N][2]; \
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) { \
        uvec4 low = pairs_of_b(b[j][0], s), high = pairs_of_b(b[j][1], s); \
        FILL(of_b[j][0], low.x, low.y, high.x, high.y) \
        FILL(of_b[j][1], low.z, low.w, high.z, high.w) \
    } \
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) { \
        uvec4 low = pairs_of_a(a[i][0], s), high = pairs_of_a(a[i][1], s); \
        MATRIX_A of_a; \
        FILL(of_a, low.x, low.y, high.x, high.y) \
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
            sums[i][j] = coopMatMulAdd(of_a, of_b[j][0], sums[i][j]); \
        FILL(of_a, low.z, low.w, high.z, high.w) \
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
            sums[i][j] = coopMatMulAdd(of_a, of_b[j][1], sums[i][j]); \
    } \
}

#define STORE_SUMS(slot) \
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) \
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
            coopMatStore(sums[i][j], s_sums, (slot) * SUMS + i * 16u * LINE_Y + j * 4u, LINE_Y, \
                gl_CooperativeMatrixLayoutRowMajor);

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
        uint number = (lane_row() + e / 4u * 8u) * 16u + lane_column() / 8u + e % 2u + e / 2u % 2u * 8u;
        other = other || float(a[e]) != float(number) || float(b[e]) != float(number);
    }
    return other;
}

void thin(uint m0, uint n0, uint m_end, uint n_end, uint k_end) {
    uint way = gl_SubgroupID;
    s_is_other = 0u;
    barrier();
    if (is_other()) s_is_other = 1u;
    // Of rows past the last, the last again.
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
        [[unroll]] for (uint h = 0u; h < 2u; h++)
            rows_a[i][h] = row_of_a(min(m0 + i * 16u + h * 8u + lane_row(), m_end - 1u));
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++)
        [[unroll]] for (uint h = 0u; h < 2u; h++)
            rows_b[j][h] = element_of_b(min(n0 + j * 16u + h * 8u + lane_row(), n_end - 1u));
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) sums[i][j] = MATRIX_Y(0.0);
    barrier();
    bool is_slow = s_is_other != 0u;
    uint n_chunks = (k_end + CHUNK - 1u) / CHUNK;
    if (!is_slow && way < n_chunks) {
        uint k = way * CHUNK + lane_column();
        FETCH(a0, b0, k)
        [[dont_unroll]] for (uint c = way; c < n_chunks; c += 2u * WAYS) {
            FETCH(a1, b1, k + WAYS * CHUNK)
            MULTIPLY(a0, b0)
            k += 2u * WAYS * CHUNK;
            FETCH(a0, b0, k)
            if (c + WAYS < n_chunks) MULTIPLY(a1, b1)
        }
    }
    // Where there is no room for the sums of all subgroups, half of them leave theirs to the other half first.
    if (SLOTS < WAYS) {
        if (way >= SLOTS) { STORE_SUMS(way - SLOTS) }
        barrier();
        if (way < SLOTS) {
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
    if (way < SLOTS) { STORE_SUMS(way) }
    barrier();
    [[dont_unroll]] for (uint e = way * 32u + gl_SubgroupInvocationID; e < TILE_M * TILE_N; e += THREADS) {
        uint r = e / TILE_N, c = e % TILE_N, m = m0 + r, n = n0 + c, at = r * LINE_Y + c / 4u;
        if (m >= m_end || n >= n_end) continue;
        float sum = 0.0;
        [[unroll]] for (uint s = 0u; s < SLOTS; s++) sum += uintBitsToFloat(s_sums[at + s * SUMS][c % 4u]);
        if (is_slow) sum = slow_product(m, n);
        tile_put(m, n, sum);
    }
}
