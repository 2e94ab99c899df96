// Positions in the windows of a convolution. Columns of the implicit matrix are pixels of the result, its rows
// (channel, y, x) of the kernel. False where the window is over the padding.
bool window(uint k, uint pixel, out uint c, out uint iy, out uint ix) {
    uint kx = k % p.kw, ky = k / p.kw % p.kh;
    c = k / (p.kw * p.kh);
    int y = int(pixel / p.ow * p.sh + ky * p.dh) - int(p.pt);
    int x = int(pixel % p.ow * p.sw + kx * p.dw) - int(p.pl);
    iy = uint(y);
    ix = uint(x);
    return y >= 0 && x >= 0 && iy < p.h && ix < p.w;
}
