// Adaptive context model: each binary decision of a symbol is predicted from several contexts, the
// predictions are mixed, the mix is refined, the range coder codes the decision. Integers only.
// FORMAT.md specifies it; the plain twins are context_model.py and decisions.py (the Slot, the Kind,
// the mix) in src/ectorch/bitstream/plain.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "poll.hpp"
#include "range_coder.hpp"

namespace ectorch {

constexpr int kMaxStretch = 3071;         // 256 a nat
constexpr int kCells = 25;                // of a refinement, 256 apart
constexpr std::uint32_t kMostMet = 1023;  // of a slot
constexpr int kMaxInputs = 6;
constexpr std::int64_t kMaxWeight = 1 << 24;
constexpr std::size_t kNodeContexts = 32;
constexpr std::size_t kPollVisits = 1 << 17;

// A tensor as rows x channels x height x width, and the order of its items in the stream.
struct View {
    int rows, channels, height, width;
    int order;  // 0 rows outermost, 1 rows innermost, 2 channels outermost, 3 positions outermost
    bool live;  // say first which rows and columns hold nothing but zeros, and leave them out
    const std::uint32_t* hint = nullptr;  // `hints` of them, each for equally many columns
    std::size_t hints = 0;

    int columns() const { return channels * height * width; }

    // The number of items, or 2^31 where an int cannot count them.
    std::uint64_t size() const {
        std::uint64_t items = 1;
        for (const int length : {rows, channels, height, width}) {
            items = std::min(items * length, std::uint64_t{1} << 31);
        }
        return items;
    }
};

// What the model is told of the symbols: values are symbols minus `zero`.
struct Alphabet {
    std::int32_t levels, zero;

    int longest() const { return bit_length(std::max(zero, levels - 1 - zero)); }
};

// Everything below relies on it: no product of sizes overflows an int, no index leaves its table.
inline void check(const View& view, Alphabet alphabet, std::size_t symbols) {
    const bool negative = std::min({view.rows, view.channels, view.height, view.width}) < 0;
    if (negative || view.size() >> 31 || view.size() != symbols) {
        throw std::invalid_argument("shape and symbols differ, or there are too many");
    }
    if (view.order < 0 || view.order > 3) throw std::invalid_argument("order other than 0 to 3");
    if (alphabet.zero < 0 || alphabet.zero >= alphabet.levels || alphabet.levels > kMaxLevels) {
        throw std::invalid_argument("zero is none of 1 to 65536 levels");
    }
}

struct Tables {
    std::array<std::int32_t, 2 * kMaxStretch + 1> squash_of;
    std::array<std::int16_t, 65536> stretch_of;            // inverse of squash
    std::array<std::uint32_t, kMostMet + 1> slot_rate;    // share of the way to the bit, of 2^16
    std::array<std::int32_t, kMostMet + 1> mixer_rate;

    Tables() {
        // 65536 / (1 + exp(12 - k / 2)); the other half by symmetry
        constexpr std::int32_t half[25] = {0,    1,    1,    2,     3,     5,     8,    13,   22,
                                           36,   60,   98,   162,   267,   439,   720,  1179, 1921,
                                           3108, 4971, 7812, 11955, 17625, 24743, 32768};
        const auto knot = [&](int k) { return k < 25 ? half[k] : 65536 - half[48 - k]; };
        for (int x = 0; x <= 2 * kMaxStretch; ++x) {
            const int k = (x + 1) >> 7, rest = (x + 1) & 127;
            const std::int32_t p = (knot(k) * (128 - rest) + knot(k + 1) * rest + 64) >> 7;
            squash_of[x] = std::clamp(p, 1, 65535);
        }
        int x = -kMaxStretch;
        for (int p = 0; p < 65536; ++p) {
            while (x < kMaxStretch && squash(x) < p) ++x;
            stretch_of[p] = static_cast<std::int16_t>(x);
        }
        for (std::uint32_t n = 0; n <= kMostMet; ++n) {
            slot_rate[n] = 131072 / (2 * n + 3);
            mixer_rate[n] = static_cast<std::int32_t>(256 + 65536 / (n + 64));
        }
    }

