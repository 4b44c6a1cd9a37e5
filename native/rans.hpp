// Interleaved rANS on integer frequencies; the plain twin is src/ectorch/bitstream/plain/rans.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "poll.hpp"
#include "static_coder.hpp"

namespace ectorch {

constexpr std::size_t kLanes = 8;  // independent states: their latencies overlap
constexpr std::uint32_t kLowest = 1u << 16;  // of a state; an encoder's lanes start here
constexpr std::size_t kStateBytes = 4 * kLanes;
constexpr int kMaxRansScaleBits = 16;
constexpr std::uint32_t kRunClasses = 128;
constexpr std::uint32_t kExactRuns = 16;  // shorter runs have a class each, longer ones 4 an octave
constexpr int kMaxRawBits = 16;           // that one step codes
constexpr std::size_t kTokenWords = 4;    // at most: class, two steps of raw bits, symbol
constexpr std::size_t kTokensInFlight = kLanes / 2;
constexpr std::uint64_t kMostChunkItems = std::uint64_t{1} << 32;

inline std::uint32_t load16(const std::uint8_t* at) { return at[0] | std::uint32_t{at[1]} << 8; }

inline std::uint32_t load32(const std::uint8_t* at) { return load16(at) | load16(at + 2) << 16; }

inline void check_symbols(const std::uint16_t* symbols, std::size_t count, std::size_t levels) {
    std::uint16_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, symbols[i]);
    if (count && largest >= levels) throw std::invalid_argument("symbol beyond the last level");
}

inline void check_chunk(std::size_t count) {  // its places are counted in 32 bits
    if (count > kMostChunkItems) throw std::invalid_argument("a chunk of more than 2^32 symbols");
}

// What coding a symbol takes; `x / frequency` is exactly `x * reciprocal >> (32 + bits)`.
struct RansStep {
    std::uint64_t reciprocal;
    std::uint32_t frequency;
    std::uint32_t start;
};

class RansSteps {
   public:
    RansSteps(const std::uint32_t* frequencies, std::size_t levels, int scale_bits)
        : bits(scale_bits) {
        check_frequencies(frequencies, levels, bits, kMaxRansScaleBits);
        std::uint32_t start = 0;
        for (std::size_t i = 0; i < levels; ++i) {
            const std::uint32_t frequency = frequencies[i];
            const auto one = std::uint64_t{1} << (32 + bits);
            steps_.push_back({frequency ? one / frequency + 1 : 0, frequency, start});
            start += frequency;
        }
    }

    const RansStep& operator[](std::size_t symbol) const { return steps_[symbol]; }
    std::size_t levels() const { return steps_.size(); }

    const int bits;

   private:
    std::vector<RansStep> steps_;
};

// Codes back to front into a buffer that holds `words` of 16 bits and the states.
class RansEncoder {
   public:
    explicit RansEncoder(std::size_t words)
        : buffer_(new std::uint8_t[2 * words + kStateBytes]),
          end_(buffer_.get() + 2 * words + kStateBytes),
          at_(end_) {
        states_.fill(kLowest);
    }

    void put(std::size_t lane, const RansStep& step, int bits) {
        rarest_ = std::min(rarest_, step.frequency);
        const std::uint32_t x = ship(states_[lane], states_[lane] >> (32 - bits) >= step.frequency);
        const auto quotient = static_cast<std::uint32_t>(x * step.reciprocal >> (32 + bits));
        states_[lane] = x + step.start + quotient * ((1u << bits) - step.frequency);
    }

    void put_raw(std::size_t lane, std::uint32_t value, int bits) {
        const std::uint32_t x = states_[lane];
        states_[lane] = ship(x, std::uint64_t{x} << bits >> 32 != 0) << bits | value;
    }

    std::vector<std::uint8_t> finish() {
        if (!rarest_) throw std::invalid_argument("a symbol that has no frequency");
        for (std::size_t lane = kLanes; lane-- > 0;) {
            store16(states_[lane] >> 16);
            store16(states_[lane]);
        }
        return {at_, end_};
    }

