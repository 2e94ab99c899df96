// The product of few rows of a (at most ROWS) with b: what is read is mostly b, so each of its elements is read once.
// Threads that share a column split its reduction axis and meet in shared memory. Operands as in matmul.
#include "common.glsl"
#include "batch.glsl"
#include "parts.glsl"
#if TRANS_B
// Neighbouring threads read neighbouring elements of one row of b.
const uint LANES = MATVEC_LANES_OF_ROWS;
#else
const uint LANES = MATVEC_LANES_OF_COLUMNS;
#endif
const uint COLUMNS = INVOCATIONS / LANES;
shared float s_sum[ROWS][INVOCATIONS];
// After turn `turn` of all lanes.
#define END_PART(turn) if (((turn) / LANES + 1u) % PART == 0u) [[unroll]] for (uint r = 0u; r < ROWS; r++) \
    { total[r] = added(total[r], acc[r], lost[r]); acc[r] = 0.0; }

void main() {
    uint blocks = (p.n + COLUMNS - 1u) / COLUMNS;
    uint g = group(), t = gl_LocalInvocationID.x;
    uint batch = g / blocks;
    if (batch >= p.batch) return;
    find_batch(batch);
#if TRANS_B
    uint lane = t % LANES, column = t / LANES;
#else
    uint column = t % COLUMNS, lane = t / COLUMNS;
#endif
    uint n = g % blocks * COLUMNS + column;
    float acc[ROWS], total[ROWS], lost[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) acc[r] = total[r] = lost[r] = 0.0;
    if (n < p.n) {
#if PACKED_b
        const uint CODES = 32u / PACKED_b;
        for (uint k0 = lane * CODES; k0 < p.k; k0 += LANES * CODES) {
            // A block is a multiple of a word's codes, so one scale serves the word.
#if !BYTES_b
            int word = int(raw_b(n, k0 / CODES));
#endif
            float scale = scale_b(n, k0), part[ROWS];
            int zero = ZERO_b(n, k0);
            [[unroll]] for (uint r = 0u; r < ROWS; r++) part[r] = 0.0;
            for (uint c = 0u; c < min(CODES, p.k - k0); c++) {
#if BYTES_b
                float code = float(code_b(n, k0 + c) - zero);
#else
                float code = float(bitfieldExtract(word, int(c * PACKED_b), PACKED_b) - zero);
#endif
                [[unroll]] for (uint r = 0u; r < ROWS; r++) part[r] += r < p.m ? code * ld_a(a_base + r * p.k + k0
                    + c) : 0.0;
            }
            [[unroll]] for (uint r = 0u; r < ROWS; r++) acc[r] += part[r] * scale;
            END_PART(k0 / CODES)
        }
#else
        for (uint k = lane; k < p.k; k += LANES) {
#if TRANS_B
            float b = ld_b(b_base + n * p.k + k);
#else
            float b = ld_b(b_base + k * p.n + n);
#endif
            [[unroll]] for (uint r = 0u; r < ROWS; r++) acc[r] += r < p.m ? b * ld_a(a_base + r * p.k + k) : 0.0;
            END_PART(k)
        }
#endif
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) s_sum[r][t] = added(total[r], acc[r], lost[r]);
    barrier();
    for (uint e = t; e < ROWS * COLUMNS; e += INVOCATIONS) {
        uint r = e / COLUMNS, c = e % COLUMNS, out_n = g % blocks * COLUMNS + c;
        float sum = 0.0;
        [[unroll]] for (uint l = 0u; l < LANES; l++) {
#if TRANS_B
            sum += s_sum[r][c * LANES + l];
#else
            sum += s_sum[r][l * COLUMNS + c];
#endif
        }
        if (r < p.m && out_n < p.n) put((batch * p.m + r) * p.n_total + p.n_base + out_n, sum);
    }
}
