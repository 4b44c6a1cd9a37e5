// Distinct bit patterns of a tensor and where each item stands among them: np.unique in one pass;
// the plain twin is src/ectorch/bitstream/plain/codebook.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "poll.hpp"
#include "range_coder.hpp"

namespace ectorch {

// Sorted patterns and their symbols; `found` is false, and nothing else holds, past `most` of them.
template <class Bits>
struct Distinct {
    bool found = false;
    std::vector<Bits> patterns;
};

template <class Bits>
class PatternTable {  // open addressing, linear probing, grows at half load
   public:
    static constexpr std::uint32_t kEmpty = 0xFFFFFFFF;

    PatternTable() : keys_(kFirstSize), ids_(kFirstSize, kEmpty), shift_(64 - kFirstBits) {}

    std::uint32_t id_of(Bits key) {
        std::size_t at = home(key);
        while (ids_[at] != kEmpty) {
            if (keys_[at] == key) return ids_[at];
            at = (at + 1) & (ids_.size() - 1);
        }
        const auto id = static_cast<std::uint32_t>(patterns.size());
        keys_[at] = key;
        ids_[at] = id;
        patterns.push_back(key);
        if (2 * patterns.size() > ids_.size()) grow();
        return id;
    }

    std::vector<Bits> patterns;  // in order of appearance

   private:
    static constexpr int kFirstBits = 8;
    static constexpr std::size_t kFirstSize = std::size_t{1} << kFirstBits;

    std::size_t home(Bits key) const {
        return static_cast<std::size_t>(key * 0x9E3779B97F4A7C15ull >> shift_);
    }

    void grow() {
        --shift_;
        keys_.assign(2 * keys_.size(), 0);
        ids_.assign(2 * ids_.size(), kEmpty);
        for (std::uint32_t id = 0; id < patterns.size(); ++id) {
            std::size_t at = home(patterns[id]);
            while (ids_[at] != kEmpty) at = (at + 1) & (ids_.size() - 1);
            keys_[at] = patterns[id];
            ids_[at] = id;
        }
    }

    std::vector<Bits> keys_;
    std::vector<std::uint32_t> ids_;
    int shift_;
};

template <class Bits>
Distinct<Bits> find_distinct(const Bits* bits, std::size_t count, std::size_t most,
                             std::uint16_t* symbols) {
    if (most < 1 || most > kMaxLevels) {
        throw std::invalid_argument("most other than 1 to 65536");
    }
    PatternTable<Bits> table;
    Bits last = count ? bits[0] : Bits{0};
    std::uint32_t last_id = count ? table.id_of(last) : 0;
    for (std::size_t i = 0; i < count;) {
        for (const auto end = block_end(i, count); i < end; ++i) {
            if (bits[i] != last) {
                last = bits[i];
                last_id = table.id_of(last);
                if (table.patterns.size() > most) return {};
            }
            symbols[i] = static_cast<std::uint16_t>(last_id);
        }
    }
    std::vector<std::uint32_t> order(table.patterns.size());
    for (std::uint32_t id = 0; id < order.size(); ++id) order[id] = id;
    std::sort(order.begin(), order.end(),
              [&](auto a, auto b) { return table.patterns[a] < table.patterns[b]; });
    std::vector<std::uint16_t> rank(order.size());
    Distinct<Bits> out;
    out.found = true;
    for (std::uint32_t at = 0; at < order.size(); ++at) {
        rank[order[at]] = static_cast<std::uint16_t>(at);
        out.patterns.push_back(table.patterns[order[at]]);
    }
    for (std::size_t i = 0; i < count;) {
        for (const auto end = block_end(i, count); i < end; ++i) symbols[i] = rank[symbols[i]];
    }
    return out;
}

// out[i] = table[symbols[i]]; a symbol past the table is the caller's mistake.
template <class Bits>
void take(const Bits* table, std::size_t length, const std::uint16_t* symbols, std::size_t count,
          Bits* out) {
    for (std::size_t i = 0; i < count;) {
        const auto end = block_end(i, count);
        if (*std::max_element(symbols + i, symbols + end) >= length) {
            throw std::invalid_argument("a symbol beyond the table");
        }
        for (; i < end; ++i) out[i] = table[symbols[i]];
    }
}

}  // namespace ectorch