   private:
    // Branches on what is coded would be mispredicted: the word is written anyway.
    std::uint32_t ship(std::uint32_t x, bool full) {
        store16(x);
        at_ += 2 * !full;
        return x >> 16 * full;
    }

    void store16(std::uint32_t word) {
        at_ -= 2;
        at_[0] = static_cast<std::uint8_t>(word);
        at_[1] = static_cast<std::uint8_t>(word >> 8);
    }

    std::unique_ptr<std::uint8_t[]> buffer_;
    std::uint8_t* end_;
    std::uint8_t* at_;
    std::array<std::uint32_t, kLanes> states_;
    std::uint32_t rarest_ = 1;  // 0 once a symbol had no frequency
};

// One entry a slot of 2^bits: frequency << 32 | slot - start << 16 | symbol.
class RansSlots {
   public:
    RansSlots(const std::uint64_t* entries, std::size_t count) : entries_(entries) {
        while (std::size_t{1} << bits_ < count) ++bits_;
        if (bits_ < 1 || bits_ > kMaxRansScaleBits || std::size_t{1} << bits_ != count) {
            throw std::invalid_argument("rANS slots");
        }
    }

    std::uint64_t of(std::uint32_t x) const { return entries_[x & ((1u << bits_) - 1)]; }
    int bits() const { return bits_; }

   private:
    const std::uint64_t* entries_;
    int bits_ = 0;
};

class RansDecoder {
   public:
    RansDecoder(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {
        if (size < kStateBytes || size % 2) throw DamagedStream("chunk of states and half words");
        for (auto& state : states_) {
            state = load32(at_);
            at_ += 4;
            if (state < kLowest) throw DamagedStream("rANS state below 2**16");
        }
    }

    std::size_t words_left() const { return static_cast<std::size_t>(end_ - at_) / 2; }

    // `Checked` where fewer words may be left than the caller's next steps could take.
    template <bool Checked>
    std::uint32_t take(std::size_t lane, const RansSlots& slots) {
        const std::uint32_t x = states_[lane];
        const std::uint64_t entry = slots.of(x);
        const auto frequency = static_cast<std::uint32_t>(entry >> 32);
        const auto offset = static_cast<std::uint32_t>(entry >> 16 & 0xFFFF);
        states_[lane] = refill<Checked>(frequency * (x >> slots.bits()) + offset);
        return static_cast<std::uint32_t>(entry & 0xFFFF);
    }

    template <bool Checked>
    std::uint32_t take_raw(std::size_t lane, int bits) {
        const std::uint32_t x = states_[lane];
        states_[lane] = refill<Checked>(x >> bits);
        return x & ((1u << bits) - 1);
    }

    void check_end() const {
        for (const auto state : states_) {
            if (state != kLowest) throw DamagedStream("rANS state other than 2**16 at the end");
        }
        if (at_ != end_) throw DamagedStream("bytes left after the last symbol");
    }

   private:
    template <bool Checked>
    std::uint32_t refill(std::uint32_t x) {
        const bool low = x < kLowest;
        if constexpr (Checked) {
            if (!low) return x;
            if (at_ == end_) throw DamagedStream("chunk ends before its last symbol");
        }
        const std::uint32_t word = load16(at_) & (0u - low);
        at_ += 2 * low;
        return x << 16 * low | word;
    }

    const std::uint8_t* at_;
    const std::uint8_t* end_;
    std::array<std::uint32_t, kLanes> states_;
};

inline std::vector<std::uint8_t> rans_encode_dense(const std::uint16_t* symbols, std::size_t count,
                                                   const RansSteps& steps) {
    check_symbols(symbols, count, steps.levels());
    RansEncoder coder(count);
    std::size_t i = count;
    while (i % kLanes) {
        --i;
        coder.put(i % kLanes, steps[symbols[i]], steps.bits);
    }
    while (i) {
        const std::size_t stop = i - std::min(i, kPollItems);
        for (; i > stop; i -= kLanes) {
            for (std::size_t lane = kLanes; lane-- > 0;) {
                coder.put(lane, steps[symbols[i - kLanes + lane]], steps.bits);
            }
        }
        if (i) poll();
    }
    return coder.finish();
}

inline void rans_decode_dense(const std::uint8_t* data, std::size_t size, const RansSlots& slots,
                              std::uint16_t* symbols, std::size_t count) {
    RansDecoder coder(data, size);
    for (std::size_t i = 0; i < count;) {
        const auto end = block_end(i, count);
        for (; end - i >= kLanes && coder.words_left() >= kLanes; i += kLanes) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                symbols[i + lane] = static_cast<std::uint16_t>(coder.take<false>(lane, slots));
            }
        }
        for (; i < end; ++i) {
            symbols[i] = static_cast<std::uint16_t>(coder.take<true>(i % kLanes, slots));
        }
    }
    coder.check_end();
}

