// Rows that are read as a whole: by a workgroup each with WIDE, by an invocation each without. ROW_T is the type of
// what is joined.
#include "generic.glsl"
#if WIDE
shared ROW_T s_row[INVOCATIONS];
const uint LANES = INVOCATIONS;
uint row_lane() { return gl_LocalInvocationID.x; }
uint row_index() { return group(); }
#else
const uint LANES = 1u;
uint row_lane() { return 0u; }
uint row_index() { return invocation(); }
#endif
const int JOIN_SUM = 0, JOIN_MAX = 2, JOIN_MIN = 3, JOIN_PROD = 4;

#ifndef LARGER
#define LARGER larger
#define SMALLER smaller
#endif

// The sum of what a lane reads: of floats in parts, of integers as it comes.
#include "parts.glsl"
int added(int total, int part, inout int lost) { return total + part; }
#ifdef LONG
LONG added(LONG total, LONG part, inout LONG lost) { return plus(total, part); }
#endif
struct Sum { ROW_T part, total, lost; };
Sum no_sum() { return Sum(ZERO(ROW_T), ZERO(ROW_T), ZERO(ROW_T)); }
void end_part(inout Sum s) {
    s.total = added(s.total, s.part, s.lost);
    s.part = ZERO(ROW_T);
}
// Adds element `i` of the row.
void add(inout Sum s, ROW_T v, uint i) {
    s.part = plus(s.part, v);
    if ((i / LANES + 1u) % PART == 0u) end_part(s);
}

// A NaN is kept by every join.
ROW_T join(int how, ROW_T a, ROW_T b) {
    if (how == JOIN_MAX) return LARGER(a, b);
    if (how == JOIN_MIN) return SMALLER(a, b);
    return how == JOIN_PROD ? times(a, b) : plus(a, b);
}

ROW_T join_lanes(int how, ROW_T v);

// The sum of all lanes.
ROW_T sum_lanes(Sum s) {
    end_part(s);
    return join_lanes(JOIN_SUM, s.total);
}

// What all lanes of a row hold, joined; every lane gets it.
ROW_T join_lanes(int how, ROW_T v) {
#if WIDE
    uint lane = gl_LocalInvocationID.x;
    barrier();
    s_row[lane] = v;
    barrier();
#define FOLD(n) if (lane < n) s_row[lane] = join(how, s_row[lane], s_row[lane + n]); barrier();
    FOLD(64u) FOLD(32u) FOLD(16u) FOLD(8u) FOLD(4u) FOLD(2u) FOLD(1u)
#undef FOLD
    return s_row[0];
#else
    return v;
#endif
}
