// The short causal convolution of memories/short_convolution.py: z_t = sum_j W_j * x_{t-j}, channel by channel, and what
// comes after it: y = z, or y = z sigmoid(z) (SiLU). Before the first step stands the window, the oldest input first;
// nothing before a start is met.
//
// Axes of operands, behind the batch's: weight (width, channels), window (width - 1, channels), x (steps, channels),
// starts (steps,).

#include "common.h"

namespace linmem {
namespace {

// One sequence.
template <class T>
struct Taps {
  int64_t steps, channels, past;  // past: the window's length
  const T *weight, *window, *x;
  const bool* starts;

  // `visit(t, reach)` for all steps, where taps 0 to `reach` meet an input.
  template <class F>
  void each_step(const F& visit) const {
    int64_t reach = past;
    for (int64_t t = 0; t < steps; ++t) {
      reach = starts[t] ? 0 : std::min(reach + 1, past);
      visit(t, reach);
    }
  }
  // The rows of `steps_first`, and before them of `window_first`, that the taps meet at step t.
  template <class P>
  void rows(P* to, P steps_first, P window_first, int64_t t, int64_t reach) const {
    for (int64_t j = 0; j <= reach; ++j)
      to[j] = t >= j ? steps_first + (t - j) * channels : window_first + (past + t - j) * channels;
  }
};

template <class T>
class TapsOf {
 public:
  TapsOf(const Call& call, const Batch& batch)
      : weight_(batch.places<const T>(call.in(0))), window_(batch.places<const T>(call.in(1))),
        x_(batch.places<const T>(call.in(2))), starts_(batch.places<const bool>(call.in(3))) {
    auto w = call.in(0).dimensions().last(2), d = call.in(2).dimensions().last(2);
    steps_ = d[0], channels_ = d[1], past_ = w[0] - 1;
  }
  Taps<T> operator[](int64_t s) const {
    return {steps_, channels_, past_, weight_[s], window_[s], x_[s], starts_[s]};
  }

 private:
  std::vector<const T*> weight_, window_, x_;
  std::vector<const bool*> starts_;
  int64_t steps_, channels_, past_;
};

template <class T>
Vec<T> sigmoid(Vec<T> z) {
  return 1 / (1 + exponential(-z));
}

template <class T>
Vec<T> loaded(const T* from, int64_t n) {
  Vec<T> x{};
  load(&x, from, n);
  return x;
}

// `visit(first, n)` for all channels, a vector of them at a time, and the last may be fewer.
template <class T, class F>
void each_vector(int64_t channels, const F& visit) {
  int64_t c = 0;
  for (; c + LANES<T> <= channels; c += LANES<T>) visit(c, LANES<T>);
  if (c < channels) visit(c, channels - c);
}

// `run(taps)`, as a constant where there are as many as layers have: then their sums stay in registers.
template <class F>
void with_taps(int64_t taps, const F& run) {
  if (taps == 2) return run(std::integral_constant<int64_t, 2>());
  if (taps == 4) return run(std::integral_constant<int64_t, 4>());
  run(taps);
}

template <class T>
Vec<T> convolved(int64_t taps, const T* weight, int64_t channels, const T* const* inputs, int64_t c, int64_t n) {
  Vec<T> z{};
  for (int64_t j = 0; j < taps; ++j) z += loaded(weight + j * channels + c, n) * loaded(inputs[j] + c, n);
  return z;
}

// operands weight, window, x, starts; setting silu; result y
template <class T, bool SILU>
void forward(const Call& call) {
  const Batch batch(call.out(0), 2);
  const TapsOf<T> all(call, batch);
  const auto y = batch.places<T>(call.out(0));
  parallel(call.pool, batch.size, [&](int64_t s) {
    const Taps<T> n = all[s];
    std::vector<const T*> inputs(n.past + 1);
    n.each_step([&](int64_t t, int64_t reach) {
      n.rows(inputs.data(), n.x, n.window, t, reach);
      T* to = y[s] + t * n.channels;
      with_taps(reach + 1, [&](auto taps) {
        each_vector<T>(n.channels, [&](int64_t c, int64_t some) {
          Vec<T> z = convolved(taps, n.weight, n.channels, inputs.data(), c, some);
          if constexpr (SILU) z *= sigmoid<T>(z);
          store(to + c, &z, some);
        });
      });
    });
  });
}

// operands weight, window, x, starts, dy; setting silu; results dweight, dwindow, dx
template <class T, bool SILU>
void backward(const Call& call) {
  const Batch batch(call.out(2), 2);
  const TapsOf<T> all(call, batch);
  const auto dy = batch.places<const T>(call.in(4));
  const auto dweight = batch.places<T>(call.out(0)), dwindow = batch.places<T>(call.out(1));
  const auto dx = batch.places<T>(call.out(2));
  parallel(call.pool, batch.size, [&](int64_t s) {
    const Taps<T> n = all[s];
    std::fill_n(dweight[s], (n.past + 1) * n.channels, T(0));
    std::fill_n(dwindow[s], n.past * n.channels, T(0));
    std::vector<const T*> inputs(n.past + 1);
    std::vector<T*> to(n.past + 1);
    std::vector<T> dz(SILU ? n.channels : 0);
    n.each_step([&](int64_t t, int64_t reach) {
      n.rows(inputs.data(), n.x, n.window, t, reach);
      n.rows(to.data(), dx[s], dwindow[s], t, reach);
      const T* g = dy[s] + t * n.channels;
      if constexpr (SILU) {
        with_taps(reach + 1, [&](auto taps) {
          each_vector<T>(n.channels, [&](int64_t c, int64_t some) {
            const Vec<T> z = convolved(taps, n.weight, n.channels, inputs.data(), c, some), on = sigmoid<T>(z);
            const Vec<T> d = loaded(g + c, some) * on * (1 + z * (1 - on));
            store(dz.data() + c, &d, some);
          });
        });
        g = dz.data();
      }
      for (int64_t j = 0; j <= reach; ++j) {
        const T *from = inputs[j], *w = n.weight + j * n.channels;
        T *d = to[j], *dw = dweight[s] + j * n.channels;
        if (j == 0)  // the first step that meets x_t
          for (int64_t c = 0; c < n.channels; ++c) d[c] = w[c] * g[c];
        else
          for (int64_t c = 0; c < n.channels; ++c) d[c] += w[c] * g[c];
        for (int64_t c = 0; c < n.channels; ++c) dw[c] += g[c] * from[c];
      }
    });
  });
}

template <class T>
void forward_call(const Call& call) {
  call.setting<bool>("silu") ? forward<T, true>(call) : forward<T, false>(call);
}
template <class T>
void backward_call(const Call& call) {
  call.setting<bool>("silu") ? backward<T, true>(call) : backward<T, false>(call);
}

}  // namespace

LINMEM_KERNEL(linmem_convolution_forward, forward_call);
LINMEM_KERNEL(linmem_convolution_backward, backward_call);

}  // namespace linmem
