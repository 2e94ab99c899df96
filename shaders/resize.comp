// Images enlarged and reduced along the last two axes.
#include "common.glsl"
#include "places.glsl"

void main() {
    uint i = invocation();
    if (i >= p.n) return;
    uint base = i / p.ow / p.oh * p.h, y0, y1, x0, x1;
    float wy, wx;
    taps(i / p.ow % p.oh, p.scale_y, p.h, p.oh, y0, y1, wy);
    taps(i % p.ow, p.scale_x, p.w, p.ow, x0, x1, wx);
#if LINEAR
    float upper = ld_x((base + y0) * p.w + x0) * (1.0 - wx) + ld_x((base + y0) * p.w + x1) * wx;
    float lower = ld_x((base + y1) * p.w + x0) * (1.0 - wx) + ld_x((base + y1) * p.w + x1) * wx;
    put(i, upper * (1.0 - wy) + lower * wy);
#else
    put(i, ld_x((base + y0) * p.w + x0));
#endif
}
