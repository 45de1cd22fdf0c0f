// Products of few rows with a matrix that stays the same for many steps: it is copied in the order in which a product reads
// it, so that it comes from the second cache as one stream, and each thread has a few sequences that share what is read.

#pragma once

#include "common.h"

namespace linmem {
constexpr int64_t ROWS = 8, LEAST_ROWS = 4;  // sequences that go through the steps together
constexpr int PANEL = 2;     // vectors of columns for which a product's sums are in registers, those of 4 rows

// A matrix whose columns stand in panels, with zeros behind the last.
template <class T>
class Packed {
 public:
  Packed(const T* from, int64_t rows, int64_t columns, int64_t stride)
      : rows_(rows), panels_((columns + WIDTH - 1) / WIDTH), data_(panels_ * rows * PANEL) {
    T* to = reinterpret_cast<T*>(data_.get());
    for (int64_t p = 0; p < panels_; ++p)
      for (int64_t i = 0; i < rows; ++i, to += WIDTH)
        for (int64_t c = 0; c < std::min<int64_t>(WIDTH, columns - p * WIDTH); ++c)
          to[c] = from[i * stride + p * WIDTH + c];
  }

  // to[r] (+)= x[r] @ matrix, for `count` rows that begin every `x_stride` numbers and every `to_stride` vectors.
  template <bool ADDS>
  void multiply(const T* x, int64_t x_stride, Vec<T>* to, int64_t to_stride, int64_t count) {
    for (int64_t r = 0; r < count; r += 4) {
      const T* from = x + r * x_stride;
      Vec<T>* rows = to + r * to_stride;
      switch (std::min<int64_t>(4, count - r)) {
        case 1:
          some<ADDS, 1>(from, x_stride, rows, to_stride);
          break;
        case 2:
          some<ADDS, 2>(from, x_stride, rows, to_stride);
          break;
        case 3:
          some<ADDS, 3>(from, x_stride, rows, to_stride);
          break;
        default:
          some<ADDS, 4>(from, x_stride, rows, to_stride);
      }
    }
  }

 private:
  static constexpr int64_t WIDTH = PANEL * LANES<T>;

  template <bool ADDS, int R>
  void some(const T* x, int64_t x_stride, Vec<T>* to, int64_t to_stride) {
    const Vec<T>* weights = data_.get();
    for (int64_t p = 0; p < panels_; ++p) {
      Vec<T> sums[R][PANEL]{};
      for (int64_t i = 0; i < rows_; ++i, weights += PANEL)
        for (int r = 0; r < R; ++r) {
          const T factor = x[r * x_stride + i];
          for (int j = 0; j < PANEL; ++j) sums[r][j] += factor * weights[j];
        }
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < PANEL; ++j) {
          Vec<T>& entry = to[r * to_stride + p * PANEL + j];
          entry = ADDS ? entry + sums[r][j] : sums[r][j];
        }
    }
  }

  int64_t rows_, panels_;
  Scratch<T> data_;
};

// Vectors that hold n numbers, in whole panels.
template <class T>
int64_t padded(int64_t n) {
  return (n + PANEL * LANES<T> - 1) / (PANEL * LANES<T>) * PANEL;
}

// Runs of sequences that have the same weights: where each begins, and the end. Few sequences are shared among the threads.
template <class T>
std::vector<int64_t> groups(const Call& call, const std::vector<const T*>& weights) {
  std::vector<int64_t> begins{0};
  const int64_t count = static_cast<int64_t>(weights.size()), threads = std::max<int64_t>(1, call.pool.num_threads());
  const int64_t rows = std::clamp((count + threads - 1) / threads, LEAST_ROWS, ROWS);
  for (int64_t i = 1; i <= count; ++i)
    if (i == count || weights[i] != weights[i - 1] || i - begins.back() == rows) begins.push_back(i);
  return begins;
}

}  // namespace linmem
