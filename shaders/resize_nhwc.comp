// Images enlarged and reduced, VECTOR channels of a pixel at a time, channels last.
#include "common.glsl"
#include "places.glsl"
#include "channels.glsl"
#define X(y, x) LOAD_x(((image * p.h + (y)) * p.w + (x)) * p.c + c)

void main() {
    uint i = invocation(), vectors = p.c / VECTOR;
    if (i >= p.images * p.oh * p.ow * vectors) return;
    uint c = i % vectors * VECTOR, pixel = i / vectors, image = pixel / p.ow / p.oh, y0, y1, x0, x1;
    float wy, wx;
    taps(pixel / p.ow % p.oh, p.scale_y, p.h, p.oh, y0, y1, wy);
    taps(pixel % p.ow, p.scale_x, p.w, p.ow, x0, x1, wx);
#if LINEAR
    V upper = X(y0, x0) * (1.0 - wx) + X(y0, x1) * wx;
    V lower = X(y1, x0) * (1.0 - wx) + X(y1, x1) * wx;
    PUT(pixel * p.c + c, upper * (1.0 - wy) + lower * wy);
#else
    PUT(pixel * p.c + c, X(y0, x0));
#endif
}
