// Complex diagonal recurrences that share their inputs, as those of memories/ffm.py: a trace v_t is summed up by several
// states, which decay and turn each in its own way.
//
//     h_t = gamma * h_{t-1} + v_t repeated,    gamma and h (n,) complex, v_t (m,), each entry for n / m neighbours of h
//
// Real and imaginary parts stand apart, so that a product reads the states of a step as one row of 2 n.
//
// Axes of operands, behind the batch's: gamma (2, n), v (steps, side, m), starts (steps, side), initial (side, 2, n),
// states (steps, side, 2, n). `side` are sequences side by side: tasks, as the batch is.

#include "common.h"

namespace linmem {
namespace {

struct Sizes {
  int64_t steps, side, n, m;
};

// v: (steps, side, m); states: (steps, side, 2, n)
Sizes sizes(AnyBuffer v, AnyBuffer states) {
  auto s = states.dimensions().last(4);
  return {s[0], s[1], s[3], v.dimensions().back()};
}

// operands v, gamma, starts, initial; result states
template <class T>
void forward(const Call& call) {
  const Sizes n = sizes(call.in(0), call.out(0));
  const Batch batch(call.out(0), 4);
  const auto v = batch.places<const T>(call.in(0)), gamma = batch.places<const T>(call.in(1));
  const auto starts = batch.places<const bool>(call.in(2));
  const auto initial = batch.places<const T>(call.in(3));
  const auto states = batch.places<T>(call.out(0));
  const int64_t row = vectors<T>(n.n), neighbours = n.n / n.m;
  parallel(call.pool, batch.size * n.side, [&](int64_t task) {
    const int64_t s = task / n.side, beside = task % n.side;
    Scratch<T> rows(5 * row);
    Vec<T>*re = rows.get(), *im = re + row, *a = im + row, *b = a + row, *entering = b + row;
    load(a, gamma[s], n.n), load(b, gamma[s] + n.n, n.n);
    load(re, initial[s] + beside * 2 * n.n, n.n), load(im, initial[s] + (beside * 2 + 1) * n.n, n.n);
    T* repeated = reinterpret_cast<T*>(entering);
    for (int64_t t = 0; t < n.steps; ++t) {
      const int64_t at = t * n.side + beside;
      if (starts[s][at]) std::fill_n(re, 2 * row, Vec<T>{});
      const T* shared = v[s] + at * n.m;
      for (int64_t i = 0; i < n.m; ++i) std::fill_n(repeated + i * neighbours, neighbours, shared[i]);
      for (int64_t j = 0; j < row; ++j) {
        const Vec<T> before = re[j];
        re[j] = a[j] * before - b[j] * im[j] + entering[j];
        im[j] = a[j] * im[j] + b[j] * before;
      }
      T* to = states[s] + at * 2 * n.n;
      store(to, re, n.n), store(to + n.n, im, n.n);
    }
  });
}

// operands dstates, gamma, starts, initial, states; results dv, dgamma of each sequence (side, 2, n), dinitial
template <class T>
void backward(const Call& call) {
  const Sizes n = sizes(call.out(0), call.in(0));
  const Batch batch(call.out(0), 3);
  const auto dstates = batch.places<const T>(call.in(0)), gamma = batch.places<const T>(call.in(1));
  const auto starts = batch.places<const bool>(call.in(2));
  const auto initial = batch.places<const T>(call.in(3)), states = batch.places<const T>(call.in(4));
  const auto dv = batch.places<T>(call.out(0)), dgamma = batch.places<T>(call.out(1));
  const auto dinitial = batch.places<T>(call.out(2));
  const int64_t row = vectors<T>(n.n), neighbours = n.n / n.m;
  parallel(call.pool, batch.size * n.side, [&](int64_t task) {
    const int64_t s = task / n.side, beside = task % n.side, pair = beside * 2 * n.n;
    Scratch<T> rows(10 * row);
    Vec<T>*re = rows.get(), *im = re + row, *a = im + row, *b = a + row, *da = b + row, *db = da + row;
    Vec<T>*g_re = db + row, *g_im = g_re + row, *h_re = g_im + row, *h_im = h_re + row;
    load(a, gamma[s], n.n), load(b, gamma[s] + n.n, n.n);
    const T* summed = reinterpret_cast<const T*>(g_re);
    for (int64_t t = n.steps - 1; t >= 0; --t) {
      const int64_t at = t * n.side + beside;
      const T* from = dstates[s] + at * 2 * n.n;
      load(g_re, from, n.n), load(g_im, from + n.n, n.n);
      if (starts[s][at]) {
        std::fill_n(h_re, 2 * row, Vec<T>{});
      } else {
        const T* before = t ? states[s] + (at - n.side) * 2 * n.n : initial[s] + pair;
        load(h_re, before, n.n), load(h_im, before + n.n, n.n);
      }
      for (int64_t j = 0; j < row; ++j) {
        g_re[j] += re[j], g_im[j] += im[j];
        da[j] += g_re[j] * h_re[j] + g_im[j] * h_im[j];
        db[j] += g_im[j] * h_re[j] - g_re[j] * h_im[j];
        re[j] = a[j] * g_re[j] + b[j] * g_im[j];
        im[j] = a[j] * g_im[j] - b[j] * g_re[j];
      }
      T* to = dv[s] + at * n.m;
      for (int64_t i = 0; i < n.m; ++i) {
        T sum = 0;
        for (int64_t c = 0; c < neighbours; ++c) sum += summed[i * neighbours + c];
        to[i] = sum;
      }
      if (starts[s][at]) std::fill_n(re, 2 * row, Vec<T>{});
    }
    store(dgamma[s] + pair, da, n.n), store(dgamma[s] + pair + n.n, db, n.n);
    store(dinitial[s] + pair, re, n.n), store(dinitial[s] + pair + n.n, im, n.n);
  });
}

}  // namespace

LINMEM_KERNEL(linmem_traces_forward, forward);
LINMEM_KERNEL(linmem_traces_backward, backward);

}  // namespace linmem
