// The thread pool: workers spin for a moment, then sleep; barriers spin, then yield.

#include "threads.h"

#include <new>

namespace streamdac {

void Share::barrier() const {
    if (pool) pool->barrier();
}

#if defined(STREAMDAC_NO_THREADS)

Pool* Pool::create(int) { return new (std::nothrow) Pool(1); }
Pool::~Pool() {}
void Pool::run(Work work, void* data) { work(data, Share{0, 1, this}); }
void Pool::barrier() {}

#else

constexpr int SPINS = 4000;  // some tens of microseconds: about what waking a thread costs

static inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

Pool* Pool::create(int threads) {
    Pool* pool = new (std::nothrow) Pool(1);
    if (!pool) return nullptr;
    // The workers must see the final number, so none starts to work before all are there.
    std::lock_guard<std::mutex> hold(pool->mutex_);
    if (!pool->workers_.allocate(threads - 1)) return pool;
    try {
        for (int i = 1; i < threads; ++i) {
            pool->workers_[i - 1] = new std::thread(&Pool::loop, pool, i);
            ++pool->threads_;
        }
    } catch (...) {  // no more threads to be had: fewer will do
    }
    return pool;
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> hold(mutex_);
        stop_ = true;
        job_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (int i = 0; i < threads_ - 1; ++i) {
        workers_[i]->join();
        delete workers_[i];
    }
}

void Pool::wait(const std::atomic<int64_t>& value, int64_t old) {
    for (int i = 0; value.load(std::memory_order_acquire) == old; ++i) {
        if (i < SPINS) relax();
        else std::this_thread::yield();
    }
}

void Pool::barrier() {
    const int64_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
    } else {
        wait(phase_, phase);
    }
}

void Pool::run(Work work, void* data) {
    std::lock_guard<std::mutex> turn(turn_);
    {
        std::lock_guard<std::mutex> hold(mutex_);
        work_ = work;
        data_ = data;
        job_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(data, Share{0, threads_, this});
    barrier();
}

void Pool::loop(int index) {
    int64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && job_.load(std::memory_order_acquire) == seen; ++i) relax();
        Work work;
        void* data;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return job_.load(std::memory_order_relaxed) != seen; });
            if (stop_) return;
            ++seen;
            work = work_;
            data = data_;
        }
        work(data, Share{index, threads_, this});
        barrier();
    }
}

#endif

}  // namespace streamdac
