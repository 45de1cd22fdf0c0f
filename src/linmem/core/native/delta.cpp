// The delta rule:
//
//     S = w_t S_{t-1};   for each write: S = S + beta k e^T, e = v - S^T k;   y_t = S^T q_t
//
// e is kept for the way back. Its sums over i are those of one row of keys.

#include "matrix.h"

namespace linmem {
namespace {

template <class T>
struct Delta {
  Steps<const T> q, k, v, beta, w;
  const bool* starts;
};

template <class T, int N>
void delta_forward(const Delta<T>& x, const Sizes& n, int count, const T* state, T* last, Steps<T> y, T* kept,
                   Steps<T> errors) {
  const int row = N ? N : count;
  Scratch<T> scratch(n.dk * row);
  Vec<T>* S = scratch.get();
  Rows<T, N, 3> rows(row);
  Vec<T>*value = rows[0], *read = rows[1], *held = rows[2];
  restore(S, state, n, row);
  for (int64_t t = 0; t < n.steps; ++t) {
    if (t % n.span == 0) save(kept + t / n.span * n.heads * n.matrix(), S, n, row);
    if (x.starts[t]) std::fill(S, S + n.dk * row, Vec<T>{});
    x.q.fetch(t + AHEAD), x.k.fetch(t + AHEAD), x.v.fetch(t + AHEAD), y.fetch(t + AHEAD), errors.fetch(t + AHEAD);
    const T* q = x.q.at(t);
    for (int j = 0; j < row; ++j) read[j] = Vec<T>{};
    for (int64_t m = 0; m < n.writes; ++m) {
      const T *k = x.k.at(t) + m * n.dk, w = m ? T(1) : x.w.at(t)[0], beta = x.beta.at(t)[m];
      const bool reads = m == n.writes - 1;
      for (int j = 0; j < row; ++j) held[j] = Vec<T>{};
      for (int64_t i = 0; i < n.dk; ++i) {
        const T ki = k[i];
        for (int j = 0; j < row; ++j) held[j] += ki * S[i * row + j];
      }
      load(value, x.v.at(t) + m * n.dv, n.dv);
      for (int j = 0; j < row; ++j) value[j] -= w * held[j];
      store(errors.at(t) + m * n.dv, value, n.dv);
      for (int j = 0; j < row; ++j) value[j] *= beta;
      for (int64_t i = 0; i < n.dk; ++i) {
        const T ki = k[i], qi = reads ? q[i] : T(0);
        for (int j = 0; j < row; ++j) {
          Vec<T> s = w * S[i * row + j] + ki * value[j];
          S[i * row + j] = s;
          read[j] += qi * s;
        }
      }
    }
    store(y.at(t), read, n.dv);
  }
  save(last, S, n, row);
}

template <class T>
struct DeltaAdjoint {
  Steps<T> q, k, v, beta, w;
};

template <class T, int N>
void delta_backward(const Delta<T>& x, const Sizes& n, int count, const T* kept, Steps<const T> errors,
                    const T* dlast, Steps<const T> dy, T* dstate, const DeltaAdjoint<T>& d) {
  const int row = N ? N : count;
  constexpr int SOME = TOGETHER<N>;
  const int64_t block = n.dv * row;
  Scratch<T> states((n.span * n.writes + 1) * block), adjoint(block), zeros(block), sums(n.dv);
  Vec<T>*S = states.get(), *dS = adjoint.get(), *along = sums.get();
  Rows<T, N, 5> rows(row);
  Vec<T>*q = rows[0], *k = rows[1], *dq = rows[2], *dk = rows[3], *dw = rows[4];
  restore_transposed(dS, dlast, n, row);
  for (int64_t begin = (n.steps - 1) / n.span * n.span; begin >= 0; begin -= n.span) {
    const int64_t end = std::min(begin + n.span, n.steps);
    auto after = [&](int64_t t, int64_t m) { return S + ((t - begin) * n.writes + m + 1) * block; };
    auto before = [&](int64_t t, int64_t m) { return m == 0 && x.starts[t] ? zeros.get() : after(t, m - 1); };
    restore_transposed(S, kept + begin / n.span * n.heads * n.matrix(), n, row);
    for (int64_t t = begin; t < end; ++t) {
      x.k.fetch(t + AHEAD), errors.fetch(t + AHEAD), x.q.fetch(t + AHEAD), dy.fetch(t + AHEAD);
      for (int64_t m = 0; m < n.writes; ++m) {
        load(k, x.k.at(t) + m * n.dk, n.dk);
        const T *e = errors.at(t) + m * n.dv, w = m ? T(1) : x.w.at(t)[0], beta = x.beta.at(t)[m];
        const Vec<T>* from = before(t, m);
        Vec<T>* to = after(t, m);
        for (int64_t c = 0; c < n.dv; ++c) {
          const T written = beta * e[c];
          for (int j = 0; j < row; ++j) to[c * row + j] = w * from[c * row + j] + written * k[j];
        }
      }
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      d.q.fetch(t - AHEAD), d.k.fetch(t - AHEAD), d.v.fetch(t - AHEAD);
      load(q, x.q.at(t), n.dk);
      const T* dread = dy.at(t);
      for (int j = 0; j < row; ++j) dq[j] = Vec<T>{};
      for (int64_t m = n.writes - 1; m >= 0; --m) {
        load(k, x.k.at(t) + m * n.dk, n.dk);
        const T *e = errors.at(t) + m * n.dv, w = m ? T(1) : x.w.at(t)[0], beta = x.beta.at(t)[m];
        const Vec<T>*from = before(t, m), *to = after(t, m);
        const bool reads = m == n.writes - 1;
        T *dv = d.v.at(t) + m * n.dv, dbeta = 0;
        std::fill(along, along + n.dv, Vec<T>{});
        for (int j = 0; j < row; j += SOME) {
          Vec<T> sq[SOME]{};
          for (int64_t c = 0; c < n.dv; ++c) {
            const T dyc = reads ? dread[c] : T(0);
            Vec<T> with_k = along[c];
            for (int o = 0; o < SOME; ++o) {
              const int64_t at = c * row + j + o;
              const Vec<T> g = dS[at] + dyc * q[j + o];
              sq[o] += dyc * to[at];
              with_k += g * k[j + o];
              dS[at] = g;
            }
            along[c] = with_k;
          }
          for (int o = 0; o < SOME; ++o) dq[j + o] += sq[o];
        }
        for (int64_t c = 0; c < n.dv; ++c) {
          const T dwritten = sum(along[c]);
          dbeta += dwritten * e[c];
          dv[c] = beta * dwritten;  // the derivative in e, too
        }
        for (int j = 0; j < row; j += SOME) {
          Vec<T> sk[SOME]{}, sw[SOME]{};
          for (int64_t c = 0; c < n.dv; ++c) {
            const T de = dv[c], de_w = de * w, written = beta * e[c];
            for (int o = 0; o < SOME; ++o) {
              const int64_t at = c * row + j + o;
              const Vec<T> g = dS[at] - de * k[j + o];  // the derivative in w S
              sk[o] += written * dS[at] - de_w * from[at];
              sw[o] += g * from[at];
              dS[at] = w * g;
            }
          }
          for (int o = 0; o < SOME; ++o) dk[j + o] = sk[o], dw[j + o] = sw[o];
        }
        d.beta.at(t)[m] = dbeta;
        store(d.k.at(t) + m * n.dk, dk, n.dk);
        if (m == 0) {
          Vec<T> total{};
          for (int j = 0; j < row; ++j) total += dw[j];
          d.w.at(t)[0] = sum(total);
        }
      }
      if (x.starts[t]) std::fill(dS, dS + block, Vec<T>{});
      store(d.q.at(t), dq, n.dk);
    }
  }
  save_transposed(dstate, dS, n, row);
}

// operands q, k, v, beta, w, starts, state; results last, y, kept, errors. k and v (.., writes, dk or dv), beta (.., writes)
template <class T>
void delta_forward_call(const Call& call) {
  const Sizes n = sizes(call.in(2), 4, call.out(2));
  const Batch batch(call.out(1), 3);
  auto series = [&](int i, int own) { return Series<const T>(batch, call.in(i), own); };
  const auto q = series(0, 3), k = series(1, 4), v = series(2, 4), beta = series(3, 3), w = series(4, 2);
  const auto starts = batch.places<const bool>(call.in(5));
  const auto state = batch.places<const T>(call.in(6));
  const auto last = batch.places<T>(call.out(0)), kept = batch.places<T>(call.out(2));
  const Series<T> y(batch, call.out(1), 3), errors(batch, call.out(3), 4);
  const int count = vectors<T>(n.dv);
  each_head(call, batch, n, [&](int64_t s, int64_t h, int64_t at) {
    const Delta<T> x{q.of(s, h), k.of(s, h), v.of(s, h), beta.of(s, h), w.of(s, h), starts[s]};
    sized<T>(count, [&](auto N) {
      delta_forward<T, N()>(x, n, count, state[s] + at, last[s] + at, y.of(s, h), kept[s] + at, errors.of(s, h));
    });
  });
}

// operands q, k, v, beta, w, starts, kept, errors, dlast, dy; results dq, dk, dv, dbeta, dw, dstate
template <class T>
void delta_backward_call(const Call& call) {
  const Sizes n = sizes(call.in(2), 4, call.in(6));
  const Batch batch(call.out(2), 4);
  auto series = [&](int i, int own) { return Series<const T>(batch, call.in(i), own); };
  auto adjoint = [&](int i, int own) { return Series<T>(batch, call.out(i), own); };
  const auto q = series(0, 3), k = series(1, 4), v = series(2, 4), beta = series(3, 3), w = series(4, 2);
  const auto errors = series(7, 4), dy = series(9, 3);
  const auto dq = adjoint(0, 3), dk = adjoint(1, 4), dv = adjoint(2, 4), dbeta = adjoint(3, 3), dw = adjoint(4, 2);
  const auto starts = batch.places<const bool>(call.in(5));
  const auto kept = batch.places<const T>(call.in(6)), dlast = batch.places<const T>(call.in(8));
  const auto dstate = batch.places<T>(call.out(5));
  const int count = vectors<T>(n.dk);
  each_head(call, batch, n, [&](int64_t s, int64_t h, int64_t at) {
    const Delta<T> x{q.of(s, h), k.of(s, h), v.of(s, h), beta.of(s, h), w.of(s, h), starts[s]};
    const DeltaAdjoint<T> d{dq.of(s, h), dk.of(s, h), dv.of(s, h), dbeta.of(s, h), dw.of(s, h)};
    sized<T>(count, [&](auto N) {
      delta_backward<T, N()>(x, n, count, kept[s] + at, errors.of(s, h), dlast[s] + at, dy.of(s, h), dstate[s] + at,
                             d);
    });
  });
}

}  // namespace

LINMEM_KERNEL(linmem_delta_forward, delta_forward_call);
LINMEM_KERNEL(linmem_delta_backward, delta_backward_call);

}  // namespace linmem
