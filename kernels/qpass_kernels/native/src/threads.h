// Loops over the threads that XLA already runs; no thread is started here.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace qpass {

// What the threads of one loop share. A thread takes `step` tasks at a time, which read memory one
// behind another. This outlives the loop: a helper that the pool runs too late finds no task left,
// and never looks at `task`, which is the caller's.
template <typename Task>
struct Loop {
  const Task* task;
  int64_t count, step;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};

  void run() {
    for (int64_t i = next.fetch_add(step); i < count; i = next.fetch_add(step)) {
      const int64_t stop = std::min(i + step, count);
      for (int64_t j = i; j < stop; ++j) (*task)(j);
      done.fetch_add(stop - i, std::memory_order_release);
    }
  }

  bool finished() const { return done.load(std::memory_order_acquire) == count; }
};

// Calls task(0), ..., task(count - 1) once each, in any order, on up to `threads` threads, and
// returns when all are done. The calling thread takes tasks too and waits only for those that
// another thread has begun: a pool whose threads are all busy is slow, but never stuck.
template <typename Task>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t count, int64_t threads, const Task& task) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  auto loop = std::make_shared<Loop<Task>>();
  loop->task = &task;
  loop->count = count;
  loop->step = std::max<int64_t>(1, count / (threads * 8));
  const int64_t helpers = (threads < count ? threads : count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([loop] { loop->run(); });
  loop->run();
  while (!loop->finished()) std::this_thread::yield();
}

// How many threads are worth waking: one for each `grain` of work, as far as the pool has them.
inline int64_t threads_for(const xla::ffi::ThreadPool& pool, int64_t work, int64_t grain) {
  const int64_t wanted = work / grain + 1;
  const int64_t have = pool.num_threads();
  return wanted < have ? wanted : have;
}

}  // namespace qpass
