// Decays, and removals with keys of their own:
//
//     S_t = diag(w_t) S_{t-1} + b_t u_t^T + k_t v_t^T,     u_t = S_{t-1}^T a_t,     y_t = S_t^T q_t
//
// w has one number a head or one for each row. Without REMOVES there is no a, b, u.

#include "matrix.h"

namespace linmem {
namespace {

template <class T>
struct Decay {
  Steps<const T> q, k, v, w, a, b;
  const bool* starts;
};

template <class T, int N, bool REMOVES>
void decay_forward(const Decay<T>& x, const Sizes& n, int count, const T* state, T* last, Steps<T> y, T* kept,
                   Steps<T> u) {
  const int row = N ? N : count;
  Scratch<T> scratch(n.dk * row);
  Vec<T>* S = scratch.get();
  Rows<T, N, 3> rows(row);
  Vec<T>*value = rows[0], *read = rows[1], *removed = rows[2];
  const int64_t next = x.w.width == 1 ? 0 : 1;
  restore(S, state, n, row);
  for (int64_t t = 0; t < n.steps; ++t) {
    if (t % n.span == 0) save(kept + t / n.span * n.heads * n.matrix(), S, n, row);
    if (x.starts[t]) std::fill(S, S + n.dk * row, Vec<T>{});
    x.q.fetch(t + AHEAD), x.k.fetch(t + AHEAD), x.v.fetch(t + AHEAD), y.fetch(t + AHEAD);
    const T *q = x.q.at(t), *k = x.k.at(t), *w = x.w.at(t), *b = nullptr;
    load<T, N>(value, x.v.at(t), n.dv);
    if constexpr (REMOVES) {
      const T* a = x.a.at(t);
      b = x.b.at(t);
      for (int j = 0; j < row; ++j) removed[j] = Vec<T>{};
      for (int64_t i = 0; i < n.dk; ++i) {
        const T ai = a[i];
        for (int j = 0; j < row; ++j) removed[j] += ai * S[i * row + j];
      }
      store<T, N>(u.at(t), removed, n.dv);
    }
    for (int j = 0; j < row; ++j) read[j] = Vec<T>{};
    for (int64_t i = 0; i < n.dk; ++i) {
      const T wi = w[i * next], ki = k[i], qi = q[i], bi = REMOVES ? b[i] : T(0);
      for (int j = 0; j < row; ++j) {
        Vec<T> s = wi * S[i * row + j] + ki * value[j];
        if constexpr (REMOVES) s += bi * removed[j];
        S[i * row + j] = s;
        read[j] += qi * s;
      }
    }
    store<T, N>(y.at(t), read, n.dv);
  }
  save(last, S, n, row);
}

template <class T>
struct DecayAdjoint {
  Steps<T> q, k, v, w, a, b;
};

template <class T, int N, bool REMOVES>
void decay_backward(const Decay<T>& x, const Sizes& n, int count, const T* kept, Steps<const T> u, const T* dlast,
                    Steps<const T> dy, T* dstate, const DecayAdjoint<T>& d) {
  const int row = N ? N : count;
  constexpr int SOME = std::min(TOGETHER<N>, 2);
  const int64_t block = n.dv * row;
  Scratch<T> states(n.span * block, false), adjoint(block), zeros(block), sums(2 * n.dv);
  Vec<T>*S = states.get(), *dS = adjoint.get(), *along = sums.get(), *along_b = along + n.dv;
  Rows<T, N, 10> rows(row);
  Vec<T>*q = rows[0], *k = rows[1], *w = rows[2], *a = rows[3], *b = rows[4];
  Vec<T>*dq = rows[5], *dk = rows[6], *dw = rows[7], *da = rows[8], *db = rows[9];
  auto load_factors = [&](int64_t t) {
    load<T, N>(k, x.k.at(t), n.dk);
    if (x.w.width == 1)
      for (int j = 0; j < row; ++j) w[j] = Vec<T>{} + x.w.at(t)[0];
    else
      load<T, N>(w, x.w.at(t), n.dk);
    if constexpr (REMOVES) load<T, N>(b, x.b.at(t), n.dk);
  };
  std::fill(S, S + block, Vec<T>{});  // what rows have beyond their numbers stays 0
  restore_transposed(dS, dlast, n, row);
  for (int64_t begin = (n.steps - 1) / n.span * n.span; begin >= 0; begin -= n.span) {
    const int64_t end = std::min(begin + n.span, n.steps);
    auto kept_before = [&](int64_t t) { return S + (t - begin) * block; };
    auto before = [&](int64_t t) { return x.starts[t] ? zeros.get() : kept_before(t); };
    restore_transposed(S, kept + begin / n.span * n.heads * n.matrix(), n, row);
    for (int64_t t = begin; t < end - 1; ++t) {
      x.k.fetch(t + AHEAD), x.v.fetch(t + AHEAD), x.q.fetch(t + AHEAD), dy.fetch(t + AHEAD);
      load_factors(t);
      const T *v = x.v.at(t), *removed = REMOVES ? u.at(t) : nullptr;
      const Vec<T>* from = before(t);
      Vec<T>* to = kept_before(t + 1);
      for (int64_t c = 0; c < n.dv; ++c) {
        const T vc = v[c], uc = REMOVES ? removed[c] : T(0);
        for (int j = 0; j < row; ++j) {
          Vec<T> s = w[j] * from[c * row + j] + vc * k[j];
          if constexpr (REMOVES) s += uc * b[j];
          to[c * row + j] = s;
        }
      }
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      d.q.fetch(t - AHEAD), d.k.fetch(t - AHEAD), d.v.fetch(t - AHEAD);
      load_factors(t);
      load<T, N>(q, x.q.at(t), n.dk);
      const Vec<T>* from = before(t);
      const T *v = x.v.at(t), *dread = dy.at(t);
      T* dv = d.v.at(t);
      if constexpr (REMOVES) {
        load<T, N>(a, x.a.at(t), n.dk);
        const T* removed = u.at(t);
        std::fill(along, along + 2 * n.dv, Vec<T>{});
        for (int j = 0; j < row; j += SOME) {
          Vec<T> sq[SOME]{}, sk[SOME]{}, sb[SOME]{}, sw[SOME]{};
          for (int64_t c = 0; c < n.dv; ++c) {
            const T dyc = dread[c], vc = v[c], uc = removed[c];
            Vec<T> with_k = along[c], with_b = along_b[c];
            for (int o = 0; o < SOME; ++o) {
              const int64_t at = c * row + j + o;
              const Vec<T> g = dS[at] + dyc * q[j + o];
              sq[o] += dyc * from[at];  // S_t is w S_{t-1} and what was written
              sk[o] += vc * g;
              sb[o] += uc * g;
              sw[o] += g * from[at];
              with_k += g * k[j + o];
              with_b += g * b[j + o];
              dS[at] = g;
            }
            along[c] = with_k, along_b[c] = with_b;
          }
          for (int o = 0; o < SOME; ++o)
            dq[j + o] = sq[o], dk[j + o] = sk[o], db[j + o] = sb[o], dw[j + o] = sw[o], da[j + o] = Vec<T>{};
        }
        for (int64_t c = 0; c < n.dv; ++c) {
          dv[c] = sum(along[c]);
          const T du = sum(along_b[c]);
          for (int j = 0; j < row; ++j) {
            const int64_t at = c * row + j;
            da[j] += du * from[at];
            dS[at] = w[j] * dS[at] + du * a[j];
          }
        }
        store<T, N>(d.a.at(t), da, n.dk);
        store<T, N>(d.b.at(t), db, n.dk);
      } else {
        std::fill(along, along + n.dv, Vec<T>{});
        for (int j = 0; j < row; j += SOME) {
          Vec<T> sq[SOME]{}, sk[SOME]{}, sw[SOME]{};
          for (int64_t c = 0; c < n.dv; ++c) {
            const T dyc = dread[c], vc = v[c];
            Vec<T> with_k = along[c];
            for (int o = 0; o < SOME; ++o) {
              const int64_t at = c * row + j + o;
              Vec<T> g = dS[at] + dyc * q[j + o];
              sq[o] += dyc * from[at];  // S_t is w S_{t-1} and what was written
              sk[o] += vc * g;
              sw[o] += g * from[at];
              with_k += g * k[j + o];
              dS[at] = w[j + o] * g;
            }
            along[c] = with_k;
          }
          for (int o = 0; o < SOME; ++o) dq[j + o] = sq[o], dk[j + o] = sk[o], dw[j + o] = sw[o];
        }
        for (int64_t c = 0; c < n.dv; ++c) dv[c] = sum(along[c]);
      }
      const T value_read = dot(dread, v, n.dv), removed_read = REMOVES ? dot(dread, u.at(t), n.dv) : T(0);
      for (int j = 0; j < row; ++j) {
        dq[j] = w[j] * dq[j] + value_read * k[j];
        if constexpr (REMOVES) dq[j] += removed_read * b[j];
      }
      if (x.starts[t]) std::fill(dS, dS + block, Vec<T>{});
      store<T, N>(d.q.at(t), dq, n.dk);
      store<T, N>(d.k.at(t), dk, n.dk);
      if (x.w.width == 1) {
        Vec<T> total{};
        for (int j = 0; j < row; ++j) total += dw[j];
        d.w.at(t)[0] = sum(total);
      } else {
        store<T, N>(d.w.at(t), dw, n.dk);
      }
    }
  }
  save_transposed(dstate, dS, n, row);
}

// operands q, k, v, w, [a, b,] starts, state; results last, y, kept [, u]
template <class T, bool REMOVES>
void decay_forward_call(const Call& call) {
  const int more = REMOVES ? 2 : 0;
  const Sizes n = sizes(call.in(2), 3, call.out(2));
  const Batch batch(call.out(1), 3);
  auto series = [&](int i) { return Series<const T>(batch, call.in(i), 3); };
  const auto q = series(0), k = series(1), v = series(2), w = series(3);
  const auto a = series(REMOVES ? 4 : 0), b = series(REMOVES ? 5 : 0);
  const auto starts = batch.places<const bool>(call.in(4 + more));
  const auto state = batch.places<const T>(call.in(5 + more));
  const auto last = batch.places<T>(call.out(0)), kept = batch.places<T>(call.out(2));
  const Series<T> y(batch, call.out(1), 3), u(batch, call.out(REMOVES ? 3 : 1), 3);
  const int count = vectors<T>(n.dv);
  each_head(call, batch, n, [&](int64_t s, int64_t h, int64_t at) {
    const Decay<T> x{q.of(s, h), k.of(s, h), v.of(s, h), w.of(s, h), a.of(s, h), b.of(s, h), starts[s]};
    sized<T>(count, [&](auto N) {
      decay_forward<T, N(), REMOVES>(x, n, count, state[s] + at, last[s] + at, y.of(s, h), kept[s] + at, u.of(s, h));
    });
  });
}

// operands q, k, v, w, [a, b,] starts, kept, [u,] dlast, dy; results dq, dk, dv, dw, [da, db,] dstate
template <class T, bool REMOVES>
void decay_backward_call(const Call& call) {
  const int more = REMOVES ? 2 : 0, after = 4 + more;
  const Sizes n = sizes(call.in(2), 3, call.in(after + 1));
  const Batch batch(call.out(2), 3);
  auto series = [&](int i) { return Series<const T>(batch, call.in(i), 3); };
  auto adjoint = [&](int i) { return Series<T>(batch, call.out(i), 3); };
  const auto q = series(0), k = series(1), v = series(2), w = series(3);
  const auto a = series(REMOVES ? 4 : 0), b = series(REMOVES ? 5 : 0), u = series(REMOVES ? after + 2 : 0);
  const auto dq = adjoint(0), dk = adjoint(1), dv = adjoint(2), dw = adjoint(3);
  const auto da = adjoint(REMOVES ? 4 : 0), db = adjoint(REMOVES ? 5 : 0);
  const auto starts = batch.places<const bool>(call.in(after));
  const auto kept = batch.places<const T>(call.in(after + 1));
  const int gradients = after + (REMOVES ? 3 : 2);
  const auto dlast = batch.places<const T>(call.in(gradients));
  const auto dy = series(gradients + 1);
  const auto dstate = batch.places<T>(call.out(after));
  const int count = vectors<T>(n.dk);
  each_head(call, batch, n, [&](int64_t s, int64_t h, int64_t at) {
    const Decay<T> x{q.of(s, h), k.of(s, h), v.of(s, h), w.of(s, h), a.of(s, h), b.of(s, h), starts[s]};
    const DecayAdjoint<T> d{dq.of(s, h), dk.of(s, h), dv.of(s, h), dw.of(s, h), da.of(s, h), db.of(s, h)};
    sized<T>(count, [&](auto N) {
      decay_backward<T, N(), REMOVES>(x, n, count, kept[s] + at, u.of(s, h), dlast[s] + at, dy.of(s, h),
                                      dstate[s] + at, d);
    });
  });
}

template <class T>
void decay_forward_only(const Call& call) {
  decay_forward_call<T, false>(call);
}
template <class T>
void decay_backward_only(const Call& call) {
  decay_backward_call<T, false>(call);
}
template <class T>
void removal_forward(const Call& call) {
  decay_forward_call<T, true>(call);
}
template <class T>
void removal_backward(const Call& call) {
  decay_backward_call<T, true>(call);
}

}  // namespace

LINMEM_KERNEL(linmem_decay_forward, decay_forward_only);
LINMEM_KERNEL(linmem_decay_backward, decay_backward_only);
LINMEM_KERNEL(linmem_removal_forward, removal_forward);
LINMEM_KERNEL(linmem_removal_backward, removal_backward);

}  // namespace linmem