    std::int32_t squash(std::int64_t x) const {
        return squash_of[std::clamp<std::int64_t>(x, -kMaxStretch, kMaxStretch) + kMaxStretch];
    }
};

inline const Tables kTables;

struct Slot {  // an adaptive probability of a 1, of 2^32, and how often it was met
    std::uint32_t p = 0;
    std::uint32_t n = 0;

    void update(bool bit) {
        const std::int64_t way = (bit ? std::int64_t{0xFFFFFFFF} : 0) - std::int64_t{p};
        p = static_cast<std::uint32_t>(p + (way * kTables.slot_rate[n] >> 16));
        n += n < kMostMet;
    }
};

using Weights = std::array<std::int32_t, kMaxInputs + 1>;  // of 2^16; the first is the kind's own
using Refinement = std::array<Slot, kCells>;

// One kind of decision: its own probability, and the mixers and refinements to select from.
struct Kind {
    Slot own;
    std::array<std::vector<Weights>, 2> mixers;
    std::array<std::vector<Refinement>, 2> refinements;

    Kind(std::uint32_t p, int first, int second, std::int32_t weight) : own{p, 2} {
        Weights weights;
        weights.fill(weight);
        Refinement cells;
        for (int i = 0; i < kCells; ++i) {
            const std::int32_t start = kTables.squash(256 * i - kMaxStretch - 1);
            cells[i] = {static_cast<std::uint32_t>(start) << 16, 2};
        }
        mixers = {std::vector<Weights>(first, weights), std::vector<Weights>(second, weights)};
        refinements = {std::vector<Refinement>(first, cells),
                       std::vector<Refinement>(second, cells)};
    }
};

// Codes `values` (rows x columns, signed) with an encoder, or fills them with a decoder. A light
// model takes the mean of the first two contexts instead of the mix.
template <class Coder, bool kLight>
class ContextModel {
   public:
    ContextModel(Coder& coder, const View& view, int longest, const std::int32_t* given)
        : coder_(coder), view_(view), longest_(longest), given_(given), values_(view.size()),
          rows_(view.rows), columns_(view.columns()), zero_(kind(98784247, 4, 16, 2048)),
          sign_(kind(1u << 31, 4, 4, 8192)), row_live_(kind(1u << 31, 1, 1, 16384)),
          column_live_(kind(1u << 31, 1, 1, 16384)),
          nodes_(16 + 20 * (longest + 1), kind(1u << 31, 1, 4, 8192)) {
        for (auto& slots : node_slots_) slots.resize(nodes_.size() * kNodeContexts);
    }

    std::vector<std::int32_t> run() {
        code_live();
        auto& columns = live_columns_;
        const auto before = [&](int a, int b) { return group_of(a) < group_of(b); };
        std::stable_sort(columns.begin(), columns.end(), before);
        std::size_t visited = 0;
        for (auto first = columns.begin(); first != columns.end();) {
            const auto last = std::upper_bound(first, columns.end(), *first, before);
            for (int r : live_rows_) {
                for (auto column = first; column != last; ++column) visit(r, *column);
                visited += static_cast<std::size_t>(last - first);
                if (visited >= kPollVisits) visited = 0, poll();
            }
            first = last;
        }
        return std::move(values_);
    }

   private:
    struct Line {  // what was seen of a row or a column
        std::uint32_t items = 0, nonzeros = 0;
        std::int32_t value = 0;  // the last nonzero one
        Slot zero, sign, magnitude;
        bool live = false;  // has a nonzero
    };

    // The light model mixes nothing.
    static Kind kind(std::uint32_t p, int first, int second, std::int32_t weight) {
        return kLight ? Kind(p, 0, 0, 0) : Kind(p, first, second, weight);
    }

    // Of columns that are visited row by row; the groups follow one another.
    int group_of(int column) const {
        const int plane = view_.height * view_.width;
        const int groups[] = {0, column, column / plane, column % plane};
        return groups[view_.order];
    }

