// The loops over time of memories/slice.py whose whole state is scaled after every step: with a transition of low rank, for a
// few sequences at once on each thread (packed.h), and with a diagonal one, before a Walsh-Hadamard matrix H or alone.
//
//     g_t = h_{t-1} + a_t * h_{t-1} + ((h_{t-1} R) * x_t) L  or  h_{t-1} + [H] (a_t * h_{t-1}),  or f_t at a start
//     h_t = s_t g_t,   s_t = 1 / sqrt(mean g_t^2)
//
// Where the mean square of g_t is not above e, h_t = g_t, and s_t is kept as 0. The derivative of low rank in g_t is all that
// is given back: what it means for weights and inputs are products over all steps.
//
// Axes of operands, behind the batch's: R and transposed L (n, m), L and transposed R (m, n), starts and scales (steps,),
// initial (n,), gains x (steps, m), all others (steps, n). Settings: smallest e; hadamard, whether there is an H.

#include "packed.h"

namespace linmem {
namespace {

// h = s g; gives s, which is NaN where g has one.
template <class T>
T rescale(const Vec<T>* g, Vec<T>* h, int64_t n, T smallest) {
  const int64_t count = vectors<T>(n);
  const T* numbers = reinterpret_cast<const T*>(g);
  const T mean_square = dot(numbers, numbers, n) / n;
  if (mean_square <= smallest) {
    std::copy_n(g, count, h);
    return 0;
  }
  const T scale = 1 / std::sqrt(mean_square);
  for (int64_t j = 0; j < count; ++j) h[j] = scale * g[j];
  return scale;
}

// The derivative in g from that in h, in its place.
template <class T>
void rescale_backward(Vec<T>* d, const Vec<T>* h, int64_t n, T scale) {
  if (scale == 0) return;
  const int64_t count = vectors<T>(n);
  const T radial = dot(reinterpret_cast<const T*>(d), reinterpret_cast<const T*>(h), n) / n;
  for (int64_t j = 0; j < count; ++j) d[j] = scale * (d[j] - radial * h[j]);
}

// to[s] = (from[s] matrix) * gains of each sequence at step t
template <class T>
void meet(Packed<T>& matrix, const Vec<T>* from, int64_t wide, Vec<T>* to, int64_t m_wide, int64_t m, int64_t count,
          const T* const* gains, int64_t t, Vec<T>* gain) {
  matrix.template multiply<false>(reinterpret_cast<const T*>(from), wide * LANES<T>, to, m_wide, count);
  for (int64_t s = 0; s < count; ++s) {
    load(gain, gains[s] + t * m, m);
    for (int64_t j = 0; j < vectors<T>(m); ++j) to[s * m_wide + j] *= gain[j];
  }
}

// operands R, L, a, gains, f, starts, initial; results states, scales
template <class T>
void low_rank_forward(const Call& call) {
  auto dims = call.out(0).dimensions().last(2);
  const int64_t steps = dims[0], n = dims[1], m = call.in(1).dimensions().last(2)[0];
  const int64_t wide = padded<T>(n), m_wide = padded<T>(m), whole = vectors<T>(n);
  const Batch batch(call.out(0), 2);
  auto in = [&](int i) { return batch.places<const T>(call.in(i)); };
  const auto right = in(0), left = in(1), diagonal = in(2), gains = in(3), first_states = in(4), initial = in(6);
  const auto starts = batch.places<const bool>(call.in(5));
  const auto states = batch.places<T>(call.out(0)), scales = batch.places<T>(call.out(1));
  const T smallest = call.setting<double>("smallest");
  const auto begins = groups(call, right);
  parallel(call.pool, begins.size() - 1, [&](int64_t task) {
    const int64_t first = begins[task], count = begins[task + 1] - first;
    Packed<T> R(right[first], n, m, m), L(left[first], m, n, n);
    Scratch<T> state(2 * count * wide), met(count * m_wide), row(wide + m_wide);
    Vec<T>*h = state.get(), *grown = h + count * wide, *a = row.get(), *gain = a + wide;
    for (int64_t s = 0; s < count; ++s) load(h + s * wide, initial[first + s], n);
    for (int64_t t = 0; t < steps; ++t) {
      meet(R, h, wide, met.get(), m_wide, m, count, &gains[first], t, gain);
      L.template multiply<false>(reinterpret_cast<const T*>(met.get()), m_wide * LANES<T>, grown, wide, count);
      for (int64_t s = 0; s < count; ++s) {
        const int64_t at = first + s;
        Vec<T>*hs = h + s * wide, *g = grown + s * wide;
        load(a, diagonal[at] + t * n, n);
        for (int64_t j = 0; j < whole; ++j) g[j] += hs[j] + a[j] * hs[j];
        if (starts[at][t]) load(g, first_states[at] + t * n, n);
        scales[at][t] = rescale<T>(g, hs, n, smallest);
        store(states[at] + t * n, hs, n);
      }
    }
  });
}

// operands L^T, R^T, a, gains, starts, states, scales, dstates; results dg, dinitial
template <class T>
void low_rank_backward(const Call& call) {
  auto dims = call.out(0).dimensions().last(2);
  const int64_t steps = dims[0], n = dims[1], m = call.in(1).dimensions().last(2)[0];
  const int64_t wide = padded<T>(n), m_wide = padded<T>(m), whole = vectors<T>(n);
  const Batch batch(call.out(0), 2);
  auto in = [&](int i) { return batch.places<const T>(call.in(i)); };
  const auto left = in(0), right = in(1), diagonal = in(2), gains = in(3), states = in(5), scales = in(6), dstates = in(7);
  const auto starts = batch.places<const bool>(call.in(4));
  const auto dgrown = batch.places<T>(call.out(0)), dinitial = batch.places<T>(call.out(1));
  const auto begins = groups(call, left);
  parallel(call.pool, begins.size() - 1, [&](int64_t task) {
    const int64_t first = begins[task], count = begins[task + 1] - first;
    Packed<T> L(left[first], n, m, m), R(right[first], m, n, n);
    Scratch<T> adjoint(2 * count * wide), met(count * m_wide), row(2 * wide + m_wide);
    Vec<T>*dh = adjoint.get(), *dg = dh + count * wide, *other = row.get(), *h = other + wide, *gain = h + wide;
    for (int64_t t = steps - 1; t >= 0; --t) {
      for (int64_t s = 0; s < count; ++s) {
        const int64_t at = first + s;
        Vec<T>*to = dg + s * wide, *from = dh + s * wide;
        load(other, dstates[at] + t * n, n), load(h, states[at] + t * n, n);
        for (int64_t j = 0; j < whole; ++j) to[j] = from[j] + other[j];
        rescale_backward<T>(to, h, n, scales[at][t]);
        store(dgrown[at] + t * n, to, n);
        load(other, diagonal[at] + t * n, n);
        for (int64_t j = 0; j < whole; ++j) from[j] = to[j] + other[j] * to[j];
      }
      meet(L, dg, wide, met.get(), m_wide, m, count, &gains[first], t, gain);
      R.template multiply<true>(reinterpret_cast<const T*>(met.get()), m_wide * LANES<T>, dh, wide, count);
      for (int64_t s = 0; s < count; ++s)
        if (starts[first + s][t]) std::fill_n(dh + s * wide, whole, Vec<T>{});
    }
    for (int64_t s = 0; s < count; ++s) store(dinitial[first + s], dh + s * wide, n);
  });
}

// x H of n = 2^k numbers, unscaled, in its place: butterflies of vectors, then inside them. Fewer numbers than a vector has
// are followed by zeros, which the butterflies inside do not mix in, because they begin with the nearest.
inline Vec<float> nearest(Vec<float> x, int distance) {
  const Vec<float> low{1, -1, 1, -1, 1, -1, 1, -1}, middle{1, 1, -1, -1, 1, 1, -1, -1}, high{1, 1, 1, 1, -1, -1, -1, -1};
  if (distance == 1) return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6) + low * x;
  if (distance == 2) return __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5) + middle * x;
  return __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3) + high * x;
}

