// One TILE_M x TILE_N tile of a product of 8-bit codes by the INVOCATIONS of a workgroup; four codes along the
// reduction axis make a word. Sums are i32 within a block of `block` codes (a multiple of TILE_K) that share scales,
// then f32. The includer has `int tile_a(uint m, uint word)`, `int tile_b(uint n, uint word)`, `float tile_scale(uint
// m, uint n, uint k)`, which is the scale of the block that holds code k, and `void tile_put(uint m, uint n, float v)`.
// With DEEP, for products of more than DEEP_TERMS terms, loops are unrolled and sums are sums of parts as in tile.glsl;
// a part is of PART blocks.
#if DEEP
#include "parts.glsl"
#define UNROLL_DEEP [[unroll]]
#else
#define UNROLL_DEEP
#endif
const uint WORDS = TILE_K / 4u;
shared int s_a[TILE_M][WORDS + 1u];
shared int s_b[TILE_N][WORDS + 1u];
const uint PER_M = TILE_M / TILE_ROWS;
const uint PER_N = TILE_N / TILE_COLUMNS;

int dot4(int a, int b, int sum) {
#if NATIVE_DOT
    return sum + dotPacked4x8EXT(a, b);
#else
    [[unroll]] for (int i = 0; i < 32; i += 8) sum += bitfieldExtract(a, i, 8) * bitfieldExtract(b, i, 8);
    return sum;
#endif
}

void tile(uint m0, uint n0, uint m_end, uint n_end, uint k_end, uint block) {
    uint t = gl_LocalInvocationID.x, tm = t / TILE_COLUMNS, tn = t % TILE_COLUMNS;
    int sum[PER_M][PER_N];
    float acc[PER_M][PER_N];
    [[unroll]] for (uint i = 0u; i < PER_M; i++)
        [[unroll]] for (uint j = 0u; j < PER_N; j++) { sum[i][j] = 0; acc[i][j] = 0.0; }
#if DEEP
    float total[PER_M][PER_N];
    [[unroll]] for (uint i = 0u; i < PER_M; i++)
        [[unroll]] for (uint j = 0u; j < PER_N; j++) total[i][j] = 0.0;
#endif
    for (uint k0 = 0u; k0 < k_end; k0 += TILE_K) {
        UNROLL_DEEP for (uint turn = 0u; turn < TILE_M * WORDS / INVOCATIONS; turn++) {
            uint e = t + INVOCATIONS * turn, w = e % WORDS, m = e / WORDS;
            s_a[m][w] = m0 + m < m_end && k0 + 4u * w < k_end ? tile_a(m0 + m, k0 / 4u + w) : 0;
        }
        UNROLL_DEEP for (uint turn = 0u; turn < TILE_N * WORDS / INVOCATIONS; turn++) {
            uint e = t + INVOCATIONS * turn, w = e % WORDS, n = e / WORDS;
            s_b[n][w] = n0 + n < n_end && k0 + 4u * w < k_end ? tile_b(n0 + n, k0 / 4u + w) : 0;
        }
        barrier();
#if DEEP
        for (uint pair = 0u; pair < WORDS; pair += 2u)
        [[unroll]] for (uint second = 0u; second < 2u; second++) {
            uint w = pair + second;
#else
        for (uint w = 0u; w < WORDS; w++) {
#endif
            [[unroll]] for (uint i = 0u; i < PER_M; i++)
                [[unroll]] for (uint j = 0u; j < PER_N; j++) sum[i][j] = dot4(s_a[tm + TILE_ROWS * i][w], s_b[tn +
                    TILE_COLUMNS * j][w], sum[i][j]);
        }
        if ((k0 + TILE_K) % block == 0u || k0 + TILE_K >= k_end)
            [[unroll]] for (uint i = 0u; i < PER_M; i++)
                [[unroll]] for (uint j = 0u; j < PER_N; j++) {
                    uint m = min(m0 + tm + TILE_ROWS * i, m_end - 1u), n = min(n0 + tn + TILE_COLUMNS * j, n_end - 1u);
                    acc[i][j] += float(sum[i][j]) * tile_scale(m, n, k0);
                    sum[i][j] = 0;
                }
#if DEEP
        if (k_end > DEEP_TERMS && (k0 + TILE_K) % (PART * block) == 0u)
            [[unroll]] for (uint i = 0u; i < PER_M; i++)
                [[unroll]] for (uint j = 0u; j < PER_N; j++) {
                    total[i][j] += acc[i][j];
                    acc[i][j] = 0.0;
                }
#endif
        barrier();
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
