// y[i] is index i counted from the start of its axis; number i % NUMBERS of an index goes into an axis of `size` elements. One that is out of range
// raises the fault, and becomes the nearest that is in range, so that whoever reads by it stays inside the table.
#include "common.glsl"

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

uint low_word(int v) { return uint(v); }
uint high_word(int v) { return v < 0 ? 0xffffffffu : 0u; }

// Word b is the least of 2 * place + bit b over all indices that are out of range: bit b of the index in the first place. Whoever comes behind a place
// that is noted changes nothing.
void raise(uint place, uint low, uint high) {
    if ((d_faults[0] >> 1) < place) return;
    for (uint b = 0u; b < 32u; b++) {
        atomicMin(d_faults[b], (place << 1) | ((low >> b) & 1u));
        atomicMin(d_faults[b + 32u], (place << 1) | ((high >> b) & 1u));
    }
}

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    T_indices index = ld_indices(i), size = T_indices(axis_size(i));
    if (IGNORE == 1 && index == T_indices(p.ignored)) {
        put(i, V_OWN(index));
        return;
    }
    if (index >= size || index < (NEGATIVE == 1 ? -size : T_indices(0))) raise(i, low_word(index), high_word(index));
    put(i, V_OWN(clamp(index < 0 ? index + size : index, T_indices(0), max(size - 1, T_indices(0)))));
}
