// Positions in the windows of a convolution with channels last. Rows of the implicit matrix are pixels of all results,
// its columns (y, x, channel) of the kernel. False where the window is over the padding; else `pixel` of x and channel
// c of the group.
bool window(uint m, uint k, out uint pixel, out uint c) {
    c = k % p.c_g;
    uint tap = k / p.c_g, row = m / p.ow;
    int y = int(row % p.oh * p.sh + tap / p.kw * p.dh) - int(p.pt);
    int x = int(m % p.ow * p.sw + tap % p.kw * p.dw) - int(p.pl);
    pixel = (row / p.oh * p.h + uint(y)) * p.w + uint(x);
    return y >= 0 && x >= 0 && uint(y) < p.h && uint(x) < p.w;
}
