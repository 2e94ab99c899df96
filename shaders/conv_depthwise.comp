// A convolution with one input channel a group: each invocation computes one element, reading its window directly.
#include "common.glsl"
#include "window.glsl"
#include "parts.glsl"

void main() {
    uint i = invocation(), pixels = p.oh * p.ow;
    if (i >= p.images * p.groups * p.oc_g * pixels) return;
    uint pixel = i % pixels, oc = i / pixels % (p.groups * p.oc_g), image = i / pixels / (p.groups * p.oc_g);
    uint plane = image * p.groups + oc / p.oc_g;
    float sum = 0.0, total = 0.0, lost = 0.0;
    EACH(k, 0u, p.k, 1u) {
        uint c, iy, ix;
        if (window(k, pixel, c, iy, ix)) {
#if PACKED_x
            float x = value_x(plane * p.h + iy, ix);
#else
            float x = ld_x((plane * p.h + iy) * p.w + ix);
#endif
#if PACKED_w
            sum += x * value_w(oc, k);
#else
            sum += x * ld_w(oc * p.k + k);
#endif
        }
        if ((k + 1u) % PART == 0u) {
            total = added(total, sum, lost);
            sum = 0.0;
        }
    }
    put(i, added(total, sum, lost));
}
