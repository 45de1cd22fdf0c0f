// What the kernels share: operands with batch axes, vectors, and tasks over the threads that XLA has.
//
// Every operand and result is an array with the batch axes of the call first, each as long as the call's or 1
// (the same for all), then its own axes. A kernel is a loop over the steps of one sequence; sequences, and
// heads where it has them, are tasks.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace linmem {

namespace ffi = xla::ffi;
using ffi::AnyBuffer;

// A vector of 32 bytes; where the machine's are shorter or longer the compiler splits or joins them.
template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(32)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int LANES = 32 / sizeof(T);

// The sum of a vector's numbers, by halves.
inline float sum(Vec<float> x) {
  auto half = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
  auto pair = half + __builtin_shufflevector(half, half, 2, 3, 2, 3);
  return pair[0] + pair[1];
}
inline double sum(Vec<double> x) {
  auto half = __builtin_shufflevector(x, x, 0, 1) + __builtin_shufflevector(x, x, 2, 3);
  return half[0] + half[1];
}

// e^x. Below -87 it is about 1e-38, above 88 about 1e38; NaN stays NaN.
inline Vec<float> exponential(Vec<float> x) {
  typedef int32_t Integers __attribute__((vector_size(32)));
  const Vec<float> low = Vec<float>{} - 87.f, high = Vec<float>{} + 88.f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  // x = n log 2 + rest, |rest| <= log(2) / 2; adding 1.5 * 2^23 rounds to a whole number
  const Vec<float> shift = Vec<float>{} + 12582912.f;
  const Vec<float> shifted = x * 1.44269504f + shift, n = shifted - shift;
  const Vec<float> rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts, the first exact in products
  // Taylor's polynomial, whose next term is below 6e-9; in pairs, so that few products wait for others
  const Vec<float> square = rest * rest;
  const Vec<float> low_half = (rest + 1.f) + (rest * (1.f / 6) + 0.5f) * square;
  const Vec<float> high_half = (rest * (1.f / 120) + 1.f / 24) + (rest * (1.f / 5040) + 1.f / 720) * square;
  const Vec<float> sum = high_half * (square * square) + low_half;
  const Integers power = ((Integers)shifted - (Integers)shift) << 23;  // n in the exponent's bits
  return x == x ? (Vec<float>)((Integers)sum + power) : x;
}

