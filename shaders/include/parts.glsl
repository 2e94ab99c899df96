// Long sums are sums of parts. A sum of n terms in a row may be off by n last bits; so terms are added up PART at a
// time, and each part is added to the total with what the additions before it lost (Kahan, 1965).
const uint PART = 256u;

// total + part; `lost` is what of it was rounded away.
float added(float total, float part, inout float lost) {
    precise float term = part - lost;
    precise float sum = total + term;
    precise float over = sum - total;
    precise float rest = over - term;
    // Of infinities there is no rest.
    lost = abs(rest) <= 3.4028235e38 ? rest : 0.0;
    return sum;
}
