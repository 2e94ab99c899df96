// One TILE_M x TILE_N tile of a product by 128 threads, a slab of TILE_K along the reduction axis in shared memory at a time.
// The includer has `float tile_a(uint m, uint k)`, `float tile_b(uint k, uint n)`, `void tile_put(uint m, uint n, float v)`, and defines
// B_ALONG_K as 1 where neighbours along k are neighbours in memory.
shared float s_a[TILE_K][TILE_M + 1u];
shared float s_b[TILE_K][TILE_N + 1u];
const uint PER_M = TILE_M / 8u;
const uint PER_N = TILE_N / 16u;

void tile(uint m0, uint n0, uint m_end, uint n_end, uint k_end) {
    uint t = gl_LocalInvocationID.x, tm = t / 16u, tn = t % 16u;
    float acc[PER_M][PER_N];
    for (uint i = 0u; i < PER_M; i++)
        for (uint j = 0u; j < PER_N; j++) acc[i][j] = 0.0;
    for (uint k0 = 0u; k0 < k_end; k0 += TILE_K) {
        for (uint e = t; e < TILE_M * TILE_K; e += 128u) {
            uint k = e % TILE_K, m = e / TILE_K;
            s_a[k][m] = m0 + m < m_end && k0 + k < k_end ? tile_a(m0 + m, k0 + k) : 0.0;
        }
        for (uint e = t; e < TILE_N * TILE_K; e += 128u) {
#if B_ALONG_K
            uint k = e % TILE_K, n = e / TILE_K;
#else
            uint n = e % TILE_N, k = e / TILE_N;
#endif
            s_b[k][n] = n0 + n < n_end && k0 + k < k_end ? tile_b(k0 + k, n0 + n) : 0.0;
        }
        barrier();
        for (uint k = 0u; k < TILE_K; k++) {
            float a[PER_M], b[PER_N];
            for (uint i = 0u; i < PER_M; i++) a[i] = s_a[k][tm + 8u * i];
            for (uint j = 0u; j < PER_N; j++) b[j] = s_b[k][tn + 16u * j];
            for (uint i = 0u; i < PER_M; i++)
                for (uint j = 0u; j < PER_N; j++) acc[i][j] += a[i] * b[j];
        }
        barrier();
    }
    for (uint i = 0u; i < PER_M; i++)
        for (uint j = 0u; j < PER_N; j++) {
            uint m = m0 + tm + 8u * i, n = n0 + tn + 16u * j;
            if (m < m_end && n < n_end) tile_put(m, n, acc[i][j]);
        }
}
