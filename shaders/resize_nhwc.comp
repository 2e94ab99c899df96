// Images enlarged and reduced, WIDTH channels of a pixel at a time, channels last.
#include "common.glsl"
#include "places.glsl"

void main() {
    uint i = invocation(), vectors = p.c / WIDTH;
    if (i >= p.images * p.oh * p.ow * vectors) return;
    uint c = i % vectors * WIDTH, pixel = i / vectors, first = pixel / p.ow / p.oh * p.h, y0, y1, x0, x1;
    float wy, wx, v[WIDTH];
    taps(pixel / p.ow % p.oh, p.scale_y, p.h, p.oh, y0, y1, wy);
    taps(pixel % p.ow, p.scale_x, p.w, p.ow, x0, x1, wx);
    lds_x(((first + y0) * p.w + x0) * p.c + c, v);
#if LINEAR
    float right[WIDTH], lower[WIDTH], last[WIDTH];
    lds_x(((first + y0) * p.w + x1) * p.c + c, right);
    lds_x(((first + y1) * p.w + x0) * p.c + c, lower);
    lds_x(((first + y1) * p.w + x1) * p.c + c, last);
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) {
        float top = v[e] * (1.0 - wx) + right[e] * wx, bottom = lower[e] * (1.0 - wx) + last[e] * wx;
        v[e] = top * (1.0 - wy) + bottom * wy;
    }
#endif
    puts(pixel * p.c + c, v);
}
