// Groups and invocations are numbered through x and y, because one axis may have no more than 65535 groups.
uint group() { return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x; }
uint invocation() { return group() * 128u + gl_LocalInvocationID.x; }
