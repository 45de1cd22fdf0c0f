// The loop over time of memories/gru.py, for a few sequences at once on each thread (packed.h).
//
//     r, z = sigmoid(x_rz + U_rz h),   m = U_n h + c,   n = tanh(x_n + r m),   h' = (1 - z) n + z h
//
// Axes of operands, behind the batch's: weights (n, 3 n) or (3 n, n), bias (n,), starts (steps,), initial (n,), all others
// (steps, ...).

#include "packed.h"

namespace linmem {
namespace {

template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (T(1) + exponential(-x));
}

template <class T>
inline Vec<T> hyperbolic_tangent(Vec<T> x) {
  return T(2) * sigmoid<T>(T(2) * x) - T(1);
}

// operands to_gates = U^T (n, 3 n), bias, entering, starts, initial; results states[, gates: r, z, n, m]
template <class T>
void forward(const Call& call) {
  auto dims = call.out(0).dimensions().last(2);
  const int64_t steps = dims[0], n = dims[1], wide = padded<T>(n), whole = vectors<T>(n);
  const Batch batch(call.out(0), 2);
  const auto to_gates = batch.places<const T>(call.in(0)), bias = batch.places<const T>(call.in(1));
  const auto entering = batch.places<const T>(call.in(2)), initial = batch.places<const T>(call.in(4));
  const auto starts = batch.places<const bool>(call.in(3));
  const auto states = batch.places<T>(call.out(0));
  const bool keeps = call.rets.size() > 1;
  const auto gates = batch.places<T>(call.out(keeps ? 1 : 0));
  const auto begins = groups(call, to_gates);
  parallel(call.pool, begins.size() - 1, [&](int64_t task) {
    const int64_t first = begins[task], count = begins[task + 1] - first;
    Packed<T> to_r(to_gates[first], n, n, 3 * n), to_z(to_gates[first] + n, n, n, 3 * n);
    Packed<T> to_n(to_gates[first] + 2 * n, n, n, 3 * n);
    Scratch<T> state(count * wide), sums(3 * count * wide), row(4 * wide);
    Vec<T>*h = state.get(), *rs = sums.get(), *zs = rs + count * wide, *ms = zs + count * wide;
    for (int64_t s = 0; s < count; ++s) load(h + s * wide, initial[first + s], n);
    Vec<T>*x_r = row.get(), *x_z = x_r + wide, *x_n = x_z + wide, *c = x_n + wide;
    load(c, bias[first], n);
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t s = 0; s < count; ++s)
        if (starts[first + s][t]) std::fill_n(h + s * wide, wide, Vec<T>{});
      const T* rows = reinterpret_cast<const T*>(h);
      const int64_t stride = wide * LANES<T>;
      to_r.template multiply<false>(rows, stride, rs, wide, count);
      to_z.template multiply<false>(rows, stride, zs, wide, count);
      to_n.template multiply<false>(rows, stride, ms, wide, count);
      for (int64_t s = 0; s < count; ++s) {
        const T* x = entering[first + s] + t * 3 * n;
        load(x_r, x, n), load(x_z, x + n, n), load(x_n, x + 2 * n, n);
        Vec<T>*hs = h + s * wide, *r = rs + s * wide, *z = zs + s * wide, *m = ms + s * wide, *made = x_n;
        for (int64_t j = 0; j < whole; ++j) {
          r[j] = sigmoid<T>(x_r[j] + r[j]);
          z[j] = sigmoid<T>(x_z[j] + z[j]);
          m[j] += c[j];
          made[j] = hyperbolic_tangent<T>(x_n[j] + r[j] * m[j]);
          hs[j] = (T(1) - z[j]) * made[j] + z[j] * hs[j];
        }
        store(states[first + s] + t * n, hs, n);
        if (!keeps) continue;
        T* to = gates[first + s] + t * 4 * n;
        store(to, r, n), store(to + n, z, n), store(to + 2 * n, made, n), store(to + 3 * n, m, n);
      }
    }
  });
}

