// Leading axes of a product, adjacent ones merged: sizes `p.bd0..`, strides in elements `p.ba0..` of a and `p.bb0..` of
// b.
uint a_base = 0u, b_base = 0u;
void find_batch(uint batch) {
#define AXIS(d, sa, sb) { uint at = batch % d; batch /= d; a_base += at * sa; b_base += at * sb; }
#if BATCH_RANK > 3
    AXIS(p.bd3, p.ba3, p.bb3)
#endif
#if BATCH_RANK > 2
    AXIS(p.bd2, p.ba2, p.bb2)
#endif
#if BATCH_RANK > 1
    AXIS(p.bd1, p.ba1, p.bb1)
#endif
#if BATCH_RANK > 0
    AXIS(p.bd0, p.ba0, p.bb0)
#endif
#undef AXIS
}