    // Rows and columns that hold nothing but zeros are said first, and left out then.
    void code_live() {
        const auto width = columns_.size();
        if (Coder::encodes) {
            for (std::size_t r = 0; r < rows_.size(); ++r)
                for (std::size_t at = 0; at < width; ++at)
                    if (given_[r * width + at]) rows_[r].live = columns_[at].live = true;
        }
        for (int r = 0; r < view_.rows; ++r) {
            const int before = (r > 0 && rows_[r - 1].live) + 2 * (r > 1 && rows_[r - 2].live);
            Slot* in[] = {&live_row_[before], &live_row_[4]};
            bool& live = rows_[r].live;
            live = !view_.live || decide(live, row_live_, in, 2, 0, 0);
            if (live) live_rows_.push_back(r);
        }
        const int W = view_.width, H = view_.height;
        for (int at = 0; at < view_.columns(); ++at) {
            const int h = at / W % H, w = at % W;
            int before = (at > 0 && columns_[at - 1].live) + 2 * (at > 1 && columns_[at - 2].live);
            if (H * W > 1) {
                const auto is = [&](int back) { return columns_[at - back].live; };
                before = (w > 0 && is(1)) + 2 * (h > 0 && is(W)) +
                         4 * (h > 0 && w > 0 && is(W + 1)) + 8 * (h > 0 && w + 1 < W && is(W - 1));
            }
            const int hint = view_.hints ? 1 + hint_of(at) : 0;
            Slot* in[] = {&live_column_[before], &live_column_[16 + hint]};
            bool& live = columns_[at].live;
            live = !view_.live || decide(live, column_live_, in, 2, 0, 0);
            if (live) live_columns_.push_back(at);
        }
    }

    int hint_of(int column) const {
        const auto of = static_cast<std::uint64_t>(column) * view_.hints / columns_.size();
        return std::min(7, bit_length(view_.hint[of]));
    }

    // 0 to 3 while all are zero; then 5 + log2(2 items / nonzeros), at most 15.
    static int density(std::uint64_t nonzeros, std::uint64_t items) {
        if (!nonzeros) return std::min(3, bit_length(items) / 3);
        const int power = bit_length(2 * items) - bit_length(nonzeros);  // or one more
        return 5 + std::clamp(power - (power > 0 && nonzeros << power > 2 * items), 0, 10);
    }

    static int sign(std::int32_t v) { return v > 0 ? 2 : v < 0; }
    static int size(std::int32_t v, int most) { return std::min(std::abs(v), most); }

    // What is known so far of the item `rows`, `channels`, `down`, `right` away; 0 outside.
    std::int32_t value_at(int r, int c, int h, int w) const {
        if (r < 0 || c < 0 || h < 0 || w < 0 || h >= view_.height || w >= view_.width) return 0;
        const auto plane = static_cast<std::size_t>(r) * view_.channels + c;
        return values_[(plane * view_.height + h) * view_.width + w];
    }

    // Nonzeros of the columns around, eight times as many items as the column has.
    int density_around(int c, int h, int w, const Line& column) const {
        std::uint64_t nonzeros = 2 * std::uint64_t{column.nonzeros};
        for (int y = std::max(h - 1, 0); y <= std::min(h + 1, view_.height - 1); ++y) {
            for (int x = std::max(w - 1, 0); x <= std::min(w + 1, view_.width - 1); ++x) {
                if (y == h && x == w) continue;
                const Line& near = columns_[(c * view_.height + y) * view_.width + x];
                nonzeros += std::uint64_t{near.nonzeros} << (y == h || x == w);
            }
        }
        return density(nonzeros, 8 * std::uint64_t{column.items});
    }