// operands U (3 n, n), starts, initial, states, gates, dstates; results dentering = (dr, dz, dn), dleaving = (dr, dz, dm), dinitial
template <class T>
void backward(const Call& call) {
  auto dims = call.in(3).dimensions().last(2);
  const int64_t steps = dims[0], n = dims[1], wide = padded<T>(n), whole = vectors<T>(n);
  const Batch batch(call.out(1), 2);
  const auto weights = batch.places<const T>(call.in(0)), initial = batch.places<const T>(call.in(2));
  const auto states = batch.places<const T>(call.in(3)), gates = batch.places<const T>(call.in(4));
  const auto dstates = batch.places<const T>(call.in(5));
  const auto starts = batch.places<const bool>(call.in(1));
  const auto dentering = batch.places<T>(call.out(0)), dleaving = batch.places<T>(call.out(1));
  const auto dinitial = batch.places<T>(call.out(2));
  const auto begins = groups(call, weights);
  parallel(call.pool, begins.size() - 1, [&](int64_t task) {
    const int64_t first = begins[task], count = begins[task + 1] - first;
    Packed<T> from_r(weights[first], n, n, n), from_z(weights[first] + n * n, n, n, n);
    Packed<T> from_m(weights[first] + 2 * n * n, n, n, n);
    Scratch<T> adjoint(count * wide), made(3 * count * wide), row(7 * wide);
    Vec<T>*dh = adjoint.get(), *drs = made.get(), *dzs = drs + count * wide, *dmms = dzs + count * wide;
    Vec<T>*r = row.get(), *z = r + wide, *c = z + wide, *m = c + wide, *before = m + wide, *g = before + wide;
    Vec<T>* dc = g + wide;
    for (int64_t t = steps - 1; t >= 0; --t) {
      for (int64_t s = 0; s < count; ++s) {
        const int64_t at = first + s;
        const T* kept = gates[at] + t * 4 * n;
        load(r, kept, n), load(z, kept + n, n), load(c, kept + 2 * n, n), load(m, kept + 3 * n, n);
        load(g, dstates[at] + t * n, n);
        if (starts[at][t])
          std::fill_n(before, wide, Vec<T>{});
        else
          load(before, t ? states[at] + (t - 1) * n : initial[at], n);
        Vec<T>*dr = drs + s * wide, *dz = dzs + s * wide, *dm = dmms + s * wide, *to = dh + s * wide;
        for (int64_t j = 0; j < whole; ++j) {
          const Vec<T> all = g[j] + to[j];
          dc[j] = all * (T(1) - z[j]) * (T(1) - c[j] * c[j]);
          dz[j] = all * (before[j] - c[j]) * z[j] * (T(1) - z[j]);
          dr[j] = dc[j] * m[j] * r[j] * (T(1) - r[j]);
          dm[j] = dc[j] * r[j];
          to[j] = all * z[j];
        }
        T *in = dentering[at] + t * 3 * n, *out = dleaving[at] + t * 3 * n;
        store(in, dr, n), store(in + n, dz, n), store(in + 2 * n, dc, n);
        store(out, dr, n), store(out + n, dz, n), store(out + 2 * n, dm, n);
      }
      const int64_t stride = wide * LANES<T>;
      from_r.template multiply<true>(reinterpret_cast<const T*>(drs), stride, dh, wide, count);
      from_z.template multiply<true>(reinterpret_cast<const T*>(dzs), stride, dh, wide, count);
      from_m.template multiply<true>(reinterpret_cast<const T*>(dmms), stride, dh, wide, count);
      for (int64_t s = 0; s < count; ++s)
        if (starts[first + s][t]) std::fill_n(dh + s * wide, wide, Vec<T>{});
    }
    for (int64_t s = 0; s < count; ++s) store(dinitial[first + s], dh + s * wide, n);
  });
}

}  // namespace

LINMEM_KERNEL(linmem_gru_forward, forward);
LINMEM_KERNEL(linmem_gru_backward, backward);

}  // namespace linmem
