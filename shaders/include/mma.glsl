// One TILE_M x TILE_N tile of a product on cooperative matrices of FRAG_M x FRAG_N x FRAG_K
// (VK_KHR_cooperative_matrix), of the types that `mma_operands.glsl` chose. A slab of TILE_K along the reduction axis
// is in shared memory at a time, in lines of 16-byte vectors with one more, so that lines begin in different banks;
// the next slab is on its way to registers meanwhile. Subgroups of WARP_M x WARP_N share a tile, and WAYS such sets the
// reduction axis, whose sums are added up in order at the end. Nothing depends on where a matrix has its elements. The
// includer has `PartA fetch_a(uint m, uint k)` and `PartB fetch_b(uint n, uint k)`, `void tile_put(uint m, uint n,
// float v)`, `void tile_puts(uint m, uint n, float v[WIDTH])` for WIDTH neighbours that an invocation puts at a time,
// and B_ALONG_K as 1 where elements of b that are neighbours in memory are so along k, 0 where along n; where both
// operands become pairs, `float plain_product(uint m, uint n)` too. The reduction axis is a multiple of what a part
// holds.
const uint WARPS_N = TILE_N / WARP_N, WARPS = TILE_M / WARP_M * WARPS_N, LANES = SUBGROUP * WARPS, THREADS = LANES
    * WAYS;
const uint MATRICES_M = WARP_M / FRAG_M, MATRICES_N = WARP_N / FRAG_N, PER_LANE = FRAG_M * FRAG_N / SUBGROUP;
// Lines of shared memory, in vectors: what they hold, and how far they are apart.
const uint FULL_A = TILE_K / PER_VECTOR, LINE_A = FULL_A + 1u;
#if B_ALONG_K
const uint FULL_B = TILE_K / PER_VECTOR, LINES_B = TILE_N;
#else
const uint FULL_B = TILE_N / PER_VECTOR, LINES_B = TILE_K;
#endif
const uint LINE_B = FULL_B + 1u;
const uint PLANE_A = TILE_M * LINE_A, PLANE_B = LINES_B * LINE_B, SLAB = PLANES_A * PLANE_A + PLANES_B * PLANE_B;
// Sums leave through the same memory, FRAG_M rows of each subgroup at a time.
const uint LINE_Y = WARP_N / 4u + 1u, SUMS = FRAG_M * LINE_Y;
shared uvec4 s_tile[max(WAYS * SLAB, WAYS * WARPS * SUMS)];
const uint PARTS_B = FULL_B / VECTORS_B, N_A = TILE_M * FULL_A, N_B = LINES_B * PARTS_B;
const uint LOADS_A = (N_A + LANES - 1u) / LANES, LOADS_B = (N_B + LANES - 1u) / LANES;
PartA next_a[LOADS_A];
PartB next_b[LOADS_B];
#ifdef FLUSHED
const uint FLUSHES = TILE_K / FLUSH_K;
shared float s_rows[WAYS * TILE_M];
shared float s_columns[WAYS * FLUSHES * TILE_N];
#endif
#ifdef PAIRS_B
// Whether something was infinite or NaN: of these, pairs make NaN where a product is infinite.
shared uint s_not_finite;
#endif
#define SUMS_OF(type) coopmat<type, gl_ScopeSubgroup, FRAG_M, FRAG_N, gl_MatrixUseAccumulator>
SUMS_OF(SUM) sums[MATRICES_M][MATRICES_N];

// Where those that share a slab are one subgroup, the others need not wait.
void wait_for_slab() {
    if (WARPS == 1u) subgroupBarrier();
    else barrier();
}

// Subgroups need not be numbered as invocations are.
uint lane() { return gl_SubgroupID % WARPS * SUBGROUP + gl_SubgroupInvocationID; }
uint way() { return gl_SubgroupID / WARPS; }

// Number i of what a lane brings of n: the last again where there are no more. Without conditions around them, loops
// unroll.
#define BROUGHT(i, n) ((n) % LANES == 0u ? lane() + (i) * LANES : min(lane() + (i) * LANES, (n) - 1u))

