// A few threads that wait for a job, all work on it, and meet at barriers. Without threads in the build: the caller alone.
#pragma once

#include "kernels.h"

#if !defined(STREAMDAC_NO_THREADS)
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#endif

namespace streamdac {

class Pool {
public:
    using Work = void (*)(void* data, const Share& share);

    // As many threads as asked for, or as few as the system gives.
    static Pool* create(int threads);
    ~Pool();
    int threads() const { return threads_; }

    // Runs `work` on all threads, the caller being the first; one job at a time, others wait their turn.
    void run(Work work, void* data);
    void barrier();

private:
    explicit Pool(int threads) : threads_(threads) {}
    int threads_;

#if !defined(STREAMDAC_NO_THREADS)
    void loop(int index);
    void wait(const std::atomic<int64_t>& value, int64_t old);

    Array<std::thread*> workers_;
    std::mutex turn_, mutex_;
    std::condition_variable wake_;
    std::atomic<int64_t> job_{0};   // counts jobs
    std::atomic<int64_t> phase_{0};  // counts barriers passed
    std::atomic<int> arrived_{0};
    Work work_ = nullptr;
    void* data_ = nullptr;
    bool stop_ = false;
#endif
};

}  // namespace streamdac
