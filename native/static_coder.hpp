// Static order-0 coder: a frequency table, then range-coded symbols; the plain twin is
// src/ectorch/bitstream/plain/static_coder.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "poll.hpp"
#include "range_coder.hpp"

namespace ectorch {

constexpr int kSearchBits = 12;     // upper bits of a target that say about where its symbol is
constexpr int kTableFieldBits = 5;  // of the scale, and of a frequency's bit length

inline void check_levels(std::size_t levels) {
    if (levels < 1 || levels > kMaxLevels) {
        throw std::invalid_argument("levels other than 1 to 65536");
    }
}

// Frequencies are of 1 to 65536 levels and sum to 2^scale_bits.
inline void check_frequencies(const std::uint32_t* frequencies, std::size_t levels, int scale_bits,
                              int most_scale_bits) {
    check_levels(levels);
    if (scale_bits < 1 || scale_bits > most_scale_bits) throw std::invalid_argument("scale");
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < levels; ++i) sum += frequencies[i];
    if (sum != std::uint64_t{1} << scale_bits) {
        throw std::invalid_argument("frequencies do not sum to their scale");
    }
}

struct StaticTable {
    std::vector<std::uint32_t> frequencies;  // one a level, they sum to 2^scale_bits
    int scale_bits = 0;

    std::vector<std::uint32_t> starts() const {
        std::vector<std::uint32_t> starts(frequencies.size() + 1, 0);
        for (std::size_t i = 0; i < frequencies.size(); ++i) {
            starts[i + 1] = starts[i] + frequencies[i];
        }
        return starts;
    }
};

// The frequency of the `implied` level, the first of the largest, follows from the sum.
inline void encode_table(RangeEncoder& coder, const StaticTable& table) {
    const auto& frequencies = table.frequencies;
    const auto largest = std::max_element(frequencies.begin(), frequencies.end());
    const auto implied = static_cast<std::size_t>(largest - frequencies.begin());
    const auto levels = static_cast<std::uint32_t>(frequencies.size());
    coder.encode_uniform(table.scale_bits, kTableFieldBits);
    coder.encode_uniform(static_cast<std::uint32_t>(implied), bit_length(levels - 1));
    for (std::size_t level = 0; level < frequencies.size(); ++level) {
        if (level == implied) continue;
        const int length = bit_length(frequencies[level]);
        coder.encode_uniform(length, kTableFieldBits);
        if (length > 1) coder.encode_uniform(frequencies[level] - (1u << (length - 1)), length - 1);
    }
}

inline StaticTable decode_table(RangeDecoder& coder, std::uint32_t levels) {
    StaticTable table;
    table.scale_bits = static_cast<int>(coder.decode_uniform(kTableFieldBits));
    const std::uint32_t implied = coder.decode_uniform(bit_length(levels - 1));
    if (table.scale_bits < 1 || table.scale_bits > kMaxScaleBits || implied >= levels) {
        throw DamagedStream("frequency table of scale " + std::to_string(table.scale_bits) +
                            ", implied level " + std::to_string(implied));
    }
    table.frequencies.assign(levels, 0);
    std::uint64_t sum = 0;
    for (std::uint32_t level = 0; level < levels; ++level) {
        if (level == implied) continue;
        const auto length = static_cast<int>(coder.decode_uniform(kTableFieldBits));
        const std::uint32_t low = length > 1 ? coder.decode_uniform(length - 1) : 0;
        table.frequencies[level] = length ? (1u << (length - 1)) + low : 0;
        sum += table.frequencies[level];
    }
    if (sum >= std::uint64_t{1} << table.scale_bits) {
        throw DamagedStream("frequencies sum to more than 2**" + std::to_string(table.scale_bits));
    }
    table.frequencies[implied] = static_cast<std::uint32_t>((1u << table.scale_bits) - sum);
    return table;
}

template <class Symbol>
std::vector<std::uint8_t> static_encode(const Symbol* symbols, std::size_t count,
                                        const StaticTable& table) {
    const auto& frequencies = table.frequencies;
    check_frequencies(frequencies.data(), frequencies.size(), table.scale_bits, kMaxScaleBits);
    RangeEncoder coder;
    encode_table(coder, table);
    const auto starts = table.starts();
    for (std::size_t i = 0; i < count;) {
        for (const auto end = block_end(i, count); i < end; ++i) {
            const Symbol symbol = symbols[i];
            if (symbol >= frequencies.size() || !frequencies[symbol]) {
                throw std::invalid_argument("a symbol that has no frequency");
            }
            coder.encode(starts[symbol], frequencies[symbol], table.scale_bits);
        }
    }
    return coder.finish();
}

// For each value of a target's upper bits, the symbol of the first target that has them; one more.
inline std::vector<std::uint32_t> first_symbols(const std::vector<std::uint32_t>& starts,
                                                int coarse, int scale_bits) {
    std::vector<std::uint32_t> first;
    std::uint32_t symbol = 0;
    for (std::uint32_t upper = 0; upper < 1u << (scale_bits - coarse); ++upper) {
        while (starts[symbol + 1] <= upper << coarse) ++symbol;
        first.push_back(symbol);
    }
    first.push_back(static_cast<std::uint32_t>(starts.size()) - 2);
    return first;
}

// `whole` unless more symbols follow in the stream.
template <class Symbol>
void static_decode(const std::uint8_t* data, std::size_t size, Symbol* symbols, std::size_t count,
                   std::uint32_t levels, bool whole = true) {
    check_levels(levels);
    if (levels - 1 > std::numeric_limits<Symbol>::max()) throw std::invalid_argument("narrow symbols");
    RangeDecoder coder(data, size);
    const StaticTable table = decode_table(coder, levels);
    const auto starts = table.starts();
    const int coarse = std::max(0, table.scale_bits - kSearchBits);
    const auto near = first_symbols(starts, coarse, table.scale_bits);
    for (std::size_t i = 0; i < count;) {
        for (const auto end = block_end(i, count); i < end; ++i) {
            const std::uint32_t target = coder.target(table.scale_bits);
            const std::uint32_t* const from = starts.data() + near[target >> coarse];
            const std::uint32_t* const to = starts.data() + near[(target >> coarse) + 1] + 1;
            const auto above = std::upper_bound(from + 1, to + 1, target);
            const auto symbol = static_cast<std::uint32_t>(above - starts.data() - 1);
            coder.narrow(starts[symbol], table.frequencies[symbol]);
            symbols[i] = static_cast<Symbol>(symbol);
        }
    }
    if (whole && !coder.exhausted()) throw DamagedStream("bytes left after the last symbol");
}

}  // namespace ectorch
