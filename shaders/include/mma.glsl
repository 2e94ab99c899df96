// One TILE_M x TILE_N tile of a product on cooperative matrices of FRAG_M x FRAG_N x FRAG_K (VK_KHR_cooperative_matrix): f16 operands, f32 sums. A slab of
// TILE_K along the reduction axis lies in shared memory at a time, in lines of 16-byte vectors with one more, so that lines begin in
// different banks; the next slab is on its way to registers meanwhile. Subgroups of WARP_M x WARP_N share a tile, and WAYS such sets the
// reduction axis, whose sums are added up in order at the end. Nothing depends on where a matrix has its elements.
// The includer has `uvec4 a_vector(uint m, uint k)`, eight elements along k (k is a multiple of 8), `PartB b_fetch(uint n, uint k)` and
// `uvec4 b_vector(PartB raw, uint v)`: what memory has of B_VECTORS * 8 elements, and eight of these; `void tile_put(uint m, uint n, float v)`;
// and B_ALONG_K as 1 where those of b lie along k, 0 where they lie along n.
const uint WARPS_N = TILE_N / WARP_N, WARPS = TILE_M / WARP_M * WARPS_N, LANES = SUBGROUP * WARPS, THREADS = LANES * WAYS;
const uint MATRICES_M = WARP_M / FRAG_M, MATRICES_N = WARP_N / FRAG_N;
const uint LINE_A = TILE_K / 8u + 1u;
#if B_ALONG_K
const uint ROW_B = TILE_K / 8u, ROWS_B = TILE_N;
#else
const uint ROW_B = TILE_N / 8u, ROWS_B = TILE_K;
#endif
const uint LINE_B = ROW_B + 1u;
const uint SLAB = TILE_M * LINE_A + ROWS_B * LINE_B;
// Sums leave through the same memory, FRAG_M rows of each subgroup at a time.
const uint LINE_Y = WARP_N / 4u + 1u, SUMS = FRAG_M * LINE_Y;
shared uvec4 s_tile[max(WAYS * SLAB, WAYS * WARPS * SUMS)];
const uint LOADS_A = (TILE_M * (TILE_K / 8u) + LANES - 1u) / LANES;
const uint PARTS_B = ROW_B / B_VECTORS, LOADS_B = (ROWS_B * PARTS_B + LANES - 1u) / LANES;
uvec4 next_a[LOADS_A];
PartB next_b[LOADS_B];
coopmat<float, gl_ScopeSubgroup, FRAG_M, FRAG_N, gl_MatrixUseAccumulator> sums[MATRICES_M][MATRICES_N];

// Subgroups need not be numbered as invocations are.
uint lane() { return gl_SubgroupID % WARPS * SUBGROUP + gl_SubgroupInvocationID; }
uint way() { return gl_SubgroupID / WARPS; }

void fetch_slab(uint m0, uint n0, uint k0, uint m_end, uint n_end, uint k_end) {
    // Of rows and columns past the last, the last again; what lies past the reduction axis is 0.
    [[unroll]] for (uint i = 0u; i < LOADS_A; i++) {
        uint e = lane() + i * LANES, k = k0 + e % (TILE_K / 8u) * 8u;
        if (TILE_M * (TILE_K / 8u) % LANES == 0u || e < TILE_M * (TILE_K / 8u))
            next_a[i] = k < k_end ? a_vector(min(m0 + e / (TILE_K / 8u), m_end - 1u), k) : uvec4(0u);
    }
    [[unroll]] for (uint i = 0u; i < LOADS_B; i++) {
        uint e = lane() + i * LANES, part = e % PARTS_B * (B_VECTORS * 8u), row = e / PARTS_B;
        if (ROWS_B * PARTS_B % LANES == 0u || e < ROWS_B * PARTS_B) {
#if B_ALONG_K
            next_b[i] = b_fetch(min(n0 + row, n_end - 1u), min(k0 + part, k_end - B_VECTORS * 8u));
#else
            next_b[i] = b_fetch(min(n0 + part, n_end - 8u), min(k0 + row, k_end - 1u));
#endif
        }
    }
}

