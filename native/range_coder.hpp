// Byte-wise range coder on integer frequencies; the plain twin is
// src/ectorch/bitstream/plain/range_coder.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

// The hot loops are a fifth faster where their bodies are never calls.
#if defined(__GNUC__)
#define ECTORCH_INLINE [[gnu::always_inline]] inline
#elif defined(_MSC_VER)
#define ECTORCH_INLINE __forceinline
#else
#define ECTORCH_INLINE inline
#endif

namespace ectorch {

// Bytes that no encoder writes; kernels.py makes it a FormatError that names the tensor.
struct DamagedStream : std::runtime_error {
    using std::runtime_error::runtime_error;
};

constexpr int kStateBits = 48;
constexpr std::uint64_t kStateMask = (std::uint64_t{1} << kStateBits) - 1;
constexpr int kSettledShift = kStateBits - 8;
constexpr std::uint64_t kMinRange = std::uint64_t{1} << kSettledShift;
constexpr int kMaxScaleBits = 24;
constexpr int kMaxLevels = 1 << 16;
constexpr int kProbabilityBits = 16;  // of a binary decision

inline int bit_length(std::uint64_t value) {
#if defined(__GNUC__)
    return value ? 64 - __builtin_clzll(value) : 0;
#else
    int bits = 0;
    for (; value; value >>= 1) ++bits;
    return bits;
#endif
}

class RangeEncoder {
   public:
    static constexpr bool encodes = true;

    void encode(std::uint32_t start, std::uint32_t frequency, int scale_bits) {
        const std::uint64_t unit = range_ >> scale_bits;
        low_ += start * unit;
        range_ = frequency * unit;
        while (range_ < kMinRange) ship();
    }

    void encode_uniform(std::uint32_t value, int bits) { encode(value, 1, bits); }

    // `one`: probability of a 1, from 1 to 2^16 - 1. Returns the bit, as the decoder's twin does.
    bool code(bool bit, std::uint32_t one) {
        const std::uint64_t bound = (range_ >> kProbabilityBits) * one;
        if (bit) {
            range_ = bound;
        } else {
            low_ += bound;
            range_ -= bound;
        }
        while (range_ < kMinRange) ship();
        return bit;
    }

    // The shortest bytes that decode to what was coded; a decoder reads zeros after them.
    std::vector<std::uint8_t> finish() {
        const std::uint64_t end = low_ + range_;
        for (int kept = kStateBits; kept >= 0; kept -= 8) {
            const std::uint64_t ones = (std::uint64_t{1} << kept) - 1;
            const std::uint64_t value = (low_ + ones) & ~ones;
            if (value < end) {
                low_ = value;
                break;
            }
        }
        range_ = 1;
        for (int i = 0; i < kStateBits / 8; ++i) ship();
        while (!out_.empty() && out_.back() == 0) out_.pop_back();
        return std::move(out_);
    }

   private:
    void ship() {
        if (low_ > kStateMask) carry();
        out_.push_back(static_cast<std::uint8_t>(low_ >> kSettledShift));
        low_ = low_ << 8 & kStateMask;
        range_ <<= 8;
    }

    void carry() {
        std::size_t at = out_.size() - 1;
        while (out_[at] == 0xFF) out_[at--] = 0;
        ++out_[at];
        low_ &= kStateMask;
    }

    std::uint64_t low_ = 0;
    std::uint64_t range_ = kStateMask;
    std::vector<std::uint8_t> out_;
};

class RangeDecoder {
   public:
    static constexpr bool encodes = false;

    RangeDecoder(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {
        for (int i = 0; i < kStateBits / 8; ++i) code_ = code_ << 8 | next();
        if (code_ >= range_) throw outside();
    }

    // Whether every byte was needed; a longer stream holds bytes that nobody coded.
    bool exhausted() const { return at_ >= size_; }

    // Where the next symbol lies among 2^scale_bits; `narrow` by its interval follows.
    std::uint32_t target(int scale_bits) {
        unit_ = range_ >> scale_bits;
        const std::uint64_t target = code_ / unit_;
        if (target >> scale_bits) throw outside();
        return static_cast<std::uint32_t>(target);
    }

    void narrow(std::uint32_t start, std::uint32_t frequency) {
        code_ -= start * unit_;
        range_ = frequency * unit_;
        refill();
    }

    std::uint32_t decode_uniform(int bits) {
        const std::uint32_t value = target(bits);
        narrow(value, 1);
        return value;
    }

    bool code(bool, std::uint32_t one) {
        const std::uint64_t bound = (range_ >> kProbabilityBits) * one;
        const bool bit = code_ < bound;
        if (bit) {
            range_ = bound;
        } else {
            code_ -= bound;
            range_ -= bound;
        }
        refill();
        return bit;
    }

   private:
    static DamagedStream outside() {
        return DamagedStream("range-coded stream is outside of the coded interval");
    }

    std::uint8_t next() {
        const std::uint8_t byte = at_ < size_ ? data_[at_] : 0;
        ++at_;
        return byte;
    }

    void refill() {
        while (range_ < kMinRange) {
            code_ = code_ << 8 | next();
            range_ <<= 8;
        }
    }

    const std::uint8_t* data_;
    std::size_t size_;
    std::size_t at_ = 0;
    std::uint64_t code_ = 0;
    std::uint64_t range_ = kStateMask;
    std::uint64_t unit_ = 0;
};

}  // namespace ectorch
