// y[i] is index i counted from the start of its axis; number i % NUMBERS of an index goes into an axis of `size`
// elements. One that is out of range raises the fault, and becomes the nearest that is in range, so that whoever reads
// by it stays inside the table.
#include "common.glsl"
#include "generic.glsl"

uint axis_size(uint i) {
    uint number = i % NUMBERS, size = p.size0;
#if NUMBERS > 1
    if (number == 1u) size = p.size1;
#endif
#if NUMBERS > 2
    if (number == 2u) size = p.size2;
#endif
#if NUMBERS > 3
    if (number == 3u) size = p.size3;
#endif
#if NUMBERS > 4
    if (number == 4u) size = p.size4;
#endif
#if NUMBERS > 5
    if (number == 5u) size = p.size5;
#endif
#if NUMBERS > 6
    if (number == 6u) size = p.size6;
#endif
#if NUMBERS > 7
    if (number == 7u) size = p.size7;
#endif
    return size;
}

uvec2 words_of(int v) { return uvec2(v, v >> 31); }
uvec2 words_of(uvec2 v) { return v; }
int own(int v, int like) { return v; }
uvec2 own(int v, uvec2 like) { return words_of(v); }

// Word b is the least of 2 * place + bit b over all indices that are out of range: bit b of the index in the first
// place. Whoever comes behind a place that is noted changes nothing. A loop, and no branch around one: drivers for CPUs
// compute what a branch that nobody takes would do, but of a loop that nobody enters only one round.
void note(bool is_fault, uint place, uvec2 words) {
    for (uint b = is_fault && (d_faults[0] >> 1) >= place ? 0u : 32u; b < 32u; b++) {
        atomicMin(d_faults[b], (place << 1) | ((words.x >> b) & 1u));
        atomicMin(d_faults[b + 32u], (place << 1) | ((words.y >> b) & 1u));
    }
}

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    T_indices value = ld_indices(i);
    uvec2 words = words_of(value);
    // What is beyond 32 bits is out of range as what it is clamped to.
    int index = to_int(value), size = int(axis_size(i));
    bool is_kept = IGNORE == 1 && words == words_of(p.ignored);
    note(!is_kept && (index >= size || index < (NEGATIVE == 1 ? -size : 0)), i, words);
    int row = clamp(index < 0 ? index + size : index, 0, max(size - 1, 0));
    put(i, own(is_kept ? index : row, V_OWN(0)));
}