void fetch_slab(uint m0, uint n0, uint k0, uint m_end, uint n_end, uint k_end) {
    // Of rows and columns past the last, the last again; what is past the reduction axis becomes 0.
    [[unroll]] for (uint i = 0u; i < LOADS_A; i++) {
        uint e = BROUGHT(i, N_A), k = k0 + e % FULL_A * PER_VECTOR;
        next_a[i] = fetch_a(min(m0 + e / FULL_A, m_end - 1u), min(k, k_end - PER_VECTOR));
    }
    [[unroll]] for (uint i = 0u; i < LOADS_B; i++) {
        uint e = BROUGHT(i, N_B), at = e % PARTS_B * VECTORS_B * PER_VECTOR, line = e / PARTS_B;
#if B_ALONG_K
        next_b[i] = fetch_b(min(n0 + line, n_end - 1u), min(k0 + at, k_end - VECTORS_B * PER_VECTOR));
#else
        next_b[i] = fetch_b(min(n0 + at, n_end - PER_VECTOR), min(k0 + line, k_end - 1u));
#endif
    }
}

void put_slab(uint k0, uint k_end) {
    uint at = way() * SLAB;
    [[unroll]] for (uint i = 0u; i < LOADS_A; i++) {
        uint e = BROUGHT(i, N_A), to = at + e / FULL_A * LINE_A + e % FULL_A;
        bool is_past = WHOLE == 0 && k0 + e % FULL_A * PER_VECTOR >= k_end;
#ifdef PAIRS_A
        if (is_past) next_a[i].v[0] = next_a[i].v[1] = uvec4(0u);
        uint most = most_of_line(next_a[i].v, FULL_A);
#ifdef PAIRS_B
        if (most >= 0x7f800000u) s_not_finite = 1u;
#endif
        if (e % FULL_A == 0u) s_rows[way() * TILE_M + e / FULL_A] = from_f16(most);
        split(next_a[i].v, to_f16(most), s_tile[to], s_tile[to + PLANE_A]);
#else
        uvec4 value = vector_of_a(next_a[i]);
        s_tile[to] = is_past ? uvec4(0u) : value;
#endif
    }
    at += PLANES_A * PLANE_A;
    [[unroll]] for (uint i = 0u; i < LOADS_B; i++) {
        uint e = BROUGHT(i, N_B), line = e / PARTS_B, first = e % PARTS_B * VECTORS_B;
        uint to = at + line * LINE_B + first;
        // Infinities there would make NaN of the zeros of a.
#if B_ALONG_K
        bool is_past = WHOLE == 0 && k0 + first * PER_VECTOR >= k_end;
#else
        bool is_past = WHOLE == 0 && k0 + line >= k_end;
#endif
#ifdef PAIRS_B
        if (is_past) next_b[i].v[0] = next_b[i].v[1] = uvec4(0u);
        uint most = most_of_line(next_b[i].v, FULL_B);
        if (most >= 0x7f800000u) s_not_finite = 1u;
        if (e % FULL_B == 0u) s_columns[way() * TILE_N + line] = from_f16(most);
        split(next_b[i].v, to_f16(most), s_tile[to], s_tile[to + PLANE_B]);
#else
        [[unroll]] for (uint v = 0u; v < VECTORS_B; v++) {
            uvec4 value = vector_of_b(next_b[i], v);
            s_tile[to + v] = is_past ? uvec4(0u) : value;
        }
#ifdef FLUSHED
#if PACKED_b
        const uint PARTS_OF_FLUSH = FLUSH_K / (VECTORS_B * PER_VECTOR);
        uint part = e % PARTS_B;
        if (part % PARTS_OF_FLUSH == 0u)
            s_columns[(way() * FLUSHES + part / PARTS_OF_FLUSH) * TILE_N + line] = next_b[i].scale;
#else
        if (first == 0u) s_columns[way() * TILE_N + line] = 1.0;
#endif
#endif
#endif
    }
}

