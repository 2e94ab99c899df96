// y[batch, j, r] = x[offset + batch + j + r * sr]: the axis along which x is contiguous becomes another, and r the
// innermost, through a tile of TILE_J x TILE_R elements in shared memory, so that neighbours read and write neighbours.
// The result has j `oj` elements apart; `bd`, `bs`, `bo` are sizes and strides of the other axes in x and in the
// result, outermost first.
#include "common.glsl"
#include "generic.glsl"

const uint TILE_J = 32u * WIDTH, TILE_R = 32u;
// A line for each j, those of one place in their vector together: neither the lanes that fill the tile nor those that
// empty it meet in a bank.
shared T_x s_tile[TILE_J * (TILE_R + 1u) + WIDTH];
uint place(uint j, uint r) {
    uint e = j % WIDTH;
    return (e * 32u + j / WIDTH) * (TILE_R + 1u) + r + e;
}

#define AXIS(d, s, o) { uint q = rest / d, c = rest - q * d; at += int(c) * s; to += c * o; rest = q; }

void main() {
    uint t = gl_LocalInvocationID.x, rest = group(), to = 0u;
    int at = p.offset;
    uint r0 = rest % p.tiles_r * TILE_R;
    rest /= p.tiles_r;
    uint j0 = rest % p.tiles_j * TILE_J;
    rest /= p.tiles_j;
#if BATCH > 5
    AXIS(p.bd5, p.bs5, p.bo5)
#endif
#if BATCH > 4
    AXIS(p.bd4, p.bs4, p.bo4)
#endif
#if BATCH > 3
    AXIS(p.bd3, p.bs3, p.bo3)
#endif
#if BATCH > 2
    AXIS(p.bd2, p.bs2, p.bo2)
#endif
#if BATCH > 1
    AXIS(p.bd1, p.bs1, p.bo1)
#endif
#if BATCH > 0
    AXIS(p.bd0, p.bs0, p.bo0)
#endif
    T_x v[WIDTH];
    [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] = ZERO(T_x);
    uint j = t % 32u * WIDTH;
    [[unroll]] for (uint turn = 0u; turn < 8u; turn++) {
        uint r = turn * 4u + t / 32u;
        if (j0 + j < p.nj && r0 + r < p.nr) lds_x(uint(at + int(j0 + j) + int(r0 + r) * p.sr), v);
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) s_tile[place(j + e, r)] = v[e];
    }
    barrier();
    const uint per_line = TILE_R / WIDTH;
    uint r = t % per_line * WIDTH;
    [[unroll]] for (uint turn = 0u; turn < 8u; turn++) {
        j = turn * 4u * WIDTH + t / per_line;
        [[unroll]] for (uint e = 0u; e < WIDTH; e++) v[e] = s_tile[place(j, r + e)];
        if (j0 + j < p.nj && r0 + r < p.nr) puts(to + (j0 + j) * p.oj + r0 + r, v);
    }
}