inline int high_bit(std::uint32_t value) {
#ifdef __GNUC__
    return 31 - __builtin_clz(value);
#else
    int bit = 0;
    while (value >>= 1) ++bit;
    return bit;
#endif
}

// A class is the shortest of its runs and how many raw bits follow.
struct RunClass {
    std::uint32_t base = 0;
    int raw_bits = 0;
};

inline std::uint32_t run_class(std::uint32_t run) {
    if (run < kExactRuns) return run;
    const int raw_bits = high_bit(run) - 2;
    return (static_cast<std::uint32_t>(raw_bits) + 1) * 4 + (run >> raw_bits);
}

inline std::array<RunClass, kRunClasses> make_run_classes() {
    std::array<RunClass, kRunClasses> classes;
    for (std::uint32_t i = 0; i < kRunClasses; ++i) {
        const int raw_bits = i < kExactRuns ? 0 : static_cast<int>(i / 4) - 2;
        classes[i] = {i < kExactRuns ? i : (4 + i % 4) << raw_bits, raw_bits};
    }
    return classes;
}

inline const std::array<RunClass, kRunClasses> kRuns = make_run_classes();

inline std::size_t count_others(const std::uint16_t* symbols, std::size_t count,
                                std::uint16_t zero) {
    constexpr std::size_t kBlock = 1 << 15;  // a narrow counter suffices: the compiler vectorises
    check_chunk(count);
    std::size_t others = 0;
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
        const std::size_t end = std::min(count, begin + kBlock);
        std::uint16_t in_block = 0;
        for (std::size_t i = begin; i < end; ++i) in_block += symbols[i] != zero;
        others += in_block;
    }
    return others;
}

// Where symbols differ from `zero`: every place is written, only these advance.
class Places {
   public:
    Places(const std::uint16_t* symbols, std::size_t count, std::uint16_t zero)
        : size_(count_others(symbols, count, zero)), places_(new std::uint32_t[size_ + 1]) {
        std::uint32_t* at = places_.get();
        for (std::size_t i = 0; i < count; ++i) {
            *at = static_cast<std::uint32_t>(i);
            at += symbols[i] != zero;
        }
    }

    std::size_t size() const { return size_; }
    std::uint32_t operator[](std::size_t token) const { return places_[token]; }
    std::uint32_t run_before(std::size_t token) const {
        return places_[token] - (token ? places_[token - 1] + 1 : 0);
    }

   private:
    std::size_t size_;
    std::unique_ptr<std::uint32_t[]> places_;
};

// Adds to `counts`, one a class, how often a run of it ends in another symbol.
inline void count_runs(const std::uint16_t* symbols, std::size_t count, std::uint16_t zero,
                       std::uint64_t* counts) {
    const Places places(symbols, count, zero);
    for (std::size_t token = 0; token < places.size(); ++token) {
        ++counts[run_class(places.run_before(token))];
    }
}

struct RunsChunk {
    std::size_t tokens = 0;
    std::vector<std::uint8_t> data;
};