#define MATRIX_A coopmat<ELEMENT, gl_ScopeSubgroup, FRAG_M, FRAG_K, gl_MatrixUseA>
#define MATRIX_B coopmat<ELEMENT, gl_ScopeSubgroup, FRAG_K, FRAG_N, gl_MatrixUseB>
MATRIX_A load_a(uint warp_m, uint i, uint k, uint plane) {
    MATRIX_A a;
    uint at = way() * SLAB + plane * PLANE_A + (warp_m + i * FRAG_M) * LINE_A + k / PER_VECTOR;
    coopMatLoad(a, s_tile, at, LINE_A, gl_CooperativeMatrixLayoutRowMajor);
    return a;
}
MATRIX_B load_b(uint n, uint k, uint plane) {
    MATRIX_B b;
    uint at = way() * SLAB + PLANES_A * PLANE_A + plane * PLANE_B;
#if B_ALONG_K
    coopMatLoad(b, s_tile, at + n * LINE_B + k / PER_VECTOR, LINE_B, gl_CooperativeMatrixLayoutColumnMajor);
#else
    coopMatLoad(b, s_tile, at + k * LINE_B + n / PER_VECTOR, LINE_B, gl_CooperativeMatrixLayoutRowMajor);
#endif
    return b;
}

void multiply_slab(uint warp_m, uint warp_n) {
#ifdef FLUSHED
    [[unroll]] for (uint f = 0u; f < FLUSHES; f++) {
        const uint STEPS = FLUSH_K / FRAG_K;
        MATRIX_A a[PLANES_A][STEPS][MATRICES_M];
        [[unroll]] for (uint plane = 0u; plane < PLANES_A; plane++)
            [[unroll]] for (uint s = 0u; s < STEPS; s++)
                [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
                    a[plane][s][i] = load_a(warp_m, i, f * FLUSH_K + s * FRAG_K, plane);
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) {
            SUMS_OF(PRODUCT) part[MATRICES_M];
            [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) part[i] = SUMS_OF(PRODUCT)(PRODUCT(0));
            [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                uint n = warp_n + j * FRAG_N, k = f * FLUSH_K + s * FRAG_K;
                MATRIX_B high = load_b(n, k, 0u);
#ifdef PAIRS_B
                MATRIX_B low = load_b(n, k, 1u);
                [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) part[i] = coopMatMulAdd(a[0][s][i], low, part[i]);
#endif
#ifdef PAIRS_A
                [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) part[i] = coopMatMulAdd(a[1][s][i], high, part[i]);
#endif
                [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) part[i] = coopMatMulAdd(a[0][s][i], high, part[i]);
            }
            // The same factor in every row of a matrix, or in every column: a stride of 0.
            SUMS_OF(float) column;
            uint at = (way() * FLUSHES + f) * TILE_N + warp_n + j * FRAG_N;
            coopMatLoad(column, s_columns, at, 0u, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) {
#ifdef PAIRS_A
                SUMS_OF(float) row;
                at = way() * TILE_M + warp_m + i * FRAG_M;
                coopMatLoad(row, s_rows, at, 0u, gl_CooperativeMatrixLayoutColumnMajor);
#define FACTOR(e) (row[e] * column[e])
#else
#define FACTOR(e) column[e]
#endif
                // Matrices of integers need not have their elements where those of floats have them.
                SUMS_OF(float) terms = SUMS_OF(float)(part[i]);
                [[unroll]] for (uint e = 0u; e < PER_LANE; e++)
                    sums[i][j][e] = fma(terms[e], FACTOR(e), sums[i][j][e]);
            }
        }
    }
#else
    [[unroll]] for (uint k = 0u; k < TILE_K; k += FRAG_K) {
        MATRIX_A a[MATRICES_M];
        [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) a[i] = load_a(warp_m, i, k, 0u);
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) {
            MATRIX_B b = load_b(warp_n + j * FRAG_N, k, 0u);
            [[unroll]] for (uint i = 0u; i < MATRICES_M; i++) sums[i][j] = coopMatMulAdd(a[i], b, sums[i][j]);
        }
    }
#endif
}

