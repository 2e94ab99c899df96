// Rows that are read once and held in registers: LANES invocations hold one, HELD vectors of WIDTH elements each, and a
// workgroup has ROWS of them. What lanes hold is joined within subgroups first, then through shared memory, whatever
// the size of a subgroup is.
const uint ROWS = LANES < INVOCATIONS ? INVOCATIONS / LANES : 1u, THREADS = LANES * ROWS;
shared uint s_part[THREADS];
#ifdef MORE_PARTS
shared uint s_more[THREADS];
#endif
// How many lanes a subgroup joins, and the number of this invocation by which neighbours are of one subgroup.
uint joined, thread;

// A subgroup has no more invocations than its size says: where as many subgroups as make up the workgroup by that have
// all of them, each is full, and its number and that of the invocation in it determine a lane. Elsewhere shared memory
// joins all.
void find_thread() {
    bool full = gl_NumSubgroups * gl_SubgroupSize == THREADS && LANES % gl_SubgroupSize == 0u;
    joined = full ? gl_SubgroupSize : 1u;
    thread = full ? gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID : gl_LocalInvocationIndex;
}
uint lane() { return thread % LANES; }
// Past the last row it is the last again: all invocations come to every barrier. `is_row` says which rows are stored.
uint row_index() { return min(group() * ROWS + thread / LANES, p.rows - 1u); }
bool is_row() { return group() * ROWS + thread / LANES < p.rows; }
// The first element of a row's vector that the lane holds as number h.
uint column(uint h) { return (h * LANES + lane()) * WIDTH; }

// Numbers as words of the same order; NaN is the largest of all.
uint ordered_bits(float v) {
    uint bits = floatBitsToUint(v);
    return isnan(v) ? 0xffffffffu : (bits >> 31) != 0u ? ~bits : bits | 0x80000000u;
}
float of_ordered_bits(uint bits) { return uintBitsToFloat((bits >> 31) != 0u ? bits & 0x7fffffffu : ~bits); }

// What the lanes of a row hold, joined by subgroups to `part`, joined on; every lane gets it.
#define JOIN_PARTS(part, join) \
    if (joined < LANES) { \
        barrier(); \
        if (thread % joined == 0u) s_part[thread / joined] = part; \
        barrier(); \
        uint n_parts = LANES / joined, first = thread / LANES * n_parts; \
        part = s_part[first]; \
        for (uint i = 1u; i < n_parts; i++) part = join(part, s_part[first + i]); \
    }
uint sum_of_bits(uint a, uint b) { return floatBitsToUint(uintBitsToFloat(a) + uintBitsToFloat(b)); }
#ifdef MORE_PARTS
// Two sums, which share their barriers.
vec2 row_sums(vec2 v) {
    vec2 part = joined > 1u ? subgroupAdd(v) : v;
    if (joined < LANES) {
        barrier();
        if (thread % joined == 0u) {
            s_part[thread / joined] = floatBitsToUint(part.x);
            s_more[thread / joined] = floatBitsToUint(part.y);
        }
        barrier();
        uint n_parts = LANES / joined, first = thread / LANES * n_parts;
        part = uintBitsToFloat(uvec2(s_part[first], s_more[first]));
        for (uint i = 1u; i < n_parts; i++) part += uintBitsToFloat(uvec2(s_part[first + i], s_more[first + i]));
    }
    return part;
}
#endif
float row_sum(float v) {
    uint part = floatBitsToUint(joined > 1u ? subgroupAdd(v) : v);
    JOIN_PARTS(part, sum_of_bits)
    return uintBitsToFloat(part);
}
// NaN where one is.
float row_max(float v) {
    uint part = ordered_bits(v);
    if (joined > 1u) part = subgroupMax(part);
    JOIN_PARTS(part, max)
    return of_ordered_bits(part);
}
