// Memories whose state is a matrix for each head, one step after another: the recurrences of core/chunked, literally.
//
// A state of 32 x 32 numbers stays in the processor's first cache, and a step costs little more than its multiplications.
// Chunks exist to make few large products of many small steps; here nothing is gained by that. Forward keeps the state
// every span of steps; backward does a span again from there, keeping its states, and then goes through it from its end.
//
// Forward holds S as rows of values, S[i][c], so that what is read, sum_i q_i S_ic, adds up rows. Backward holds rows of
// keys, S[c][i], because nearly all that it adds up runs over c; what runs over i is the sums of one row.
//
// Axes of operands, behind the batch's: state (heads, dk, dv); starts (steps,); all others (steps, heads, ...). An operand
// with one head is shared by all.

#pragma once

#include "common.h"

namespace linmem {
constexpr int64_t AHEAD = 8;  // steps between fetching and use: memory is far away, and steps of a head are not neighbours

// What a step of one head has in an operand.
template <class T>
struct Steps {
  T* data;
  int64_t stride, width;
  T* at(int64_t t) const { return data + t * stride; }
  void fetch(int64_t t) const {
    for (int64_t i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(at(t) + i);
  }
};

template <class T>
class Series {
 public:
  Series(const Batch& batch, AnyBuffer operand, int own) : places_(batch.places<T>(operand)) {
    auto axes = operand.dimensions().last(own);
    for (int i = 2; i < own; ++i) width_ *= axes[i];
    stride_ = axes[1] * width_;
    head_ = axes[1] == 1 ? 0 : width_;
  }
  Steps<T> of(int64_t sequence, int64_t head) const { return {places_[sequence] + head * head_, stride_, width_}; }

 private:
  std::vector<T*> places_;
  int64_t stride_, head_, width_ = 1;
};

struct Sizes {
  int64_t steps, heads, dk, dv, writes, span;
  int64_t matrix() const { return dk * dv; }
};

// v: (.., steps, heads, [writes,] dv); kept: (.., spans, heads, dk, dv).
inline Sizes sizes(AnyBuffer v, int own, AnyBuffer kept) {
  auto values = v.dimensions().last(own), states = kept.dimensions().last(4);
  const int64_t steps = values[0], spans = states[0];
  return {steps, states[1], states[2], states[3], own == 4 ? values[2] : 1, span_of(steps, spans)};
}

// How many vectors of a row are gone through together, over all rows: so many that their sums and factors fit into the
// registers. N is the number of vectors in a row, if the compiler knows it; 0 goes through them one by one.
template <int N>
constexpr int TOGETHER = N == 0 ? 1 : N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1;

// `run(sequence, head, its first entry in an array of states)`, over all.
template <class F>
void each_head(const Call& call, const Batch& batch, const Sizes& n, const F& run) {
  parallel(call.pool, batch.size * n.heads, [&](int64_t task) {
    run(task / n.heads, task % n.heads, task % n.heads * n.matrix());
  });
}

template <class T>
void save(T* to, const Vec<T>* S, const Sizes& n, int row) {
  for (int64_t i = 0; i < n.dk; ++i) store(to + i * n.dv, S + i * row, n.dv);
}

template <class T>
void restore(Vec<T>* S, const T* from, const Sizes& n, int row) {
  for (int64_t i = 0; i < n.dk; ++i) load(S + i * row, from + i * n.dv, n.dv);
}

// S[c][i], whose rows are `row` vectors, from S[i][c] without gaps; and back.
template <class T>
void restore_transposed(Vec<T>* S, const T* from, const Sizes& n, int row) {
  T* to = reinterpret_cast<T*>(S);
  for (int64_t i = 0; i < n.dk; ++i)
    for (int64_t c = 0; c < n.dv; ++c) to[c * row * LANES<T> + i] = from[i * n.dv + c];
}

template <class T>
void save_transposed(T* to, const Vec<T>* S, const Sizes& n, int row) {
  const T* from = reinterpret_cast<const T*>(S);
  for (int64_t i = 0; i < n.dk; ++i)
    for (int64_t c = 0; c < n.dv; ++c) to[i * n.dv + c] = from[c * row * LANES<T> + i];
}

// A few rows of `row` vectors; N is `row` where it is known to the compiler, which then has them in registers.
template <class T, int N, int COUNT>
class Rows {
 public:
  explicit Rows(int row) : row_(row), scratch_(N ? 0 : COUNT * row) {}
  Vec<T>* operator[](int i) { return N ? fixed_[i] : scratch_.get() + i * row_; }

 private:
  int row_;
  Scratch<T> scratch_;
  Vec<T> fixed_[COUNT][N ? N : 1]{};
};

}  // namespace linmem
