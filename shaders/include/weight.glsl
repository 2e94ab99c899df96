// A code times its scale, where the product may be held as f16: a scale of f32 may lead beyond its range, and what f16
// stores is saturated.
#if HALF
#define WEIGHT(v) clamp(v, -65504.0, 65504.0)
#else
#define WEIGHT(v) v
#endif
