// The selective scan of core/selective_scan.py where decays are exponentials, as Mamba's, or implicit, as Longhorn's:
//
//     a_t = p exp(delta_t A) + r  or  1 - k_t^2 delta_t^T,   H_t = a_t * H_{t-1} + k_t v_t^T   (n, channels),   y_t = H_t^T q_t
//
// A thread has some channels of a sequence, so few that their states stay in the first cache. Backward does a span of
// steps again from a kept state, as in matrix.h.
//
// Axes of operands, behind the batch's: A and state (n, channels), delta, v and y (steps, channels), k and q (steps, n),
// starts (steps,), form (2,): p and r. dk and dq are those of each thread's channels: (parts, steps, n). Without A and form
// decays are implicit.

#include "common.h"

namespace linmem {
namespace {

struct Sizes {
  int64_t steps, n, channels, span, parts, part;  // part: channels of a task
};

// delta: (steps, channels); kept: (spans, n, channels).
Sizes sizes(AnyBuffer delta, AnyBuffer kept, int64_t parts) {
  auto d = delta.dimensions().last(2), s = kept.dimensions().last(3);
  const int64_t whole = (d[1] + parts - 1) / parts;
  return {d[0], s[1], d[1], span_of(d[0], s[0]), parts, whole};
}

// Operands of one task: its channels begin at `first`.
template <class T>
struct Task {
  const Sizes& n;
  int64_t first, count, row;  // channels, vectors that hold them
  const T *delta, *k, *q, *v;
  const bool* starts;
  const T *A, *form;  // not read where decays are implicit

