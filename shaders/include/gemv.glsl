// How the threads of a workgroup share a product of few rows of a with the rows of b, which are columns of the result:
// each thread has COLUMNS of them, LANES neighbours read one row of b side by side, and WAYS of such neighbours share
// its reduction axis. Rows come in vectors of 16 bytes.
const uint SPLIT = LANES * WAYS, SETS = THREADS / SPLIT, GROUP_COLUMNS = SETS * COLUMNS;
// One line of LANES sums, and a word so that lines begin in different banks.
const uint LINE = LANES + 1u, LINES = THREADS / LANES;
shared float s_sum[COLUMNS * LINES * LINE];

uint thread() { return gl_LocalInvocationID.x; }
// Where the thread begins along the reduction axis, in steps of the kernel.
uint first_step() { return thread() / (LANES * SETS) * LANES + thread() % LANES; }
// The first column of the result that the thread computes.
uint first_column() { return group() * GROUP_COLUMNS + thread() / LANES % SETS * COLUMNS; }
// The row of b for a column of the thread: past the last, the last again.
uint row_of_b(uint c) { return min(first_column() + c, p.n - 1u); }

// Adds up what the threads have of row r of a, and stores it.
void finish(float acc[COLUMNS], uint r) {
    uint t = thread();
    if (r > 0u) barrier();
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) s_sum[(c * LINES + t / LANES) * LINE + t % LANES] = acc[c];
    barrier();
#if WAYS_OF_K > 1
    // Lines of the same columns are SETS apart.
    for (uint e = t; e < COLUMNS * SETS * LANES; e += THREADS) {
        uint at = (e / (SETS * LANES) * LINES + e / LANES % SETS) * LINE + e % LANES;
        float sum = s_sum[at];
        [[unroll]] for (uint w = 1u; w < WAYS; w++) sum += s_sum[at + w * SETS * LINE];
        s_sum[at] = sum;
    }
    barrier();
#endif
    for (uint e = t; e < GROUP_COLUMNS; e += THREADS) {
        uint n = group() * GROUP_COLUMNS + e, at = (e % COLUMNS * LINES + e / COLUMNS) * LINE;
        float sum = 0.0;
        [[unroll]] for (uint l = 0u; l < LANES; l++) sum += s_sum[at + l];
        if (r < p.m && n < p.n) put(r * p.n_total + p.n_base + n, sum);
    }
}