// Stores rows of matrices i of each subgroup. Not a loop over i: arrays of matrices stay in registers only where their
// indices are literals.
#define PUT_SUMS(i) { \
    if (i > 0u) barrier(); \
    [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) \
        coopMatStore(sums[i][j], s_tile, gl_SubgroupID * SUMS + j * (FRAG_N / 4u), LINE_Y, \
            gl_CooperativeMatrixLayoutRowMajor); \
    barrier(); \
    put_rows(m0, n0, i * FRAG_M, m_end, n_end); \
}
SUM sum_of(uint bits, float like) { return SUM(uintBitsToFloat(bits)); }
SUM sum_of(uint bits, int like) { return SUM(int(bits)); }
void put_rows(uint m0, uint n0, uint row, uint m_end, uint n_end) {
    // A constant number of turns, so that drivers may have the loads of several on their way.
    const uint ALL = WARPS * FRAG_M * WARP_N, TURN = THREADS * WIDTH;
    for (uint turn = 0u; turn < (ALL + TURN - 1u) / TURN; turn++) {
        uint e = (gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID) * WIDTH + turn * TURN;
        if (ALL % TURN > 0u && e >= ALL) break;
        uint warp = e / (FRAG_M * WARP_N), r = e / WARP_N % FRAG_M, c = e % WARP_N;
        uint at = warp * SUMS + r * LINE_Y + c / 4u;
        const uint first = WIDTH % 4u == 0u ? 0u : c % 4u;
        SUM sum[WIDTH];
        uvec4 bits = s_tile[at];
        [[unroll]] for (uint i = 0u; i < WIDTH; i++) sum[i] = sum_of(bits[first + i], SUM(0));
#if WAYS_OF_K > 1
        [[unroll]] for (uint w = 1u; w < WAYS; w++) {
            bits = s_tile[at + w * WARPS * SUMS];
            [[unroll]] for (uint i = 0u; i < WIDTH; i++) sum[i] += sum_of(bits[first + i], SUM(0));
        }
#endif
        uint m = m0 + warp / WARPS_N * WARP_M + row + r, n = n0 + warp % WARPS_N * WARP_N + c;
        if (m >= m_end || n >= n_end) continue;
#ifdef PAIRS_B
        if (s_not_finite != 0u) {
            [[dont_unroll]] for (uint i = 0u; i < WIDTH; i++) tile_put(m, n + i, plain_product(m, n + i));
            continue;
        }
#endif
        float v[WIDTH];
        [[unroll]] for (uint i = 0u; i < WIDTH; i++) v[i] = float(sum[i]);
        tile_puts(m, n, v);
    }
}

void mma(uint m0, uint n0, uint m_end, uint n_end, uint k_end) {
    uint warp = gl_SubgroupID % WARPS, warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;
    [[unroll]] for (uint i = 0u; i < MATRICES_M; i++)
        [[unroll]] for (uint j = 0u; j < MATRICES_N; j++) sums[i][j] = SUMS_OF(SUM)(SUM(0));
#ifdef PAIRS_B
    s_not_finite = 0u;
    barrier();
#endif
    uint step = TILE_K * WAYS, k0 = way() * TILE_K;
    fetch_slab(m0, n0, k0, m_end, n_end, k_end);
    put_slab(k0, k_end);
    // Each slab that is fetched without need costs its way from memory.
#if TURNS != 1
    fetch_slab(m0, n0, k0 + step, m_end, n_end, k_end);
#endif
    wait_for_slab();
#if TURNS == 2
    multiply_slab(warp_m, warp_n);
    wait_for_slab();
    put_slab(k0 + step, k_end);
    wait_for_slab();
#elif TURNS == 0
    [[dont_unroll]] for (uint first = step; first < k_end; first += step) {
        multiply_slab(warp_m, warp_n);
        wait_for_slab();
        k0 += step;
        put_slab(k0, k_end);
        fetch_slab(m0, n0, k0 + step, m_end, n_end, k_end);
        wait_for_slab();
    }
#endif
    multiply_slab(warp_m, warp_n);
    wait_for_slab();
    // Sums leave through the memory of other ways.
    if (WARPS == 1u && WAYS > 1u) barrier();
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