inline RunsChunk rans_encode_runs(const std::uint16_t* symbols, std::size_t count,
                                  std::uint16_t zero, const RansSteps& run_steps,
                                  const RansSteps& symbol_steps) {
    check_symbols(symbols, count, symbol_steps.levels());
    const Places places(symbols, count, zero);
    if (!places.size()) return {};
    RansEncoder coder(kTokenWords * places.size());
    for (std::size_t token = places.size(); token-- > 0;) {
        if (token % kPollItems == 0) poll();
        const std::size_t lane = 2 * (token % kTokensInFlight);
        const std::uint32_t run = places.run_before(token);
        const std::uint32_t kind = run_class(run);
        if (kind >= run_steps.levels()) throw std::invalid_argument("run beyond the last class");
        const int raw_bits = kRuns[kind].raw_bits;
        const std::uint32_t raw = run - kRuns[kind].base;
        coder.put(lane + 1, symbol_steps[symbols[places[token]]], symbol_steps.bits);
        if (raw_bits > kMaxRawBits) coder.put_raw(lane, raw >> kMaxRawBits, raw_bits - kMaxRawBits);
        coder.put_raw(lane, raw & 0xFFFF, std::min(raw_bits, kMaxRawBits));
        coder.put(lane, run_steps[kind], run_steps.bits);
    }
    return {places.size(), coder.finish()};
}

template <bool Checked>
std::uint32_t take_run(RansDecoder& coder, std::size_t lane, const RansSlots& slots) {
    const RunClass& kind = kRuns[coder.take<Checked>(lane, slots) % kRunClasses];
    std::uint32_t raw = coder.take_raw<Checked>(lane, std::min(kind.raw_bits, kMaxRawBits));
    if (kind.raw_bits > kMaxRawBits) {
        raw |= coder.take_raw<Checked>(lane, kind.raw_bits - kMaxRawBits) << kMaxRawBits;
    }
    return kind.base + raw;
}

inline void rans_decode_runs(const std::uint8_t* data, std::size_t size, std::size_t tokens,
                             std::uint16_t zero, const RansSlots& run_slots,
                             const RansSlots& symbol_slots, std::uint16_t* symbols,
                             std::size_t count) {
    std::fill(symbols, symbols + count, zero);
    if (!tokens) {
        if (size) throw DamagedStream("bytes left after the last symbol");
        return;
    }
    RansDecoder coder(data, size);
    std::size_t at = 0;
    const auto place = [&](std::uint32_t run) {
        if (run >= count - at) throw DamagedStream("run beyond the end of its chunk");
        at += run;
    };
    std::size_t token = 0;
    while (tokens - token >= kTokensInFlight &&
           coder.words_left() >= kTokensInFlight * kTokenWords) {
        for (std::size_t lane = 0; lane < kLanes; lane += 2) {
            place(take_run<false>(coder, lane, run_slots));
            symbols[at++] = static_cast<std::uint16_t>(coder.take<false>(lane + 1, symbol_slots));
        }
        token += kTokensInFlight;
        if (token % kPollItems == 0) poll();
    }
    for (; token < tokens; ++token) {
        const std::size_t lane = 2 * (token % kTokensInFlight);
        place(take_run<true>(coder, lane, run_slots));
        symbols[at++] = static_cast<std::uint16_t>(coder.take<true>(lane + 1, symbol_slots));
    }
    coder.check_end();
}

// Adds to `counts` how often each level occurs.
inline void count_symbols(const std::uint16_t* symbols, std::size_t count, std::uint64_t* counts,
                          std::size_t levels) {
    check_symbols(symbols, count, levels);
    levels = std::min<std::size_t>(levels, kMaxLevels);
    constexpr std::size_t kTables = 4;  // equal neighbours do not wait for each other
    std::vector<std::uint64_t> tables(kTables * levels, 0);
    const std::size_t even = count - count % kTables;
    for (std::size_t i = 0; i < even; i += kTables) {
        for (std::size_t table = 0; table < kTables; ++table) {
            ++tables[table * levels + symbols[i + table]];
        }
    }
    for (std::size_t i = even; i < count; ++i) ++tables[symbols[i]];
    for (std::size_t at = 0; at < tables.size(); ++at) counts[at % levels] += tables[at];
}

}  // namespace ectorch
