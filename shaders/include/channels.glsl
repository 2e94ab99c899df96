// VECTOR neighbouring channels of a pixel at a time, as floats.
#if VECTOR == 4
#define V vec4
#define LOAD_x(i) ld4_x(i)
#define PUT(i, v) put4(i, v)
#define EACH_CHANNEL(at) [[unroll]] for (uint at = 0u; at < 4u; at++)
#define CHANNEL(v, at) v[at]
#define OF_EACH(f, a, b) vec4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w))
#else
#define V float
#define LOAD_x(i) ld_x(i)
#define PUT(i, v) put(i, v)
#define EACH_CHANNEL(at) const uint at = 0u;
#define CHANNEL(v, at) v
#define OF_EACH(f, a, b) f(a, b)
#endif
// Loops over a window whose size is known and small are unrolled.
#if UNROLLED
#define EACH_TAP [[unroll]]
#else
#define EACH_TAP
#endif