inline Vec<double> nearest(Vec<double> x, int distance) {
  const Vec<double> low{1, -1, 1, -1}, high{1, 1, -1, -1};
  if (distance == 1) return __builtin_shufflevector(x, x, 1, 0, 3, 2) + low * x;
  return __builtin_shufflevector(x, x, 2, 3, 0, 1) + high * x;
}

template <class T>
void transform(Vec<T>* x, int64_t n) {
  const int64_t count = vectors<T>(n);
  for (int64_t half = 1; half < count; half *= 2)
    for (int64_t begin = 0; begin < count; begin += 2 * half)
      for (int64_t j = begin; j < begin + half; ++j) {
        const Vec<T> a = x[j], b = x[j + half];
        x[j] = a + b, x[j + half] = a - b;
      }
  for (int distance = 1; distance < std::min<int64_t>(n, LANES<T>); distance *= 2)
    for (int64_t j = 0; j < count; ++j) x[j] = nearest(x[j], distance);
}

// operands a, f, starts, initial; results states, scales
template <class T>
void diagonal_forward(const Call& call) {
  auto dims = call.out(0).dimensions().last(2);
  const int64_t steps = dims[0], n = dims[1], whole = vectors<T>(n);
  const Batch batch(call.out(0), 2);
  auto in = [&](int i) { return batch.places<const T>(call.in(i)); };
  const auto diagonal = in(0), first_states = in(1), initial = in(3);
  const auto starts = batch.places<const bool>(call.in(2));
  const auto states = batch.places<T>(call.out(0)), scales = batch.places<T>(call.out(1));
  const T smallest = call.setting<double>("smallest"), unit = 1 / std::sqrt(T(n));
  const bool hadamard = call.setting<bool>("hadamard");
  parallel(call.pool, batch.size, [&](int64_t s) {
    Scratch<T> rows(2 * whole);
    Vec<T>*h = rows.get(), *g = h + whole;
    load(h, initial[s], n);
    for (int64_t t = 0; t < steps; ++t) {
      if (starts[s][t]) {
        load(g, first_states[s] + t * n, n);
      } else {
        load(g, diagonal[s] + t * n, n);
        for (int64_t j = 0; j < whole; ++j) g[j] *= h[j];
        if (hadamard) transform<T>(g, n);
        for (int64_t j = 0; j < whole; ++j) g[j] = h[j] + (hadamard ? unit * g[j] : g[j]);
      }
      scales[s][t] = rescale<T>(g, h, n, smallest);
      store(states[s] + t * n, h, n);
    }
  });
}

