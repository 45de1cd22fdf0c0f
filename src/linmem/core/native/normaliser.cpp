// The normaliser of core/chunked/normalised.py, in double precision whatever the operands are:
//
//     n_t = w_t n_{t-1} + e_t k_t,     y_t = n_t . q_t
//
// What is read divides by y, which may almost cancel; then the rounding of n is all that is left of it. Forward keeps n
// every span of steps, as the matrix states do, and there in the operands' type: backward divides by nothing.
//
// Axes of operands, behind the batch's: state (heads, dk), q and k (steps, heads, dk), all others (steps, heads); starts
// (steps,); kept (spans, heads, dk).

#include "matrix.h"

namespace linmem {
namespace {

using Wide = Vec<double>;

// n numbers from memory as doubles, and zeros up to a whole number of vectors.
template <class T>
void widen(Wide* to, const T* from, int64_t n) {
  double* numbers = reinterpret_cast<double*>(to);
  if (n % LANES<double>) to[n / LANES<double>] = Wide{};
  for (int64_t i = 0; i < n; ++i) numbers[i] = from[i];
}

template <class T>
void narrow(T* to, const Wide* from, int64_t n) {
  const double* numbers = reinterpret_cast<const double*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(numbers[i]);
}

template <class T>
struct Normaliser {
  Steps<const T> q, k, e, w;
  const bool* starts;
};

// `after` = n_t from `before` = n_{t-1}, which may be the same; `key` has room for k_t.
template <class T>
void advance(const Normaliser<T>& x, int64_t t, int64_t dk, int row, const Wide* before, Wide* after, Wide* key) {
  const double w = x.w.at(t)[0], e = x.e.at(t)[0];
  widen(key, x.k.at(t), dk);
  const bool start = x.starts[t];
  for (int j = 0; j < row; ++j) after[j] = start ? e * key[j] : w * before[j] + e * key[j];
}

// operands q, k, e, w, starts, state; results last, y, kept
template <class T>
void forward(const Call& call) {
  const Batch batch(call.out(1), 2);
  auto kept_axes = call.out(2).dimensions().last(3);
  const int64_t steps = call.out(1).dimensions().last(2)[0], spans = kept_axes[0], heads = kept_axes[1];
  const int64_t dk = kept_axes[2], span = span_of(steps, spans);
  auto series = [&](int i, int own) { return Series<const T>(batch, call.in(i), own); };
  const auto q = series(0, 3), k = series(1, 3), e = series(2, 2), w = series(3, 2);
  const auto starts = batch.places<const bool>(call.in(4));
  const auto state = batch.places<const T>(call.in(5));
  const auto last = batch.places<T>(call.out(0)), kept = batch.places<T>(call.out(2));
  const Series<T> y(batch, call.out(1), 2);
  const int row = vectors<double>(dk);
  parallel(call.pool, batch.size * heads, [&](int64_t task) {
    const int64_t s = task / heads, h = task % heads;
    const Normaliser<T> x{q.of(s, h), k.of(s, h), e.of(s, h), w.of(s, h), starts[s]};
    Scratch<double> scratch(3 * row);
    Wide *n = scratch.get(), *key = n + row, *query = key + row;
    const Steps<T> read = y.of(s, h);
    widen(n, state[s] + h * dk, dk);
    for (int64_t t = 0; t < steps; ++t) {
      x.q.fetch(t + AHEAD), x.k.fetch(t + AHEAD);
      if (t % span == 0) narrow(kept[s] + (t / span * heads + h) * dk, n, dk);
      advance(x, t, dk, row, n, n, key);
      widen(query, x.q.at(t), dk);
      Wide product{};
      for (int j = 0; j < row; ++j) product += n[j] * query[j];
      read.at(t)[0] = static_cast<T>(sum(product));
    }
    narrow(last[s] + h * dk, n, dk);
  });
}

// operands q, k, e, w, starts, kept, dlast, dy; results dq, dk, de, dw, dstate
template <class T>
void backward(const Call& call) {
  const Batch batch(call.out(2), 2);
  auto kept_axes = call.in(5).dimensions().last(3);
  const int64_t steps = call.out(2).dimensions().last(2)[0], spans = kept_axes[0], heads = kept_axes[1];
  const int64_t size = kept_axes[2], span = span_of(steps, spans);
  auto series = [&](int i, int own) { return Series<const T>(batch, call.in(i), own); };
  auto adjoint = [&](int i, int own) { return Series<T>(batch, call.out(i), own); };
  const auto q = series(0, 3), k = series(1, 3), e = series(2, 2), w = series(3, 2), dy = series(7, 2);
  const auto dq = adjoint(0, 3), dk = adjoint(1, 3), de = adjoint(2, 2), dw = adjoint(3, 2);
  const auto starts = batch.places<const bool>(call.in(4));
  const auto kept = batch.places<const T>(call.in(5)), dlast = batch.places<const T>(call.in(6));
  const auto dstate = batch.places<T>(call.out(4));
  const int row = vectors<double>(size);
  parallel(call.pool, batch.size * heads, [&](int64_t task) {
    const int64_t s = task / heads, h = task % heads;
    const Normaliser<T> x{q.of(s, h), k.of(s, h), e.of(s, h), w.of(s, h), starts[s]};
    const Steps<const T> dread = dy.of(s, h);
    const Steps<T> to_q = dq.of(s, h), to_k = dk.of(s, h), to_e = de.of(s, h), to_w = dw.of(s, h);
    Scratch<double> scratch((span + 1 + 3) * row);
    Wide *states = scratch.get(), *g = states + (span + 1) * row, *key = g + row, *query = key + row;
    widen(g, dlast[s] + h * size, size);
    for (int64_t begin = (steps - 1) / span * span; begin >= 0; begin -= span) {
      const int64_t end = std::min(begin + span, steps);
      auto before = [&](int64_t t) { return states + (t - begin) * row; };
      widen(states, kept[s] + (begin / span * heads + h) * size, size);
      for (int64_t t = begin; t < end; ++t) advance(x, t, size, row, before(t), before(t + 1), key);
      for (int64_t t = end - 1; t >= begin; --t) {
        const double dyt = dread.at(t)[0], wt = x.w.at(t)[0], et = x.e.at(t)[0];
        widen(query, x.q.at(t), size);
        widen(key, x.k.at(t), size);
        const Wide *from = before(t), *to = before(t + 1);
        const bool start = x.starts[t];
        Wide with_key{}, with_state{};
        for (int j = 0; j < row; ++j) {
          g[j] += dyt * query[j];
          with_key += g[j] * key[j];
          if (!start) with_state += g[j] * from[j];
          query[j] = dyt * to[j];
          key[j] = et * g[j];
          g[j] = start ? Wide{} : wt * g[j];
        }
        narrow(to_q.at(t), query, size);
        narrow(to_k.at(t), key, size);
        to_e.at(t)[0] = static_cast<T>(sum(with_key));
        to_w.at(t)[0] = static_cast<T>(sum(with_state));
      }
    }
    narrow(dstate[s] + h * size, g, size);
  });
}

}  // namespace

LINMEM_KERNEL(linmem_normaliser_forward, forward);
LINMEM_KERNEL(linmem_normaliser_backward, backward);

}  // namespace linmem
