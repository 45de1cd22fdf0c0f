// The short causal convolution of memories/short_convolution.py: y_t = sum_j W_j * x_{t-j}, channel by channel. Before the
// first step stands the window, the oldest input first; nothing before a start is met.
//
// Axes of operands, behind the batch's: weight (width, channels), window (width - 1, channels), x (steps, channels),
// starts (steps,).

#include "common.h"

namespace linmem {
namespace {

struct Taps {
  int64_t steps, channels, past;  // past: the window's length
};

Taps taps(AnyBuffer weight, AnyBuffer x) {
  auto w = weight.dimensions().last(2), d = x.dimensions().last(2);
  return {d[0], d[1], w[0] - 1};
}

// `meet(t, j)` for every step t and tap j that meets an input; j = 0 comes first.
template <class F>
void each_meeting(const Taps& n, const bool* starts, const F& meet) {
  int64_t reach = n.past;
  for (int64_t t = 0; t < n.steps; ++t) {
    reach = starts[t] ? 0 : std::min(reach + 1, n.past);
    for (int64_t j = 0; j <= reach; ++j) meet(t, j);
  }
}

// operands weight, window, x, starts; result y
template <class T>
void forward(const Call& call) {
  const Taps n = taps(call.in(0), call.in(2));
  const Batch batch(call.out(0), 2);
  const auto weight = batch.places<const T>(call.in(0)), window = batch.places<const T>(call.in(1));
  const auto x = batch.places<const T>(call.in(2));
  const auto starts = batch.places<const bool>(call.in(3));
  const auto y = batch.places<T>(call.out(0));
  parallel(call.pool, batch.size, [&](int64_t s) {
    each_meeting(n, starts[s], [&](int64_t t, int64_t j) {
      const T* from = t >= j ? x[s] + (t - j) * n.channels : window[s] + (n.past + t - j) * n.channels;
      const T* w = weight[s] + j * n.channels;
      T* to = y[s] + t * n.channels;
      if (j == 0)
        for (int64_t c = 0; c < n.channels; ++c) to[c] = w[c] * from[c];
      else
        for (int64_t c = 0; c < n.channels; ++c) to[c] += w[c] * from[c];
    });
  });
}

// operands weight, window, x, starts, dy; results dweight, dwindow, dx
template <class T>
void backward(const Call& call) {
  const Taps n = taps(call.in(0), call.in(2));
  const Batch batch(call.out(2), 2);
  const auto weight = batch.places<const T>(call.in(0)), window = batch.places<const T>(call.in(1));
  const auto x = batch.places<const T>(call.in(2)), dy = batch.places<const T>(call.in(4));
  const auto starts = batch.places<const bool>(call.in(3));
  const auto dweight = batch.places<T>(call.out(0)), dwindow = batch.places<T>(call.out(1));
  const auto dx = batch.places<T>(call.out(2));
  parallel(call.pool, batch.size, [&](int64_t s) {
    std::fill_n(dweight[s], (n.past + 1) * n.channels, T(0));
    std::fill_n(dwindow[s], n.past * n.channels, T(0));
    each_meeting(n, starts[s], [&](int64_t t, int64_t j) {
      const int64_t at = t >= j ? (t - j) * n.channels : (n.past + t - j) * n.channels;
      const T *from = (t >= j ? x[s] : window[s]) + at, *g = dy[s] + t * n.channels;
      const T* w = weight[s] + j * n.channels;
      T *to = (t >= j ? dx[s] : dwindow[s]) + at, *dw = dweight[s] + j * n.channels;
      if (j == 0)
        for (int64_t c = 0; c < n.channels; ++c) to[c] = w[c] * g[c];
      else
        for (int64_t c = 0; c < n.channels; ++c) to[c] += w[c] * g[c];
      for (int64_t c = 0; c < n.channels; ++c) dw[c] += g[c] * from[c];
    });
  });
}

}  // namespace

LINMEM_KERNEL(linmem_convolution_forward, forward);
LINMEM_KERNEL(linmem_convolution_backward, backward);

}  // namespace linmem
