// A growable block of plain values, 64-byte aligned: all the memory management that the kernels need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__linux__) && !defined(STREAMDAC_NO_LIBC)
#include <sys/mman.h>
#endif

namespace streamdac {

constexpr size_t CACHE_LINE = 64;
constexpr size_t HUGE_PAGE = size_t(1) << 21;

// Plain values only: nothing is constructed or destroyed. Fresh memory is zero.
template <typename T>
class Array {
public:
    Array() = default;
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { release(); }

    // Makes room for `count` values, all zero; what was there is lost. False where memory is short.
    bool allocate(int64_t count) {
        release();
        if (count < 0 || size_t(count) > (SIZE_MAX / 4) / sizeof(T)) return false;
        const size_t bytes = size_t(count) * sizeof(T);
        // Weights are streamed through once a hop: large pages spare that stream its address translations.
        const size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE;
        block_ = std::malloc(bytes + alignment);
        if (!block_) return false;
        data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(block_) + alignment - 1) / alignment * alignment);
#if defined(__linux__) && !defined(STREAMDAC_NO_LIBC)
        if (alignment == HUGE_PAGE) madvise(data_, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
        if (bytes) std::memset(static_cast<void*>(data_), 0, bytes);
        count_ = count;
        return true;
    }

    // At least `count` values; contents are lost where it grows.
    bool ensure(int64_t count) { return count <= count_ || allocate(count); }

    void swap(Array& other) {
        char own[sizeof(Array)];
        std::memcpy(own, static_cast<void*>(this), sizeof(Array));
        std::memcpy(static_cast<void*>(this), static_cast<void*>(&other), sizeof(Array));
        std::memcpy(static_cast<void*>(&other), own, sizeof(Array));
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    int64_t count() const { return count_; }
    T& operator[](int64_t index) { return data_[index]; }
    const T& operator[](int64_t index) const { return data_[index]; }

private:
    void release() {
        std::free(block_);
        block_ = nullptr;
        data_ = nullptr;
        count_ = 0;
    }

    void* block_ = nullptr;
    T* data_ = nullptr;
    int64_t count_ = 0;
};

// Plain values from one place to another; either may be null where there are none.
template <typename T>
inline void copy_values(T* to, const T* from, int64_t count) {
    if (count > 0) std::memcpy(static_cast<void*>(to), from, size_t(count) * sizeof(T));
}

// Grows by one value, keeping the contents: for lists built once.
template <typename T>
bool append(Array<T>& list, const T& value) {
    Array<T> longer;
    if (!longer.allocate(list.count() + 1)) return false;
    copy_values(longer.data(), list.data(), list.count());
    longer[list.count()] = value;
    list.swap(longer);
    return true;
}

}  // namespace streamdac
