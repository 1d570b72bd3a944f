// Threads that wait for work: `run(threads, units, work)` calls work(unit, worker) for each unit.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace native {

class Pool {
 public:
  using Work = std::function<void(int unit, int worker)>;

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
    std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
    if (threads <= 1 || !turn.try_lock()) {  // another caller has the workers: go alone
      for (int unit = 0; unit < units; ++unit) work(unit, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(guard_);
      while (static_cast<int>(workers_.size()) < threads - 1) {
        const int number = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, number, seen = generation_] { wait(number, seen); }).detach();
      }
      work_ = &work;
      units_ = units;
      next_ = 0;
      wanted_ = running_ = threads - 1;
      ++generation_;
    }
    start_.notify_all();
    take(0);
    std::unique_lock<std::mutex> lock(guard_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void wait(int number, unsigned seen) {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(guard_);
        start_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (number > wanted_) continue;
      }
      take(number);
      std::lock_guard<std::mutex> lock(guard_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  void take(int worker) {
    for (int unit; (unit = next_.fetch_add(1)) < units_;) (*work_)(unit, worker);
  }

  std::mutex turn_, guard_;
  std::condition_variable start_, done_;
  std::vector<std::thread> workers_;
  const Work* work_ = nullptr;
  std::atomic<int> next_{0};
  int units_ = 0, wanted_ = 0, running_ = 0;
  unsigned generation_ = 0;
};

}  // namespace native
