// The end of a kernel that notes the magnitude of its results: joins what its invocations noted, as bits, whose order
// is that of magnitudes, so that it does not matter who comes first. The template's own main is `work`.
shared uint s_noted;

void main() {
    if (gl_LocalInvocationID.x == 0u) s_noted = 0u;
    work();
    barrier();
#ifdef SUBGROUP_MAX
    uint most = subgroupMax(noted);
    if (subgroupElect()) atomicMax(s_noted, most);
#else
    atomicMax(s_noted, noted);
#endif
    barrier();
    if (gl_LocalInvocationID.x == 0u && s_noted > 0u) atomicMax(d_noted[0], s_noted);
}
