// Any function of single elements: `put` computes and stores element i.
#include "common.glsl"

void main() {
    uint i = invocation();
    if (i < p.n) put(i);
}
