// Whether this processor has the instructions that the kernels were compiled to.

extern "C" int linmem_runs_here() {
#if defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 1;
#endif
}