  const T* of(const T* wide, int64_t t) const { return wide + t * n.channels + first; }
  T* of(T* wide, int64_t t) const { return wide + t * n.channels + first; }
  void take(Vec<T>* to, const T* matrix) const {
    for (int64_t s = 0; s < n.n; ++s) load(to + s * row, of(matrix, s), count);
  }
  void save(T* matrix, const Vec<T>* from) const {
    for (int64_t s = 0; s < n.n; ++s) store(of(matrix, s), from + s * row, count);
  }
};

template <class T, bool IMPLICIT>
void forward_of(const Task<T>& x, const T* state, T* last, T* y, T* kept) {
  const Sizes& n = x.n;
  const int64_t row = x.row;
  Scratch<T> states(n.n * row), rates(n.n * row), rows(3 * row);
  Vec<T>*H = states.get(), *A = rates.get(), *delta = rows.get(), *v = delta + row, *read = v + row;
  const T p = IMPLICIT ? 0 : x.form[0], r = IMPLICIT ? 0 : x.form[1];
  x.take(H, state);
  if (!IMPLICIT) x.take(A, x.A);
  for (int64_t t = 0; t < n.steps; ++t) {
    if (t % n.span == 0) x.save(kept + t / n.span * n.n * n.channels, H);
    if (x.starts[t]) std::fill_n(H, n.n * row, Vec<T>{});
    load(delta, x.of(x.delta, t), x.count), load(v, x.of(x.v, t), x.count);
    std::fill_n(read, row, Vec<T>{});
    for (int64_t s = 0; s < n.n; ++s) {
      const T k = x.k[t * n.n + s], q = x.q[t * n.n + s];
      for (int64_t j = 0; j < row; ++j) {
        Vec<T>& h = H[s * row + j];
        const Vec<T> a = IMPLICIT ? T(1) - k * k * delta[j] : p * exponential(delta[j] * A[s * row + j]) + r;
        h = a * h + k * v[j];
        read[j] += q * h;
      }
    }
    store(x.of(y, t), read, x.count);
  }
  x.save(last, H);
}

template <class T, bool IMPLICIT>
void backward_of(const Task<T>& x, const T* kept, const T* dlast, const T* dy, T* ddelta, T* dk, T* dq, T* dv, T* dstate,
                 T* dA) {
  const Sizes& n = x.n;
  const int64_t row = x.row, block = n.n * row;
  Scratch<T> states((n.span + 1) * block), slopes(IMPLICIT ? 0 : n.span * block), squares(4 * block), rows(5 * row);
  Vec<T>*H = states.get(), *E = slopes.get();  // E: p exp(delta A), the slope of a decay in delta A
  Vec<T>*A = squares.get(), *dH = A + block, *sums = dH + block, *zeros = sums + block;
  Vec<T>*delta = rows.get(), *v = delta + row, *g_y = v + row, *g_delta = g_y + row, *g_v = g_delta + row;
  const T p = IMPLICIT ? 0 : x.form[0], r = IMPLICIT ? 0 : x.form[1];
  x.take(dH, dlast);
  if (!IMPLICIT) x.take(A, x.A);
  for (int64_t begin = (n.steps - 1) / n.span * n.span; begin >= 0; begin -= n.span) {
    const int64_t end = std::min(begin + n.span, n.steps);
    x.take(H, kept + begin / n.span * n.n * n.channels);
    for (int64_t t = begin; t < end; ++t) {
      const Vec<T>* from = x.starts[t] ? zeros : H + (t - begin) * block;
      Vec<T>*to = H + (t - begin + 1) * block, *slope = E + (t - begin) * block;
      load(delta, x.of(x.delta, t), x.count), load(v, x.of(x.v, t), x.count);
      for (int64_t s = 0; s < n.n; ++s) {
        const T k = x.k[t * n.n + s];
        for (int64_t j = 0; j < row; ++j) {
          const int64_t at = s * row + j;
          if (!IMPLICIT) slope[at] = p * exponential(delta[j] * A[at]);
          const Vec<T> a = IMPLICIT ? T(1) - k * k * delta[j] : slope[at] + r;
          to[at] = a * from[at] + k * v[j];
        }
      }
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      const Vec<T>* from = x.starts[t] ? zeros : H + (t - begin) * block;
      const Vec<T>*to = H + (t - begin + 1) * block, *slope = E + (t - begin) * block;
      load(delta, x.of(x.delta, t), x.count), load(v, x.of(x.v, t), x.count);
      load(g_y, x.of(dy, t), x.count);
      std::fill_n(g_delta, row, Vec<T>{}), std::fill_n(g_v, row, Vec<T>{});
      for (int64_t s = 0; s < n.n; ++s) {
        const T k = x.k[t * n.n + s], q = x.q[t * n.n + s];
        Vec<T> with_y{}, with_v{};
        for (int64_t j = 0; j < row; ++j) {
          const int64_t at = s * row + j;
          const Vec<T> g = dH[at] + q * g_y[j], to_decay = g * from[at];
          with_y += g_y[j] * to[at];
          with_v += g * v[j];
          g_v[j] += k * g;
          if (IMPLICIT) {
            g_delta[j] -= k * k * to_decay;
            with_v -= 2 * k * to_decay * delta[j];
            dH[at] = (T(1) - k * k * delta[j]) * g;
          } else {
            const Vec<T> exponent = to_decay * slope[at];
            g_delta[j] += exponent * A[at];
            sums[at] += exponent * delta[j];
            dH[at] = (slope[at] + r) * g;
          }
        }
        dq[t * n.n + s] = sum(with_y);
        dk[t * n.n + s] = sum(with_v);
      }
      if (x.starts[t]) std::fill_n(dH, block, Vec<T>{});
      store(x.of(ddelta, t), g_delta, x.count), store(x.of(dv, t), g_v, x.count);
    }
  }
  x.save(dstate, dH);
  if (!IMPLICIT) x.save(dA, sums);
}

// operands: those of the scan, then A and form at `more`, if they are among them
template <class T, class F>
void each_task(const Call& call, const Batch& batch, const Sizes& n, int more, const F& run) {
  auto in = [&](int i) { return batch.places<const T>(call.in(i)); };
  const auto delta = in(0), k = in(1), q = in(2), v = in(3);
  const auto starts = batch.places<const bool>(call.in(4));
  const bool implicit = static_cast<int>(call.args.size()) == more;
  const auto A = in(implicit ? 0 : more), form = in(implicit ? 0 : more + 1);
  parallel(call.pool, batch.size * n.parts, [&](int64_t task) {
    const int64_t s = task / n.parts, part = task % n.parts, first = part * n.part;
    const int64_t count = std::min(n.part, n.channels - first);
    if (count < 1) return;
    const Task<T> x{n, first, count, vectors<T>(count), delta[s], k[s], q[s], v[s], starts[s], A[s], form[s]};
    if (implicit)
      run(std::true_type(), x, s, part);
    else
      run(std::false_type(), x, s, part);
  });
}

// operands delta, k, q, v, starts, state[, A, form]; results last, y, kept
template <class T>
void forward(const Call& call) {
  const int64_t channels = call.in(0).dimensions().back();
  const Sizes n = sizes(call.in(0), call.out(2), std::max<int64_t>(1, channels / 64));
  const Batch batch(call.out(1), 2);
  const auto state = batch.places<const T>(call.in(5));
  const auto last = batch.places<T>(call.out(0)), y = batch.places<T>(call.out(1)), kept = batch.places<T>(call.out(2));
  each_task<T>(call, batch, n, 6, [&](auto implicit, const Task<T>& x, int64_t s, int64_t) {
    forward_of<T, implicit>(x, state[s], last[s], y[s], kept[s]);
  });
}

// operands delta, k, q, v, starts, kept, dlast, dy[, A, form]; results ddelta, dk, dq, dv, dstate[, dA]
template <class T>
void backward(const Call& call) {
  const int64_t parts = call.out(1).dimensions().last(3)[0];
  const Sizes n = sizes(call.in(0), call.in(5), parts);
  const Batch batch(call.out(0), 2);
  const auto kept = batch.places<const T>(call.in(5)), dlast = batch.places<const T>(call.in(6));
  const auto dy = batch.places<const T>(call.in(7));
  auto out = [&](int i) { return batch.places<T>(call.out(i)); };
  const auto ddelta = out(0), dk = out(1), dq = out(2), dv = out(3), dstate = out(4);
  const auto dA = out(call.rets.size() > 5 ? 5 : 4);
  const int64_t each = n.steps * n.n;
  each_task<T>(call, batch, n, 8, [&](auto implicit, const Task<T>& x, int64_t s, int64_t part) {
    backward_of<T, implicit>(x, kept[s], dlast[s], dy[s], ddelta[s], dk[s] + part * each, dq[s] + part * each, dv[s],
                             dstate[s], dA[s]);
  });
}

}  // namespace

LINMEM_KERNEL(linmem_selective_forward, forward);
LINMEM_KERNEL(linmem_selective_backward, backward);

}  // namespace linmem