    ECTORCH_INLINE void visit(int r, int at) {
        Line& row = rows_[r];
        Line& column = columns_[at];
        const int row_density = density(row.nonzeros, row.items);
        const int column_density = density(column.nonzeros, column.items);
        int near_density = column_density;
        std::int32_t a, b, d, e;  // the neighbours
        int beyond = 0;
        const std::size_t item = static_cast<std::size_t>(r) * columns_.size() + at;
        if (view_.height * view_.width > 1) {
            const int w = at % view_.width, h = at / view_.width % view_.height;
            const int c = at / (view_.width * view_.height);
            a = value_at(r, c, h, w - 1), b = value_at(r, c, h - 1, w);
            d = value_at(r, c, h - 1, w - 1), e = value_at(r, c, h - 1, w + 1);
            beyond = (value_at(r, c, h, w - 2) != 0) + (value_at(r, c, h - 2, w) != 0);
            near_density = density_around(c, h, w, column);
        } else {
            const std::int32_t* const here = values_.data() + item;
            const auto width = columns_.size();
            a = at > 0 ? *(here - 1) : 0, b = r > 0 ? *(here - width) : 0;
            d = r > 1 ? *(here - 2 * width) : 0, e = at > 1 ? *(here - 2) : 0;
        }
        const int touching = std::min(3, (a != 0) + (b != 0) + (d != 0) + (e != 0));
        const int around = ((size(a, 2) * 3 + size(b, 2)) * 3 + size(d, 2)) * 3 + size(e, 2);
        Slot* in[kMaxInputs] = {&zero_around_[81 * beyond + around],
                                &zero_density_[16 * near_density + row_density], &row.zero,
                                &column.zero};
        int inputs = 4;
        if (view_.hints) {
            const int hint = 16 * hint_of(at);
            in[inputs++] = &zero_hint_[hint + row_density];
            in[inputs++] = &zero_hint_[128 + hint + column_density];
        }
        const std::int32_t given = Coder::encodes ? given_[item] : 0;
        if (decide(given != 0, zero_, in, inputs, touching, row_density)) {
            const int signs = ((sign(a) * 3 + sign(b)) * 3 + sign(d)) * 3 + sign(e);
            Slot* sign_in[] = {&sign_around_[signs], &row.sign, &column.sign,
                               &sign_last_[sign(row.value) * 3 + sign(column.value)]};
            const bool negative = decide(given < 0, sign_, sign_in, 4, touching, row_density / 4);
            const auto bit = [&](bool given_bit, int node) {
                const std::size_t first = node * kNodeContexts + negative;
                Slot* node_in[] = {&node_slots_[0][first + 8 * size(a, 3) + 2 * size(b, 3)],
                                   &node_slots_[1][first + 2 * size(row.value, 15)],
                                   &node_slots_[2][first + 2 * row_density],
                                   &node_slots_[3][first + 2 * column_density], &row.magnitude};
                return decide(given_bit, nodes_[node], node_in, node ? 4 : 5, 0, row_density / 4);
            };
            const auto magnitude = static_cast<std::uint32_t>(std::abs(given));
            int length = 1;
            while (length < longest_ && bit(bit_length(magnitude) > length, length - 1)) ++length;
            std::int32_t so_far = 1;
            for (int low = length - 2; low >= 0; --low) {
                const int place = so_far < 4 ? so_far - 1 : 3 + low;
                so_far = 2 * so_far + bit(magnitude >> low & 1, 16 + 20 * length + place);
            }
            const std::int32_t value = values_[item] = negative ? -so_far : so_far;
            for (Line* line : {&row, &column}) {
                ++line->nonzeros;
                line->value = value;
            }
        }
        ++row.items;
        ++column.items;
    }

    ECTORCH_INLINE bool decide(bool bit, Kind& kind, Slot* const* in, int inputs, int first, int second) {
        if constexpr (kLight) inputs = 2;
        for (int i = 0; i < inputs; ++i) {
            if (in[i]->n == 0) in[i]->p = kind.own.p;
        }
        if constexpr (kLight) {
            const std::uint32_t p = (in[0]->p >> 17) + (in[1]->p >> 17);
            bit = coder_.code(bit, std::clamp(p, 1u, 65535u));
        } else {
            bit = mix(bit, kind, in, inputs, first, second);
        }
        for (int i = 0; i < inputs; ++i) in[i]->update(bit);
        kind.own.update(bit);
        return bit;
    }

