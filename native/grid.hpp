// What a constrained training step does with every weight of a grid: round, count, charge.
//
// Elementwise loops, whose numbers are those of ectorch.constrain.kernels.plain bit by bit: no
// product and sum may be contracted into one, and nothing is reordered. Counts are integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

// The loops are compiled twice where a loader can choose: for any processor, and for eight lanes.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define ECTORCH_LANES __attribute__((target_clones("avx2", "default")))
#else
#define ECTORCH_LANES
#endif
#if defined(__GNUC__)
#define ECTORCH_INLINE inline __attribute__((always_inline))
#else
#define ECTORCH_INLINE inline
#endif

namespace ectorch {

struct Bfloat16 {
    std::uint16_t bits;
};

ECTORCH_INLINE float widen(float x) { return x; }
ECTORCH_INLINE double widen(double x) { return x; }
ECTORCH_INLINE float widen(Bfloat16 x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

template <class To, class From>
ECTORCH_INLINE To narrow(From x) {
    if constexpr (std::is_same_v<To, Bfloat16>) {
        const float single = static_cast<float>(x);
        std::uint32_t bits;
        std::memcpy(&bits, &single, sizeof bits);
        const std::uint32_t even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        return {static_cast<std::uint16_t>(single == single ? even : 0x7FC0)};
    } else {
        return static_cast<To>(x);
    }
}

template <class T>
using Wide = decltype(widen(T{}));

// Half to even, of numbers far below 2^22 or 2^51: what is added leaves no bit below one.
ECTORCH_INLINE float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }
ECTORCH_INLINE double nearest(double x) { return (x + 6755399441055744.0) - 6755399441055744.0; }

template <class W>
ECTORCH_INLINE W below(W x) {
    const W near = nearest(x);
    return near - static_cast<W>(near > x);
}

// NaN stays NaN.
template <class W>
ECTORCH_INLINE W clip(W x, W low, W high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// A grid: multiples of `step` from `low` to `high`.
struct Grid {
    double step;
    std::int64_t low, high;
};

template <class T>
ECTORCH_INLINE T rounded(T weight, Wide<T> step, Wide<T> low, Wide<T> high,
                         const std::int16_t* noise) {
    using W = Wide<T>;
    W place = widen(weight) / step;
    if (noise) {
        place = place + (static_cast<W>(*noise) * static_cast<W>(1.0 / 65536) + static_cast<W>(0.5));
        place = below(clip(place, low, high));
    } else {
        place = nearest(clip(place, low, high));
    }
    const W index = widen(narrow<T>(place));  // a bfloat16 has few bits for it
    return narrow<T>(index * step);
}

template <class T, class Out>
ECTORCH_INLINE void round_part(const T* weight, std::int64_t size, const Grid& grid,
                               const std::int16_t* noise, Out* out) {
    using W = Wide<T>;
    const W step = static_cast<W>(grid.step);
    const W low = static_cast<W>(grid.low), high = static_cast<W>(grid.high);
    if (noise) {
        for (std::int64_t i = 0; i < size; ++i)
            out[i] = narrow<Out>(widen(rounded(weight[i], step, low, high, noise + i)));
    } else {
        for (std::int64_t i = 0; i < size; ++i)
            out[i] = narrow<Out>(widen(rounded(weight[i], step, low, high, nullptr)));
    }
}

// Where rounding moved each weight to, less where it was.
template <class T>
ECTORCH_INLINE void move_part(const T* weight, std::int64_t size, const Grid& grid,
                              const std::int16_t* noise, T* out) {
    using W = Wide<T>;
    const W step = static_cast<W>(grid.step);
    const W low = static_cast<W>(grid.low), high = static_cast<W>(grid.high);
    if (noise) {
        for (std::int64_t i = 0; i < size; ++i)
            out[i] = narrow<T>(widen(rounded(weight[i], step, low, high, noise + i)) -
                               widen(weight[i]));
    } else {
        for (std::int64_t i = 0; i < size; ++i)
            out[i] = narrow<T>(widen(rounded(weight[i], step, low, high, nullptr)) -
                               widen(weight[i]));
    }
}

// (levels + 1,) what a weight is charged by how many levels are at most as large: slopes between
// (levels,) lengths, flat beyond the ends.
template <class T>
std::vector<T> slopes_of(const float* lengths, const Grid& grid, float factor) {
    const auto levels = static_cast<std::size_t>(grid.high - grid.low + 1);
    std::vector<T> by_level(levels + 1, narrow<T>(0.0f * factor));
    const float step = static_cast<float>(grid.step);
    for (std::size_t at = 1; at < levels; ++at)
        by_level[at] = narrow<T>((lengths[at] - lengths[at - 1]) / step * factor);
    return by_level;
}

// A NaN is charged as what is below the first level.
template <class T>
ECTORCH_INLINE void charge_part(const T* weight, std::int64_t size, const Grid& grid,
                                const T* by_level, T* out) {
    using W = Wide<T>;
    const W step = static_cast<W>(grid.step), first = static_cast<W>(1 - grid.low);
    const W levels = static_cast<W>(grid.high - grid.low + 1);
    constexpr std::int64_t kBlock = 512;  // places first, in lanes, then look-ups
    std::int32_t places[kBlock];
    for (std::int64_t start = 0; start < size; start += kBlock) {
        const std::int64_t some = std::min(kBlock, size - start);
        for (std::int64_t i = 0; i < some; ++i) {
            const W place = clip(widen(weight[start + i]) / step + first, W(0), levels);
            places[i] = place == place ? static_cast<std::int32_t>(place) : 0;
        }
        for (std::int64_t i = 0; i < some; ++i) out[start + i] = by_level[places[i]];
    }
}

constexpr int kFractionBits = 40, kLimbBits = 20;
constexpr std::int64_t kFlushed = std::int64_t{1} << 22;  // items whose fractions fit 64 bits

// Exact sums: `items` weights lie between a level and the next, `above` of them in all belong to
// the next, in units of 2^-20 and 2^-40.
struct Bin {
    std::int64_t items = 0, above_high = 0, above_low = 0;
};

// Adds to (levels,) bins; whether every weight is finite.
template <class T>
ECTORCH_INLINE bool count_part(const T* weight, std::int64_t size, const Grid& grid, Bin* bins) {
    using W = Wide<T>;
    const W step = static_cast<W>(grid.step);
    const W low = static_cast<W>(grid.low), high = static_cast<W>(grid.high);
    const std::int64_t levels = grid.high - grid.low + 1;
    constexpr int kLanes = 4;  // neighbours often share a bin: each has its own
    constexpr std::int64_t kBlock = 512;
    struct Sums {
        std::int64_t items, above;
    };
    std::vector<Sums> lanes(static_cast<std::size_t>(kLanes * levels));
    std::int32_t places[kBlock];
    W fractions[kBlock];
    bool finite = true;
    for (std::int64_t begin = 0; begin < size; begin += kFlushed) {
        const std::int64_t end = std::min(size, begin + kFlushed);
        std::fill(lanes.begin(), lanes.end(), Sums{0, 0});
        for (std::int64_t start = begin; start < end; start += kBlock) {
            const std::int64_t some = std::min(kBlock, end - start);
            int wrong = 0;
            for (std::int64_t i = 0; i < some; ++i) {
                const W x = widen(weight[start + i]);
                wrong |= x - x != 0;  // NaN of NaN and infinity
                const W place = clip(x / step, low, high);
                W lower = below(place);
                lower = lower > high - 1 ? high - 1 : lower;
                const bool number = place == place;
                places[i] = number ? static_cast<std::int32_t>(lower - low)
                                   : static_cast<std::int32_t>(-low);
                fractions[i] = number ? place - lower : W(0);
            }
            finite = finite && !wrong;
            for (std::int64_t i = 0; i < some; ++i) {
                const auto fixed = static_cast<std::int64_t>(
                    fractions[i] * static_cast<W>(std::int64_t{1} << kFractionBits));
                Sums& sums = lanes[static_cast<std::size_t>((i % kLanes) * levels + places[i])];
                sums.items += 1;
                sums.above += fixed;
            }
        }
        for (std::int64_t at = 0; at < kLanes * levels; ++at) {
            Bin& bin = bins[at % levels];
            const Sums& sums = lanes[static_cast<std::size_t>(at)];
            bin.items += sums.items;
            bin.above_high += sums.above >> kLimbBits;
            bin.above_low += sums.above & ((std::int64_t{1} << kLimbBits) - 1);
        }
    }
    return finite;
}

// (levels,) counts, each rounded once; NaN where a weight is no number.
inline void counts_of(const std::vector<Bin>& bins, bool finite, double* counts) {
    for (std::size_t at = 0; at < bins.size(); ++at) {
        const Bin before = at ? bins[at - 1] : Bin{};
        const std::int64_t high =
            (bins[at].items << kLimbBits) - bins[at].above_high + before.above_high;
        const std::int64_t low = before.above_low - bins[at].above_low;
        counts[at] = finite ? static_cast<double>(high) * 0x1p-20 + static_cast<double>(low) * 0x1p-40
                            : std::numeric_limits<double>::quiet_NaN();
    }
}

// `work(begin, end, part)` of parts of [0, size), at most `threads` of them.
template <class Work>
void in_parts(std::int64_t size, int threads, Work work) {
    constexpr std::int64_t kWorthAThread = std::int64_t{1} << 20;  // torch's own are still awake
    const auto parts = std::max<std::int64_t>(
        1, std::min<std::int64_t>(threads, size / kWorthAThread));
    std::vector<std::thread> others;
    const auto run = [&](std::int64_t part) {
        work(size * part / parts, size * (part + 1) / parts, part);
    };
    for (std::int64_t part = 1; part < parts; ++part) others.emplace_back(run, part);
    run(0);
    for (auto& other : others) other.join();
}

}  // namespace ectorch