// operands a, starts, initial, states, scales, dstates; results da, df, dinitial
template <class T>
void diagonal_backward(const Call& call) {
  auto dims = call.out(0).dimensions().last(2);
  const int64_t steps = dims[0], n = dims[1], whole = vectors<T>(n);
  const Batch batch(call.out(0), 2);
  auto in = [&](int i) { return batch.places<const T>(call.in(i)); };
  const auto diagonal = in(0), initial = in(2), states = in(3), scales = in(4), dstates = in(5);
  const auto starts = batch.places<const bool>(call.in(1));
  auto out = [&](int i) { return batch.places<T>(call.out(i)); };
  const auto ddiagonal = out(0), dfirst = out(1), dinitial = out(2);
  const T unit = 1 / std::sqrt(T(n));
  const bool hadamard = call.setting<bool>("hadamard");
  parallel(call.pool, batch.size, [&](int64_t s) {
    Scratch<T> rows(5 * whole);
    Vec<T>*dh = rows.get(), *dg = dh + whole, *met = dg + whole, *row = met + whole, *zeros = row + whole;
    for (int64_t t = steps - 1; t >= 0; --t) {
      load(dg, dstates[s] + t * n, n), load(row, states[s] + t * n, n);
      for (int64_t j = 0; j < whole; ++j) dg[j] += dh[j];
      rescale_backward<T>(dg, row, n, scales[s][t]);
      if (starts[s][t]) {
        store(dfirst[s] + t * n, dg, n), store(ddiagonal[s] + t * n, zeros, n);
        std::fill_n(dh, whole, Vec<T>{});
        continue;
      }
      store(dfirst[s] + t * n, zeros, n);
      for (int64_t j = 0; j < whole; ++j) met[j] = hadamard ? unit * dg[j] : dg[j];
      if (hadamard) transform<T>(met, n);
      load(row, diagonal[s] + t * n, n);
      for (int64_t j = 0; j < whole; ++j) dh[j] = dg[j] + row[j] * met[j];
      load(row, t ? states[s] + (t - 1) * n : initial[s], n);
      for (int64_t j = 0; j < whole; ++j) row[j] *= met[j];
      store(ddiagonal[s] + t * n, row, n);
    }
    store(dinitial[s], dh, n);
  });
}

}  // namespace

LINMEM_KERNEL(linmem_low_rank_forward, low_rank_forward);
LINMEM_KERNEL(linmem_low_rank_backward, low_rank_backward);
LINMEM_KERNEL(linmem_diagonal_forward, diagonal_forward);
LINMEM_KERNEL(linmem_diagonal_backward, diagonal_backward);

}  // namespace linmem