inline Vec<double> exponential(Vec<double> x) {
  for (int i = 0; i < LANES<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// How many vectors hold n numbers.
template <class T>
inline int vectors(int64_t n) {
  return static_cast<int>((n + LANES<T> - 1) / LANES<T>);
}

// How many steps lie between two kept states, of which there are `spans`; 1, to divide by, where there are no steps.
inline int64_t span_of(int64_t steps, int64_t spans) {
  return spans == 0 ? 1 : (steps + spans - 1) / spans;
}

// A vector anywhere in memory.
template <class T>
struct Loose {
  typedef T type __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
};

// n numbers from memory, and zeros up to a whole number of vectors. N is that number, where the compiler knows it.
template <class T, int N = 0>
inline void load(Vec<T>* to, const T* from, int64_t n) {
  if (N && n == N * LANES<T>) {
    for (int b = 0; b < N; ++b) to[b] = reinterpret_cast<const typename Loose<T>::type*>(from)[b];
    return;
  }
  int64_t whole = n / LANES<T>;
  for (int64_t b = 0; b < whole; ++b) to[b] = reinterpret_cast<const typename Loose<T>::type*>(from)[b];
  if (n % LANES<T> == 0) return;
  to[whole] = Vec<T>{};
  for (int64_t i = 0; i < n % LANES<T>; ++i) to[whole][i] = from[whole * LANES<T> + i];
}

template <class T, int N = 0>
inline void store(T* to, const Vec<T>* from, int64_t n) {
  if (N && n == N * LANES<T>) {
    for (int b = 0; b < N; ++b) reinterpret_cast<typename Loose<T>::type*>(to)[b] = from[b];
    return;
  }
  int64_t whole = n / LANES<T>;
  for (int64_t b = 0; b < whole; ++b) reinterpret_cast<typename Loose<T>::type*>(to)[b] = from[b];
  for (int64_t i = 0; i < n % LANES<T>; ++i) to[whole * LANES<T> + i] = from[whole][i];
}

// sum_i a_i b_i; one sum after another would wait for each.
template <class T>
inline T dot(const T* a, const T* b, int64_t n) {
  using Any = typename Loose<T>::type;
  Vec<T> along{};
  int64_t i = 0;
  for (; i + LANES<T> <= n; i += LANES<T>)
    along += *reinterpret_cast<const Any*>(a + i) * *reinterpret_cast<const Any*>(b + i);
  T total = sum(along);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

// Scratch memory of vectors, begun with zeros if they are wanted. A thread keeps what it has used for its next tasks:
// memory new from the system costs a page fault for every 4 KB.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count, bool zeros = true) {
    const size_t bytes = (count + 1) * sizeof(Vec<T>);
    auto& kept = unused();
    auto fits = std::find_if(kept.begin(), kept.end(), [&](auto& one) { return one.size() >= bytes; });
    if (fits == kept.end()) {
      raw_.resize(bytes);
    } else {
      raw_.swap(*fits);
      kept.erase(fits);
      if (zeros) std::memset(raw_.data(), 0, bytes);
    }
    auto address = reinterpret_cast<uintptr_t>(raw_.data());
    begin_ = reinterpret_cast<Vec<T>*>((address + 31) / 32 * 32);
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { unused().push_back(std::move(raw_)); }
  Vec<T>* get() { return begin_; }

 private:
  using Bytes = std::vector<unsigned char>;
  static std::vector<Bytes>& unused() {
    thread_local std::vector<Bytes> kept;
    return kept;
  }
  Bytes raw_;
  Vec<T>* begin_;
};

// Where each sequence of a batch begins in an operand.
class Batch {
 public:
  // A result has every batch axis at full length; `own` says how many axes it has beside them.
  Batch(AnyBuffer result, int own) {
    auto dims = result.dimensions();
    axes_.assign(dims.begin(), dims.end() - own);
    for (int64_t n : axes_) size *= n;
  }

  template <class T>
  std::vector<T*> places(AnyBuffer operand) const {
    auto dims = operand.dimensions();
    int64_t stride = 1;
    for (size_t i = axes_.size(); i < dims.size(); ++i) stride *= dims[i];
    std::vector<T*> found(size, operand.typed_data<std::remove_const_t<T>>());
    int64_t inner = 1;
    for (int axis = static_cast<int>(axes_.size()) - 1; axis >= 0; --axis) {
      if (dims[axis] > 1)
        for (int64_t i = 0; i < size; ++i) found[i] += stride * (i / inner % axes_[axis]);
      stride *= dims[axis];
      inner *= axes_[axis];
    }
    return found;
  }

  int64_t size = 1;

 private:
  std::vector<int64_t> axes_;
};

// `f(i)` for all i < tasks. The caller works too, so it never waits for a thread that has not begun: XLA may have
// called it on one of these very threads. A helper that comes late finds nothing left and touches nothing of the caller.
template <class F>
void parallel(ffi::ThreadPool& pool, int64_t tasks, const F& f) {
  int64_t helpers = std::min<int64_t>(pool.num_threads(), tasks) - 1;
  if (helpers < 1) {
    for (int64_t i = 0; i < tasks; ++i) f(i);
    return;
  }
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, tasks, &f] {
    for (int64_t i; (i = progress->next.fetch_add(1)) < tasks;) {
      f(i);
      progress->done.fetch_add(1);
    }
  };
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work(); });
  work();
  while (progress->done.load() < tasks) std::this_thread::yield();
}

// The operands and results of a call, by number, and its settings, by name.
struct Call {
  ffi::ThreadPool& pool;
  ffi::RemainingArgs& args;
  ffi::RemainingRets& rets;
  const ffi::Dictionary& settings;
  AnyBuffer in(int i) const { return args.get<AnyBuffer>(i).value(); }
  AnyBuffer out(int i) const { return *rets.get<AnyBuffer>(i).value(); }
  template <class A>
  A setting(std::string_view name) const { return settings.get<A>(name).value(); }
};

// A handler for XLA of `template <class T> void kernel(const Call&)`, T being the type of the first operand.
#define LINMEM_KERNEL(name, kernel)                                                                            \
  static ffi::Error name##_call(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,        \
                                ffi::Dictionary settings) {                                                    \
    const Call call{pool, args, rets, settings};                                                               \
    switch (call.in(0).element_type()) {                                                                       \
      case ffi::F32:                                                                                           \
        kernel<float>(call);                                                                                   \
        return ffi::Error::Success();                                                                          \
      case ffi::F64:                                                                                           \
        kernel<double>(call);                                                                                  \
        return ffi::Error::Success();                                                                          \
      default:                                                                                                 \
        return ffi::Error::InvalidArgument(#name " takes float32 and float64");                                \
    }                                                                                                          \
  }                                                                                                            \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, name##_call,                                                             \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs())

// `run(integral_constant<N>)` with the number of vectors a row has, where it is a usual one, so that the row's sums can
// stay in registers. 0 stands for any number; double, which oracles take, has no other.
template <class T, class F>
void sized(int count, const F& run) {
  if constexpr (std::is_same_v<T, float>) {
    if (count == 2) return run(std::integral_constant<int, 2>());
    if (count == 4) return run(std::integral_constant<int, 4>());
    if (count == 8) return run(std::integral_constant<int, 8>());
  }
  run(std::integral_constant<int, 0>());
}

}  // namespace linmem