    bool mix(bool bit, Kind& kind, Slot* const* in, int inputs, int first, int second) {
        Weights* const weights[2] = {&kind.mixers[0][first], &kind.mixers[1][second]};
        Refinement* const cells[2] = {&kind.refinements[0][first], &kind.refinements[1][second]};
        std::array<std::int64_t, kMaxInputs + 1> stretched;
        stretched[0] = kTables.stretch_of[kind.own.p >> 16];
        for (int i = 0; i < inputs; ++i) stretched[i + 1] = kTables.stretch_of[in[i]->p >> 16];
        std::int64_t mixed[2];
        for (int m = 0; m < 2; ++m) {
            mixed[m] = 0;
            for (int i = 0; i <= inputs; ++i) mixed[m] += (*weights[m])[i] * stretched[i];
            mixed[m] >>= 16;
        }
        const std::int64_t x =
            std::clamp<std::int64_t>((mixed[0] + mixed[1]) >> 1, -kMaxStretch, kMaxStretch);
        const int place = static_cast<int>(x) + kMaxStretch + 1;
        const int cell = place >> 8, rest = place & 255;
        std::uint32_t p = 2 * static_cast<std::uint32_t>(kTables.squash(x));
        for (int m = 0; m < 2; ++m) {
            const Slot *low = &(*cells[m])[cell], *high = low + 1;
            p += ((low->p >> 16) * (256 - rest) + (high->p >> 16) * rest) >> 8;
        }
        bit = coder_.code(bit, std::clamp((p + 2) >> 2, 1u, 65535u));
        for (int m = 0; m < 2; ++m) {
            const std::int64_t missed = (bit ? 65536 : 0) - kTables.squash(mixed[m]);
            const std::int64_t step = missed * kTables.mixer_rate[kind.own.n];
            for (int i = 0; i <= inputs; ++i) {
                std::int32_t& weight = (*weights[m])[i];
                const std::int64_t moved = weight + (stretched[i] * step >> 24);
                weight = static_cast<std::int32_t>(std::clamp(moved, -kMaxWeight, kMaxWeight));
            }
            (*cells[m])[cell + (rest >= 128)].update(bit);
        }
        return bit;
    }

    Coder& coder_;
    const View& view_;
    const int longest_;
    const std::int32_t* const given_;   // to encode; nothing to a decoder
    std::vector<std::int32_t> values_;  // coded so far, zero where not yet
    std::vector<Line> rows_, columns_;
    Kind zero_, sign_, row_live_, column_live_;
    std::vector<int> live_rows_, live_columns_;
    std::array<Slot, 5> live_row_;
    std::array<Slot, 25> live_column_;
    std::vector<Kind> nodes_;  // of a magnitude: bits of its length, then its own below the first
    std::array<Slot, 3 * 81> zero_around_;
    std::array<Slot, 256> zero_density_, zero_hint_;
    std::array<Slot, 81> sign_around_;
    std::array<Slot, 9> sign_last_;
    std::array<std::vector<Slot>, 4> node_slots_;
};

template <class Coder>
std::vector<std::int32_t> run_model(Coder& coder, const View& view, bool light, Alphabet alphabet,
                                    const std::int32_t* given) {
    if (view.size() == 0) return {};
    const int longest = alphabet.longest();
    return light ? ContextModel<Coder, true>(coder, view, longest, given).run()
                 : ContextModel<Coder, false>(coder, view, longest, given).run();
}

inline std::vector<std::uint8_t> context_encode(const std::uint16_t* symbols, const View& view,
                                                bool light, Alphabet alphabet) {
    std::vector<std::int32_t> values(symbols, symbols + view.size());
    for (auto& value : values) {
        if (value >= alphabet.levels) throw std::invalid_argument("a symbol beyond the codebook");
        value -= alphabet.zero;
    }
    RangeEncoder coder;
    run_model(coder, view, light, alphabet, values.data());
    return coder.finish();
}

inline void context_decode(const std::uint8_t* data, std::size_t size, std::uint16_t* symbols,
                           const View& view, bool light, Alphabet alphabet) {
    RangeDecoder coder(data, size);
    const auto values = run_model(coder, view, light, alphabet, nullptr);
    if (!coder.exhausted()) throw DamagedStream("bytes left after the last symbol");
    for (std::size_t i = 0; i < values.size(); ++i) {
        const std::int32_t symbol = values[i] + alphabet.zero;
        if (symbol < 0 || symbol >= alphabet.levels) {
            throw DamagedStream("a symbol beyond the codebook");
        }
        symbols[i] = static_cast<std::uint16_t>(symbol);
    }
}

}  // namespace ectorch