void put_slab(uint k0, uint k_end) {
    uint at = way() * SLAB;
    [[unroll]] for (uint i = 0u; i < LOADS_A; i++) {
        uint e = lane() + i * LANES;
        if (TILE_M * (TILE_K / 8u) % LANES == 0u || e < TILE_M * (TILE_K / 8u))
            s_tile[at + e / (TILE_K / 8u) * LINE_A + e % (TILE_K / 8u)] = next_a[i];
    }
    at += TILE_M * LINE_A;
    [[unroll]] for (uint i = 0u; i < LOADS_B; i++) {
        uint e = lane() + i * LANES, part = e % PARTS_B * B_VECTORS, row = e / PARTS_B;
        if (ROWS_B * PARTS_B % LANES == 0u || e < ROWS_B * PARTS_B)
            [[unroll]] for (uint v = 0u; v < B_VECTORS; v++) {
                uvec4 value = b_vector(next_b[i], v);
#if !WHOLE
                // Infinities there would make NaN of the zeros of a.
#if B_ALONG_K
                if (k0 + (part + v) * 8u >= k_end) value = uvec4(0u);
#else
                if (k0 + row >= k_end) value = uvec4(0u);
#endif
#endif
                s_tile[at + row * LINE_B + part + v] = value;
            }
    }
}

void multiply_slab(uint warp_m, uint warp_n) {
    uint at_a = way() * SLAB + warp_m * LINE_A, at_b = way() * SLAB + TILE_M * LINE_A;
    [[unroll]] for (uint k = 0u; k < TILE_K; k += FRAG_K) {
        coopmat<float16_t, gl_ScopeSubgroup, FRAG_M, FRAG_K, gl_MatrixUseA> a[MATRICES_M];
        [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
            coopMatLoad(a[i], s_tile, at_a + i * FRAG_M * LINE_A + k / 8u, LINE_A, gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) {
            coopmat<float16_t, gl_ScopeSubgroup, FRAG_K, FRAG_N, gl_MatrixUseB> b;
            uint n = warp_n + j * FRAG_N;
#if B_ALONG_K
            coopMatLoad(b, s_tile, at_b + n * LINE_B + k / 8u, LINE_B, gl_CooperativeMatrixLayoutColumnMajor);
#else
            coopMatLoad(b, s_tile, at_b + k * LINE_B + n / 8u, LINE_B, gl_CooperativeMatrixLayoutRowMajor);
#endif
            [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) sums[i][j] = coopMatMulAdd(a[i], b, sums[i][j]);
        }
    }
}

// Stores rows of matrices i of each subgroup. Not a loop over i: arrays of matrices stay in registers only where their indices are literals.
#define PUT_SUMS(i) { \
    if (i > 0u) barrier(); \
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
        coopMatStore(sums[i][j], s_tile, gl_SubgroupID * SUMS + j * (FRAG_N / 4u), LINE_Y, gl_CooperativeMatrixLayoutRowMajor); \
    barrier(); \
    put_rows(m0, n0, i * FRAG_M, m_end, n_end); \
}
void put_rows(uint m0, uint n0, uint row, uint m_end, uint n_end) {
    [[dont_unroll]] for (uint e = gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID; e < WARPS * FRAG_M * WARP_N; e += THREADS) {
        uint warp = e / (FRAG_M * WARP_N), r = e / WARP_N % FRAG_M, c = e % WARP_N;
        uint at = warp * SUMS + r * LINE_Y + c / 4u;
        float sum = uintBitsToFloat(s_tile[at][c % 4u]);
        [[unroll]] for (uint w = 1u; w < WAYS; w++) sum += uintBitsToFloat(s_tile[at + w * WARPS * SUMS][c % 4u]);
        uint m = m0 + warp / WARPS_N * WARP_M + row + r, n = n0 + warp % WARPS_N * WARP_N + c;
        if (m < m_end && n < n_end) tile_put(m, n, sum);
    }
}

void mma(uint m0, uint n0, uint m_end, uint n_end, uint k_end) {
    uint warp = gl_SubgroupID % WARPS, warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++)
            sums[i][j] = coopmat<float, gl_ScopeSubgroup, FRAG_M, FRAG_N, gl_MatrixUseAccumulator>(0.0);
    uint step = TILE_K * WAYS, k0 = way() * TILE_K;
    fetch_slab(m0, n0, k0, m_end, n_end, k_end);
    put_slab(k0, k_end);
    fetch_slab(m0, n0, k0 + step, m_end, n_end, k_end);
    barrier();
    [[dont_unroll]] for (uint first = 0u; first < k_end; first += step) {
        multiply_slab(warp_m, warp_n);
        barrier();
        k0 += step;
        put_slab(k0, k_end);
        fetch_slab(m0, n0, k0 + step, m_end, n_end, k_end);
        barrier();
    }
    PUT_SUMS(0u)
#if ROWS_OF_WARP / FRAG_M > 1
    PUT_SUMS(1u)
#endif
#if ROWS_OF_WARP / FRAG_M > 2
    PUT_SUMS(2u)
    PUT_SUMS(3u)
#endif
#if ROWS_OF_WARP / FRAG_M > 4
    PUT_SUMS(4u)
    PUT_SUMS(5u)
    PUT_SUMS(6u)
    PUT_SUMS(7u)
#endif
}
