// Groups and invocations are numbered through x and y, because one axis may have no more than 65535 groups.
uint group() { return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x; }
uint invocation() { return group() * INVOCATIONS + gl_LocalInvocationID.x; }

// Every lanes-th number from `first` below `n`, UNROLL of them in one pass of a loop: some drivers end a loop after so
// many passes (`Limits::max_loop_iterations`). What loops are left in a template, its planner counts (`Call::each`);
// those of constant length are unrolled.
#ifdef UNROLL
#if UNROLL == 1
#define EACH(i, first, n, lanes) for (uint i = first; i < n; i += lanes)
#else
#define EACH(i, first, n, lanes) for (uint pass = first; pass < n; pass += UNROLL * lanes) \
    [[unroll]] for (uint s = 0u, i; s < UNROLL; s++) if ((i = pass + s * lanes) < n)
#endif
#endif
