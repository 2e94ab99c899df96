// Any function of single elements: `puts` computes and stores elements i and on.
#include "common.glsl"

void main() {
    uint i = invocation() * WIDTH;
    if (i < p.n) puts(i);
}
