// The loop over time of memories/sd_ssm.py, whose transition is mixed from a dictionary at every step:
//
//     M_t = sum_k w_tk A_k,   P_tj = sum_i (|M_tij| + e)^p,   s_tj = P_tj^(-1/p),   x_t = M_t (s_t * x_{t-1}) + u_t
//
// Transitions do not depend on the state, so those of a few steps are made together, and the dictionary, which is larger
// than the first cache, is read once for them. With z_t = s_t * x_{t-1}, its derivative is
//
//     dz = M^T dx,   dM = dx z^T - (|M| + e)^(p-1) sign(M) diag(dz * z * s^p),   dw_k = <A_k, dM>,   dA_k = sum_t w_tk dM
//
// Axes of operands, behind the batch's: dictionary (K, n, n), weights (steps, K), starts (steps,), initial (n,), all
// others (steps, n). Settings: exponent p, smallest e.

#include <limits>

#include "common.h"

namespace linmem {
namespace {

constexpr int64_t TOGETHER = 4;   // steps whose transitions are made together
constexpr int ROWS = 4;           // of a transition, of which each has a sum of its own
constexpr int64_t TILE = 128;     // vectors of a transition whose derivatives stay in the first cache

struct Sizes {
  int64_t steps, matrices, n, row;  // row: vectors that hold a row of a matrix
  int64_t matrix() const { return n * row; }
};

template <class T>
Sizes sizes(AnyBuffer dictionary, AnyBuffer weights) {
  auto d = dictionary.dimensions().last(3), w = weights.dimensions().last(2);
  return {w[0], d[0], d[1], vectors<T>(d[1])};
}

typedef int32_t Integers __attribute__((vector_size(32)));

inline Vec<float> magnitude(Vec<float> x) { return (Vec<float>)((Integers)x & 0x7fffffff); }
inline Vec<double> magnitude(Vec<double> x) { return x < 0. ? -x : x; }

// c_0 + c_1 x + ..., even and odd powers apart, so that half as many products wait for each other.
template <int COUNT>
inline Vec<float> polynomial(Vec<float> x, const float (&c)[COUNT]) {
  const Vec<float> square = x * x;
  Vec<float> sums[2] = {Vec<float>{} + c[COUNT - 1 - (COUNT - 1) % 2], Vec<float>{} + c[COUNT - 1 - COUNT % 2]};
  for (int i = COUNT - 3; i >= 0; --i) sums[i % 2] = sums[i % 2] * square + c[i];
  return sums[1] * x + sums[0];
}

// x^p of a normal positive number as 2^(p log2 x), from two polynomials that were fitted for the smallest largest error,
// near 1e-7 both. It must be below 2^127; below 2^-126 it is that, and NaN stays NaN.
__attribute__((always_inline)) inline Vec<float> power(Vec<float> x, float p) {
  constexpr float logarithm[] = {1.44269492f,  -0.721352487f, 0.480931162f, -0.360263461f,
                                 0.286868881f, -0.248322824f, 0.235709605f, -0.149733184f};  // log2(1 + f) / f
  constexpr float exponential[] = {1.00000008f,  0.693147225f,   0.240221074f,
                                   0.055502973f, 0.00967603636f, 0.00134100052f};
  // x = 2^n (1 + f) with 1 + f between sqrt(1/2) and sqrt(2): what the bits of x are above those of sqrt(1/2)
  const Integers bits = (Integers)x, above = (bits - 0x3f3504f3) & ~0x7fffff;
  const Vec<float> n = __builtin_convertvector(above >> 23, Vec<float>), f = (Vec<float>)(bits - above) - 1.f;
  Vec<float> y = p * (n + f * polynomial(f, logarithm));
  y = y < -126.f ? Vec<float>{} - 126.f : y;
  const Vec<float> shift = Vec<float>{} + 12582912.f;  // adding 1.5 * 2^23 rounds to a whole number
  const Vec<float> shifted = y + shift, rest = y - (shifted - shift);
  const Integers exponent = ((Integers)shifted - (Integers)shift) << 23;
  const Vec<float> made = (Vec<float>)((Integers)polynomial(rest, exponential) + exponent);
  return x == x ? made : x;
}

inline Vec<double> power(Vec<double> x, double p) {
  for (int i = 0; i < LANES<double>; ++i) x[i] = std::pow(x[i], p);
  return x;
}

// Entries `begin` to `end` (in vectors) of M of COUNT steps, one behind the other. Each entry and each weight that is read
// serves several sums, which stay in registers.
template <class T, int COUNT>
void mix(const Vec<T>* A, const T* weights, const Sizes& n, int64_t begin, int64_t end, Vec<T>* to) {
  auto some = [&](auto wide, int64_t v) {
    Vec<T> M[COUNT][wide]{};
    for (int64_t k = 0; k < n.matrices; ++k)
      for (int c = 0; c < COUNT; ++c)
        for (int i = 0; i < wide; ++i) M[c][i] += weights[c * n.matrices + k] * A[k * n.matrix() + v + i];
    for (int c = 0; c < COUNT; ++c)
      for (int i = 0; i < wide; ++i) to[c * n.matrix() + v + i] = M[c][i];
  };
  int64_t v = begin;
  for (; v + 2 <= end; v += 2) some(std::integral_constant<int, 2>(), v);
  if (v < end) some(std::integral_constant<int, 1>(), v);
}

// `run(integral_constant<COUNT>, first step)` for runs of steps from the first to the last.
template <class F>
void each_run(int64_t steps, const F& run) {
  int64_t t = 0;
  for (; t + TOGETHER <= steps; t += TOGETHER) run(std::integral_constant<int, TOGETHER>(), t);
  for (; t < steps; ++t) run(std::integral_constant<int, 1>(), t);
}

template <class F>
void each_run_backward(int64_t steps, const F& run) {
  int64_t t = steps;
  for (; t % TOGETHER; --t) run(std::integral_constant<int, 1>(), t - 1);
  for (; t > 0; t -= TOGETHER) run(std::integral_constant<int, TOGETHER>(), t - TOGETHER);
}

template <class T>
void take(Vec<T>* to, const T* from, int64_t rows, const Sizes& n) {
  for (int64_t i = 0; i < rows; ++i) load(to + i * n.row, from + i * n.n, n.n);
}

// operands dictionary, weights, entering, starts, initial; results states, scales
template <class T>
void forward(const Call& call) {
  const Sizes n = sizes<T>(call.in(0), call.in(1));
  const Batch batch(call.out(0), 2);
  const auto dictionary = batch.places<const T>(call.in(0)), weights = batch.places<const T>(call.in(1));
  const auto entering = batch.places<const T>(call.in(2)), initial = batch.places<const T>(call.in(4));
  const auto starts = batch.places<const bool>(call.in(3));
  const auto states = batch.places<T>(call.out(0)), scales = batch.places<T>(call.out(1));
  const T p = call.setting<double>("exponent"), smallest = call.setting<double>("smallest");
  parallel(call.pool, batch.size, [&](int64_t b) {
    Scratch<T> matrices(n.matrices * n.matrix()), made(TOGETHER * n.matrix()), rows((TOGETHER + 2) * n.row);
    Vec<T>*A = matrices.get(), *M = made.get(), *powers = rows.get(), *x = powers + TOGETHER * n.row, *u = x + n.row;
    take(A, dictionary[b], n.matrices * n.n, n), load(x, initial[b], n.n);
    each_run(n.steps, [&](auto count, int64_t first) {
      std::fill_n(powers, count * n.row, Vec<T>{});
      for (int64_t begin = 0; begin < n.matrix(); begin += ROWS * n.row) {
        const int64_t end = std::min(begin + ROWS * n.row, n.matrix());
        mix<T, count>(A, weights[b] + first * n.matrices, n, begin, end, M);
        for (int c = 0; c < count; ++c)
          for (int64_t i = begin; i < end; i += n.row)
            for (int64_t j = 0; j < n.row; ++j)
              powers[c * n.row + j] += power(magnitude(M[c * n.matrix() + i + j]) + smallest, p);
      }
      for (int c = 0; c < count; ++c) {
        const int64_t t = first + c;
        if (starts[b][t]) std::fill_n(x, n.row, Vec<T>{});
        Vec<T>* scale = powers + c * n.row;
        for (int64_t j = 0; j < n.row; ++j) {
          scale[j] = power(scale[j], T(-1) / p);
          x[j] *= scale[j];
        }
        store(scales[b] + t * n.n, scale, n.n);
        load(u, entering[b] + t * n.n, n.n);
        T* next = reinterpret_cast<T*>(u);
        const Vec<T>* from = M + c * n.matrix();
        int64_t i = 0;
        for (; i + ROWS <= n.n; i += ROWS, from += ROWS * n.row) {
          Vec<T> along[ROWS]{};
          for (int64_t j = 0; j < n.row; ++j)
            for (int r = 0; r < ROWS; ++r) along[r] += from[r * n.row + j] * x[j];
          for (int r = 0; r < ROWS; ++r) next[i + r] += sum(along[r]);
        }
        for (; i < n.n; ++i, from += n.row)
          next[i] += dot(reinterpret_cast<const T*>(from), reinterpret_cast<const T*>(x), n.n);
        std::copy_n(u, n.row, x);
        store(states[b] + t * n.n, x, n.n);
      }
    });
  });
}

// operands dictionary, weights, starts, initial, states, scales, dstates; results ddictionary, dweights, dentering, dinitial
template <class T>
void backward(const Call& call) {
  const Sizes n = sizes<T>(call.in(0), call.in(1));
  const Batch batch(call.out(2), 2);
  auto in = [&](int i) { return batch.places<const T>(call.in(i)); };
  const auto dictionary = in(0), weights = in(1), initial = in(3), states = in(4), scales = in(5), dstates = in(6);
  const auto starts = batch.places<const bool>(call.in(2));
  auto out = [&](int i) { return batch.places<T>(call.out(i)); };
  const auto ddictionary = out(0), dweights = out(1), dentering = out(2), dinitial = out(3);
  const T p = call.setting<double>("exponent"), smallest = call.setting<double>("smallest");
  parallel(call.pool, batch.size, [&](int64_t b) {
    Scratch<T> matrices(n.matrices * n.matrix()), sums(n.matrices * n.matrix()), made(TOGETHER * n.matrix(), false);
    Scratch<T> tiles(TOGETHER * TILE, false), rows((3 * TOGETHER + 2) * n.row), to_weights(n.matrices * TOGETHER);
    Vec<T>*A = matrices.get(), *dA = sums.get(), *M = made.get(), *dM = tiles.get(), *dw = to_weights.get();
    Vec<T>*g = rows.get(), *z = g + TOGETHER * n.row, *slope = z + TOGETHER * n.row, *dx = slope + TOGETHER * n.row;
    Vec<T>* dz = dx + n.row;
    take(A, dictionary[b], n.matrices * n.n, n);
    each_run_backward(n.steps, [&](auto count, int64_t first) {
      const T* w = weights[b] + first * n.matrices;
      mix<T, count>(A, w, n, 0, n.matrix(), M);
      for (int c = count - 1; c >= 0; --c) {
        const int64_t t = first + c;
        Vec<T>*gs = g + c * n.row, *zs = z + c * n.row, *slopes = slope + c * n.row;
        load(gs, dstates[b] + t * n.n, n.n);
        for (int64_t j = 0; j < n.row; ++j) gs[j] += dx[j];
        store(dentering[b] + t * n.n, gs, n.n);
        std::fill_n(dz, n.row, Vec<T>{});
        const T* rows_of = reinterpret_cast<const T*>(gs);
        const Vec<T>* from = M + c * n.matrix();
        int64_t i = 0;
        for (; i + ROWS <= n.n; i += ROWS, from += ROWS * n.row)
          for (int64_t j = 0; j < n.row; ++j) {
            Vec<T> total{};
            for (int r = 0; r < ROWS; ++r) total += rows_of[i + r] * from[r * n.row + j];
            dz[j] += total;
          }
        for (; i < n.n; ++i, from += n.row)
          for (int64_t j = 0; j < n.row; ++j) dz[j] += rows_of[i] * from[j];
        load(slopes, scales[b] + t * n.n, n.n);
        if (starts[b][t]) {
          for (Vec<T>* zeros : {zs, slopes, dx}) std::fill_n(zeros, n.row, Vec<T>{});
          continue;
        }
        load(zs, t ? states[b] + (t - 1) * n.n : initial[b], n.n);
        for (int64_t j = 0; j < n.row; ++j) {
          const Vec<T> s = slopes[j];
          zs[j] *= s;
          dx[j] = dz[j] * s;
          slopes[j] = -dz[j] * zs[j] * power(s + std::numeric_limits<T>::min(), p);
        }
      }
      std::fill_n(dw, n.matrices * count, Vec<T>{});
      for (int64_t begin = 0; begin < n.matrix(); begin += TILE) {
        const int64_t tile = std::min(TILE, n.matrix() - begin);
        for (int c = 0; c < count; ++c) {
          const Vec<T>*from = M + c * n.matrix() + begin, *zs = z + c * n.row, *slopes = slope + c * n.row;
          const T* gs = reinterpret_cast<const T*>(g + c * n.row);
          int64_t i = begin / n.row, j = begin % n.row;
          for (int64_t v = 0; v < tile; ++v) {
            const Vec<T> m = from[v];
            const Vec<T> by_norm = power(magnitude(m) + smallest, p - T(1)) * slopes[j];
            dM[c * TILE + v] = gs[i] * zs[j] + (m < T(0) ? -by_norm : by_norm);
            if (++j == n.row) j = 0, ++i;
          }
        }
        for (int64_t k = 0; k < n.matrices; ++k) {
          const Vec<T>* a = A + k * n.matrix() + begin;
          Vec<T>*to = dA + k * n.matrix() + begin, with[count] = {};
          for (int64_t v = 0; v < tile; ++v) {
            Vec<T> total = to[v];
            for (int c = 0; c < count; ++c) {
              const Vec<T> d = dM[c * TILE + v];
              with[c] += a[v] * d;
              total += w[c * n.matrices + k] * d;
            }
            to[v] = total;
          }
          for (int c = 0; c < count; ++c) dw[c * n.matrices + k] += with[c];
        }
      }
      for (int64_t i = 0; i < n.matrices * count; ++i) dweights[b][first * n.matrices + i] = sum(dw[i]);
    });
    for (int64_t i = 0; i < n.matrices * n.n; ++i) store(ddictionary[b] + i * n.n, dA + i * n.row, n.n);
    store(dinitial[b], dx, n.n);
  });
}

}  // namespace

LINMEM_KERNEL(linmem_dictionary_forward, forward);
LINMEM_KERNEL(linmem_dictionary_backward, backward);

}  // namespace linmem
