// The delta rule:
//
//     S = w_t S_{t-1};   for each write: S = S + beta k e^T, e = v - S^T k;   y_t = S^T q_t
//
// e is kept for the way back. Its sums over i are those of one row of keys.
//
// Settings: unit, the epsilon of core/unit.py if q and k are to be scaled to length 1, else -1; decays, false if all w
// are 1, whose derivative is then left out.

#include "matrix.h"

namespace linmem {
namespace {

template <class T>
struct Delta {
  Steps<const T> q, k, v, beta, w;
  const bool* starts;
  T epsilon;

  // x to length 1, if that is asked for; what it was multiplied by.
  T to_unit(Vec<T>* x, int row) const {
    if (epsilon < 0) return 1;
    Vec<T> squares{};
    for (int j = 0; j < row; ++j) squares += x[j] * x[j];
    const T rate = 1 / std::sqrt(sum(squares) + epsilon);
    for (int j = 0; j < row; ++j) x[j] *= rate;
    return rate;
  }
  // The derivative in what x was before it, from that in x.
  void before_unit(Vec<T>* dx, const Vec<T>* x, T rate, int row) const {
    if (epsilon < 0) return;
    Vec<T> along{};
    for (int j = 0; j < row; ++j) along += dx[j] * x[j];
    const T projected = sum(along);
    for (int j = 0; j < row; ++j) dx[j] = rate * (dx[j] - projected * x[j]);
  }
};

// A write that S waits for: w S + k value^T.
template <class T>
struct Write {
  const T* k;
  T w;
  const T* q;  // with which the state after it is read, if it is
};

// `S` = w S + k value^T, `read` = S^T q and `held` = S^T next, in one way over S.
template <class T, int N, bool DECAYS, bool READS, bool HOLDS>
void go_over(const Write<T>& write, const T* next, int64_t dk, int row, Vec<T>* S, const Vec<T>* value, Vec<T>* read,
             Vec<T>* held) {
  constexpr int SOME = TOGETHER<N>;
  for (int j = 0; j < row; j += SOME) {
    Vec<T> written[SOME], sum_q[SOME]{}, sum_k[SOME]{};
    for (int o = 0; o < SOME; ++o) written[o] = value[j + o];
    for (int64_t i = 0; i < dk; ++i) {
      const T ki = write.k[i], qi = READS ? write.q[i] : T(0), next_i = HOLDS ? next[i] : T(0);
      for (int o = 0; o < SOME; ++o) {
        Vec<T> s = S[i * row + j + o];
        if constexpr (DECAYS) s *= write.w;
        s += ki * written[o];
        S[i * row + j + o] = s;
        if constexpr (READS) sum_q[o] += qi * s;
        if constexpr (HOLDS) sum_k[o] += next_i * s;
      }
    }
    for (int o = 0; o < SOME; ++o) {
      if constexpr (READS) read[j + o] = sum_q[o];
      if constexpr (HOLDS) held[j + o] = sum_k[o];
    }
  }
}

template <class T, int N, class... More>
void write_and_hold(const Write<T>& write, const More&... more) {
  if (write.w == 1 && write.q) return go_over<T, N, false, true, true>(write, more...);
  if (write.w == 1) return go_over<T, N, false, false, true>(write, more...);
  if (write.q) return go_over<T, N, true, true, true>(write, more...);
  go_over<T, N, true, false, true>(write, more...);
}

// A write waits until the next one reads S, so that each goes over S once.
template <class T, int N>
void delta_forward(const Delta<T>& x, const Sizes& n, int count, const T* state, T* last, Steps<T> y, T* kept,
                   Steps<T> errors) {
  const int row = N ? N : count;
  const int key_row = vectors<T>(n.dk);
  Scratch<T> scratch(n.dk * row), keys(4 * key_row);
  Vec<T>* S = scratch.get();
  Rows<T, N, 3> rows(row);
  Vec<T>*value = rows[0], *read = rows[1], *held = rows[2];
  // two keys: the one that waits, and the next
  Vec<T>*key = keys.get(), *other_key = key + key_row, *query = other_key + key_row, *nothing = query + key_row;
  const auto numbers = [](const Vec<T>* x) { return reinterpret_cast<const T*>(x); };
  const Write<T> none{numbers(nothing), T(1), nullptr};
  Write<T> waiting = none;
  auto write_now = [&](int64_t t) {  // before step t
    if (waiting.q) {
      go_over<T, N, true, true, false>(waiting, nullptr, n.dk, row, S, value, read, held);
      store<T, N>(y.at(t - 1), read, n.dv);
    }
    waiting = none;
    for (int j = 0; j < row; ++j) value[j] = Vec<T>{};
  };
  restore(S, state, n, row);
  for (int64_t t = 0; t < n.steps; ++t) {
    if (t % n.span == 0) {
      write_now(t);
      save(kept + t / n.span * n.heads * n.matrix(), S, n, row);
    }
    if (x.starts[t]) {
      write_now(t);
      std::fill(S, S + n.dk * row, Vec<T>{});
    }
    x.q.fetch(t + AHEAD), x.k.fetch(t + AHEAD), x.v.fetch(t + AHEAD), y.fetch(t + AHEAD), errors.fetch(t + AHEAD);
    for (int64_t m = 0; m < n.writes; ++m) {
      const T w = m ? T(1) : x.w.at(t)[0], beta = x.beta.at(t)[m];
      load(key, x.k.at(t) + m * n.dk, n.dk);
      x.to_unit(key, key_row);
      write_and_hold<T, N>(waiting, numbers(key), n.dk, row, S, value, read, held);
      if (waiting.q) store<T, N>(y.at(t - 1), read, n.dv);
      load<T, N>(value, x.v.at(t) + m * n.dv, n.dv);
      for (int j = 0; j < row; ++j) value[j] -= w * held[j];
      store<T, N>(errors.at(t) + m * n.dv, value, n.dv);
      for (int j = 0; j < row; ++j) value[j] *= beta;
      waiting = {numbers(key), w, nullptr};
      std::swap(key, other_key);
    }
    load(query, x.q.at(t), n.dk);
    x.to_unit(query, key_row);
    waiting.q = numbers(query);
  }
  write_now(n.steps);
  save(last, S, n, row);
}

template <class T>
struct DeltaAdjoint {
  Steps<T> q, k, v, beta, w;
};

template <class T, int N, bool DECAYS>
void delta_backward(const Delta<T>& x, const Sizes& n, int count, const T* kept, Steps<const T> errors,
                    const T* dlast, Steps<const T> dy, T* dstate, const DeltaAdjoint<T>& d) {
  const int row = N ? N : count;
  const int64_t block = n.dv * row;
  constexpr int SOME = TOGETHER<N>;
  Scratch<T> states(n.span * n.writes * block, false), adjoint(block), zeros(block), sums(n.dv);
  Vec<T>*S = states.get(), *dS = adjoint.get(), *along = sums.get();
  Rows<T, N, 5> rows(row);
  Vec<T>*q = rows[0], *k = rows[1], *dq = rows[2], *dk = rows[3], *dw = rows[4];
  std::fill(S, S + block, Vec<T>{});  // what rows have beyond their numbers stays 0
  restore_transposed(dS, dlast, n, row);
  for (int64_t begin = (n.steps - 1) / n.span * n.span; begin >= 0; begin -= n.span) {
    const int64_t end = std::min(begin + n.span, n.steps);
    auto kept_before = [&](int64_t t, int64_t m) { return S + ((t - begin) * n.writes + m) * block; };
    auto before = [&](int64_t t, int64_t m) { return m == 0 && x.starts[t] ? zeros.get() : kept_before(t, m); };
    restore_transposed(S, kept + begin / n.span * n.heads * n.matrix(), n, row);
    for (int64_t t = begin; t < end; ++t) {
      x.k.fetch(t + AHEAD), errors.fetch(t + AHEAD), x.q.fetch(t + AHEAD), dy.fetch(t + AHEAD);
      for (int64_t m = 0; m < n.writes; ++m) {
        if (t == end - 1 && m == n.writes - 1) break;  // nobody asks what comes after the last write
        load<T, N>(k, x.k.at(t) + m * n.dk, n.dk);
        x.to_unit(k, row);
        const T *e = errors.at(t) + m * n.dv, w = m ? T(1) : x.w.at(t)[0], beta = x.beta.at(t)[m];
        const Vec<T>* from = before(t, m);
        Vec<T>* to = kept_before(t, m + 1);
        for (int64_t c = 0; c < n.dv; ++c) {
          const T written = beta * e[c];
          for (int j = 0; j < row; ++j) to[c * row + j] = w * from[c * row + j] + written * k[j];
        }
      }
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      d.q.fetch(t - AHEAD), d.k.fetch(t - AHEAD), d.v.fetch(t - AHEAD);
      load<T, N>(q, x.q.at(t), n.dk);
      const T* dread = dy.at(t);
      const T q_rate = x.to_unit(q, row);
      for (int64_t m = n.writes - 1; m >= 0; --m) {
        load<T, N>(k, x.k.at(t) + m * n.dk, n.dk);
        const T k_rate = x.to_unit(k, row);
        const T *e = errors.at(t) + m * n.dv, w = m ? T(1) : x.w.at(t)[0], beta = x.beta.at(t)[m];
        const Vec<T>* from = before(t, m);
        const bool reads = m == n.writes - 1;
        T* dv = d.v.at(t) + m * n.dv;
        std::fill(along, along + n.dv, Vec<T>{});
        for (int j = 0; j < row; j += SOME) {
          Vec<T> sq[SOME]{}, qj[SOME], kj[SOME];
          for (int o = 0; o < SOME; ++o) qj[o] = q[j + o], kj[o] = k[j + o];
          for (int64_t c = 0; c < n.dv; ++c) {
            const T dyc = reads ? dread[c] : T(0);
            Vec<T> with_k = along[c];
            for (int o = 0; o < SOME; ++o) {
              const int64_t at = c * row + j + o;
              const Vec<T> g = dS[at] + dyc * qj[o];
              sq[o] += dyc * from[at];  // S_t is w S_{t-1} and what was written
              with_k += g * kj[o];
              dS[at] = g;
            }
            along[c] = with_k;
          }
          for (int o = 0; o < SOME; ++o) dq[j + o] = sq[o];
        }
        for (int64_t c = 0; c < n.dv; ++c) dv[c] = sum(along[c]);
        d.beta.at(t)[m] = dot(dv, e, n.dv);
        for (int64_t c = 0; c < n.dv; ++c) dv[c] *= beta;  // the derivative in e, too
        for (int j = 0; j < row; j += SOME) {
          Vec<T> sk[SOME]{}, lost[SOME]{}, sw[SOME]{}, kj[SOME];  // two sums for dk: neither waits for the other
          for (int o = 0; o < SOME; ++o) kj[o] = k[j + o];
          for (int64_t c = 0; c < n.dv; ++c) {
            const T de = dv[c], written = beta * e[c];
            for (int o = 0; o < SOME; ++o) {
              const int64_t at = c * row + j + o;
              Vec<T> g = dS[at];
              sk[o] += written * g;
              lost[o] += de * from[at];
              g -= de * kj[o];  // the derivative in w S
              if constexpr (DECAYS) {
                sw[o] += g * from[at];
                g *= w;
              }
              dS[at] = g;
            }
          }
          for (int o = 0; o < SOME; ++o) dk[j + o] = sk[o] - w * lost[o], dw[j + o] = sw[o];
        }
        x.before_unit(dk, k, k_rate, row);
        store<T, N>(d.k.at(t) + m * n.dk, dk, n.dk);
        if (reads) {
          const T written_read = beta * dot(dread, e, n.dv);
          for (int j = 0; j < row; ++j) dq[j] = w * dq[j] + written_read * k[j];
          x.before_unit(dq, q, q_rate, row);
          store<T, N>(d.q.at(t), dq, n.dk);
        }
        if (m == 0) {
          Vec<T> total{};
          for (int j = 0; j < row; ++j) total += dw[j];
          d.w.at(t)[0] = sum(total);
        }
      }
      if (x.starts[t]) std::fill(dS, dS + block, Vec<T>{});
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
  const T epsilon = call.setting<double>("unit");
  each_head(call, batch, n, [&](int64_t s, int64_t h, int64_t at) {
    const Delta<T> x{q.of(s, h), k.of(s, h), v.of(s, h), beta.of(s, h), w.of(s, h), starts[s], epsilon};
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
  const T epsilon = call.setting<double>("unit");
  const bool decays = call.setting<bool>("decays");
  each_head(call, batch, n, [&](int64_t s, int64_t h, int64_t at) {
    const Delta<T> x{q.of(s, h), k.of(s, h), v.of(s, h), beta.of(s, h), w.of(s, h), starts[s], epsilon};
    const DeltaAdjoint<T> d{dq.of(s, h), dk.of(s, h), dv.of(s, h), dbeta.of(s, h), dw.of(s, h)};
    sized<T>(count, [&](auto N) {
      auto run = decays ? delta_backward<T, N(), true> : delta_backward<T, N(), false>;
      run(x, n, count, kept[s] + at, errors.of(s, h), dlast[s] + at, dy.of(s, h), dstate[s] + at, d);
    });
  });
}

}  // namespace

LINMEM_KERNEL(linmem_delta_forward, delta_forward_call);
LINMEM_KERNEL(linmem_delta_backward, delta_backward_call);

}  // namespace linmem
