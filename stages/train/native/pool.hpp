// Threads that wait for work: `run(threads, units, work)` calls work(unit, worker) for each unit.
//
// In a process that has loaded torch they are torch's own, of OpenMP: those of a second pool would
// take the processors from them, which look for work a while before they go to sleep.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace native {

using Work = std::function<void(int unit, int worker)>;

// Units that threads take one by one, as fast as each of them is.
class Job {
 public:
  Job(int units, const Work& work) : units_(units), work_(work) {}
  void take() {
    const int worker = workers_.fetch_add(1);
    for (int unit; (unit = next_.fetch_add(1)) < units_;) work_(unit, worker);
  }

 private:
  const int units_;
  const Work& work_;
  std::atomic<int> workers_{0}, next_{0};
};

// The threads of the OpenMP that this process has loaded, if it has: by what compilers call for a
// parallel region. A forked child has none of its parent's threads, but OpenMP does not know.
class OpenMP {
 public:
  static bool run(int threads, Job& job) {
    static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (!parallel || getpid() != owner_) return false;
    parallel([](void* data) { static_cast<Job*>(data)->take(); }, &job, threads, 0);
    return true;
  }

 private:
  using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
  static inline const pid_t owner_ = getpid();
};

class Pool {
 public:
  // The pool of this process. A forked child has none of its parent's threads, so it starts anew;
  // the parent's object is left alone, since threads that do not exist cannot be joined.
  static Pool& of_process() {
    static std::mutex guard;
    static Pool* pool = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(guard);
    if (owner != getpid()) {
      pool = new Pool;
      owner = getpid();
    }
    return *pool;
  }

  void run(int threads, int units, const Work& work) {
    if (threads > units) threads = units;
    Job job(units, work);
    if (threads > 1 && OpenMP::run(threads, job)) return;
    std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
    if (threads <= 1 || !turn.try_lock())  // another caller has the workers: go alone
      return job.take();
    {
      std::lock_guard<std::mutex> lock(guard_);
      while (static_cast<int>(workers_.size()) < threads - 1) {
        const int number = static_cast<int>(workers_.size()) + 1;
        const unsigned seen = generation_;
        workers_.emplace_back([this, number, seen] { wait(number, seen); }).detach();
      }
      job_ = &job;
      wanted_ = running_ = threads - 1;
      ++generation_;
    }
    start_.notify_all();
    job.take();
    const auto done = [this] { return running_ == 0; };
    if (soon(done)) return;
    std::unique_lock<std::mutex> lock(guard_);
    done_.wait(lock, done);
  }

 private:
  // Looks again and again for a while before a thread goes to sleep: to wake it takes as long as
  // small work itself. Who else wants the processor gets it.
  template <class Seen>
  static bool soon(const Seen& seen) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (!seen()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  void wait(int number, unsigned seen) {
    const auto called = [&] { return generation_ != seen; };
    for (;;) {
      soon(called);
      Job* job;
      {
        std::unique_lock<std::mutex> lock(guard_);
        start_.wait(lock, called);
        seen = generation_;
        if (number > wanted_) continue;
        job = job_;
      }
      job->take();
      std::lock_guard<std::mutex> lock(guard_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, guard_;
  std::condition_variable start_, done_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  int wanted_ = 0;
  std::atomic<int> running_{0};
  std::atomic<unsigned> generation_{0};
};

}  // namespace native
