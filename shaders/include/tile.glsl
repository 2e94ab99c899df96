// One TILE_M x TILE_N tile of a product by the INVOCATIONS of a workgroup, a slab of TILE_K along the reduction axis in
// shared memory at a time. The includer has `float tile_a(uint m, uint k)`, `float tile_b(uint k, uint n)`, `void
// tile_put(uint m, uint n, float v)`, and defines B_ALONG_K as 1 where neighbours along k are neighbours in memory.
//
// With HALF the slab holds pairs along k in f16: half the shared memory and half the reads of it. The product of two
// f16 is exact in f32, so each is summed there as it is.
#if HALF
#define PAIR 2u
#define SLAB f16vec2
#define SLAB_OF(at, k) f16vec2(at(k), at(k + 1u))
float fused(SLAB a, SLAB b, float sum) { return fma(float(a.y), float(b.y), fma(float(a.x), float(b.x), sum)); }
#else
#define PAIR 1u
#define SLAB float
#define SLAB_OF(at, k) at(k)
float fused(SLAB a, SLAB b, float sum) { return sum + a * b; }
#endif
// With DEEP, for products of more than DEEP_TERMS terms, loops are unrolled so far that no driver ends them early
// (`Limits::max_loop_iterations`). It takes the shader compiler longer, so others are not. Their terms are summed in
// parts; with DEEP of 2, for more than DEEPER_TERMS, what the sum of parts loses is kept too. A product of fewer terms
// is summed as without, so that it depends on its size alone.
#if DEEP
#include "parts.glsl"
#define UNROLL_DEEP [[unroll]]
#else
#define UNROLL_DEEP
#endif
const uint SLABS = TILE_K / PAIR;
shared SLAB s_a[SLABS][TILE_M + 1u];
shared SLAB s_b[SLABS][TILE_N + 1u];
const uint PER_M = TILE_M / TILE_ROWS;
const uint PER_N = TILE_N / TILE_COLUMNS;

void tile(uint m0, uint n0, uint m_end, uint n_end, uint k_end) {
    uint t = gl_LocalInvocationID.x, tm = t / TILE_COLUMNS, tn = t % TILE_COLUMNS;
    float acc[PER_M][PER_N];
#if DEEP
    float total[PER_M][PER_N];
    [[unroll]] for (uint i = 0u; i < PER_M; i++)
        [[unroll]] for (uint j = 0u; j < PER_N; j++) total[i][j] = 0.0;
#endif
#if DEEP > 1
    float lost[PER_M][PER_N];
    [[unroll]] for (uint i = 0u; i < PER_M; i++)
        [[unroll]] for (uint j = 0u; j < PER_N; j++) lost[i][j] = 0.0;
#endif
    [[unroll]] for (uint i = 0u; i < PER_M; i++)
        [[unroll]] for (uint j = 0u; j < PER_N; j++) acc[i][j] = 0.0;
    for (uint k0 = 0u; k0 < k_end; k0 += TILE_K) {
        UNROLL_DEEP for (uint turn = 0u; turn < TILE_M * SLABS / INVOCATIONS; turn++) {
            uint e = t + INVOCATIONS * turn, s = e % SLABS, m = e / SLABS;
#define A_AT(k) (m0 + m < m_end && (k) < k_end ? tile_a(m0 + m, k) : 0.0)
            s_a[s][m] = SLAB_OF(A_AT, k0 + PAIR * s);
        }
        UNROLL_DEEP for (uint turn = 0u; turn < TILE_N * SLABS / INVOCATIONS; turn++) {
            uint e = t + INVOCATIONS * turn;
#if B_ALONG_K
            uint s = e % SLABS, n = e / SLABS;
#else
            uint n = e % TILE_N, s = e / TILE_N;
#endif
#define B_AT(k) (n0 + n < n_end && (k) < k_end ? tile_b(k, n0 + n) : 0.0)
            s_b[s][n] = SLAB_OF(B_AT, k0 + PAIR * s);
        }
        barrier();
#if DEEP
        for (uint first = 0u; first < SLABS; first += DEEP_TURN)
        [[unroll]] for (uint next = 0u; next < DEEP_TURN; next++) {
            uint s = first + next;
#else
        for (uint s = 0u; s < SLABS; s++) {
#endif
            SLAB a[PER_M], b[PER_N];
            [[unroll]] for (uint i = 0u; i < PER_M; i++) a[i] = s_a[s][tm + TILE_ROWS * i];
            [[unroll]] for (uint j = 0u; j < PER_N; j++) b[j] = s_b[s][tn + TILE_COLUMNS * j];
            [[unroll]] for (uint i = 0u; i < PER_M; i++)
                [[unroll]] for (uint j = 0u; j < PER_N; j++) acc[i][j] = fused(a[i], b[j], acc[i][j]);
        }
        barrier();
#if DEEP
        if (k_end > DEEP_TERMS && (k0 + TILE_K) % PART == 0u)
            [[unroll]] for (uint i = 0u; i < PER_M; i++)
                [[unroll]] for (uint j = 0u; j < PER_N; j++) {
#if DEEP > 1
                    if (k_end > DEEPER_TERMS) total[i][j] = added(total[i][j], acc[i][j], lost[i][j]);
                    else
#endif
                    total[i][j] += acc[i][j];
                    acc[i][j] = 0.0;
                }
#endif
    }
    for (uint i = 0u; i < PER_M; i++)
        for (uint j = 0u; j < PER_N; j++) {
            uint m = m0 + tm + TILE_ROWS * i, n = n0 + tn + TILE_COLUMNS * j;
#if DEEP
            acc[i][j] += total[i][j];
#endif
            if (m < m_end && n < n_end) tile_put(m, n, acc[i][j]);
        }
}
