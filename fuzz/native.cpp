// libFuzzer target over the compiled coders: the first bytes choose one and its sizes, the rest is
// its stream. What decodes is encoded and decoded again; rANS even has to give the same bytes. As a
// changed rANS stream hardly ever decodes, its rest may also be symbols to encode, then to decode.
// Encoders also get tables and symbols that do not fit each other: they refuse them or code them.
#include <cstdlib>
#include <cstring>

#include "../native/codebook.hpp"
#include "../native/context_model.hpp"
#include "../native/rans.hpp"
#include "../native/static_coder.hpp"

namespace {

constexpr std::uint32_t kMostSymbols = 1024;
constexpr std::uint32_t kMostSide = 24;

using Symbols = std::vector<std::uint16_t>;
using Bytes = std::vector<std::uint8_t>;

void expect(bool holds) {
    if (!holds) std::abort();
}

class Input {
   public:
    Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    std::uint32_t byte() { return at_ < end_ ? *at_++ : 0; }
    std::uint32_t upto(std::uint32_t most) { return (byte() | byte() << 8) % (most + 1); }

    // Up to 65536 in one of four inputs: their tables and models take long.
    std::uint32_t levels() { return 1 + upto(byte() % 4 ? 255 : ectorch::kMaxLevels - 1); }

    Bytes take(std::size_t count) {  // a copy of its own size: the sanitizer sees a read past it
        const auto* from = at_;
        at_ += std::min<std::size_t>(count, end_ - at_);
        return {from, at_};
    }

    Bytes rest() { return take(end_ - at_); }

   private:
    const std::uint8_t* at_;
    const std::uint8_t* end_;
};

void fuzz_static(Input& in, bool) {
    const std::uint32_t levels = in.levels();
    Symbols symbols(in.upto(kMostSymbols)), again(symbols.size());
    const Bytes data = in.rest();
    ectorch::static_decode(data.data(), data.size(), symbols.data(), symbols.size(), levels);
    ectorch::RangeDecoder coder(data.data(), data.size());
    const auto table = ectorch::decode_table(coder, levels);
    const Bytes out = ectorch::static_encode(symbols.data(), symbols.size(), table);
    ectorch::static_decode(out.data(), out.size(), again.data(), again.size(), levels);
    expect(again == symbols);
}

struct Rans {  // a table as bitstream/rans.py reads it
    ectorch::StaticTable table;
    std::vector<std::uint64_t> slots;

    Rans(Input& in, std::uint32_t levels) {
        const Bytes data = in.take(in.byte());
        ectorch::RangeDecoder coder(data.data(), data.size());
        table = ectorch::decode_table(coder, levels);
        if (!coder.exhausted() || table.scale_bits > ectorch::kMaxRansScaleBits) {
            throw ectorch::DamagedStream("table");
        }
        for (std::uint64_t level = 0; level < levels; ++level) {
            const std::uint64_t frequency = table.frequencies[level];
            for (std::uint64_t place = 0; place < frequency; ++place) {
                slots.push_back(frequency << 32 | place << 16 | level);
            }
        }
    }

    ectorch::RansSlots decoder() const { return {slots.data(), slots.size()}; }
    ectorch::RansSteps encoder() const {
        return {table.frequencies.data(), table.frequencies.size(), table.scale_bits};
    }
};

// A symbol of the table for each pair of bytes that is left.
Symbols draw(Input& in, const Rans& table, std::size_t count) {
    Symbols symbols(count);
    for (auto& symbol : symbols) {
        symbol = static_cast<std::uint16_t>(table.slots[in.upto(0xFFFF) % table.slots.size()]);
    }
    return symbols;
}

void fuzz_dense(Input& in, bool draws) {
    const Rans table(in, in.levels());
    Symbols symbols(in.upto(kMostSymbols));
    const auto decode = [&](const Bytes& data) {
        ectorch::rans_decode_dense(data.data(), data.size(), table.decoder(), symbols.data(),
                                   symbols.size());
    };
    const auto encode = [&] {
        return ectorch::rans_encode_dense(symbols.data(), symbols.size(), table.encoder());
    };
    if (draws) symbols = draw(in, table, symbols.size());
    const Symbols drawn = symbols;
    const Bytes data = draws ? encode() : in.rest();
    decode(data);
    expect(draws ? symbols == drawn : encode() == data);
}

// Whether each run of `zero` before another symbol has a class that the table can code.
bool can_code(const Symbols& symbols, std::uint16_t zero, const Rans& runs) {
    std::array<std::uint64_t, ectorch::kRunClasses> counts{};
    ectorch::count_runs(symbols.data(), symbols.size(), zero, counts.data());
    for (std::size_t kind = 0; kind < counts.size(); ++kind) {
        const auto& frequencies = runs.table.frequencies;
        if (counts[kind] && (kind >= frequencies.size() || !frequencies[kind])) return false;
    }
    return true;
}

void fuzz_runs(Input& in, bool draws) {
    const std::uint32_t levels = in.levels();
    const auto zero = static_cast<std::uint16_t>(in.upto(levels - 1));
    const Rans runs(in, 1 + in.upto(ectorch::kRunClasses - 1));
    const Rans others(in, levels);
    std::size_t tokens = in.upto(2 * kMostSymbols);
    Symbols symbols(in.upto(kMostSymbols));
    const auto encode = [&] {
        return ectorch::rans_encode_runs(symbols.data(), symbols.size(), zero, runs.encoder(),
                                         others.encoder());
    };
    const auto decode = [&](const Bytes& data) {
        ectorch::rans_decode_runs(data.data(), data.size(), tokens, zero, runs.decoder(),
                                  others.decoder(), symbols.data(), symbols.size());
    };
    if (!draws) {
        const Bytes data = in.rest();
        decode(data);
        const auto others_than_zero = ectorch::count_others(symbols.data(), symbols.size(), zero);
        if (others_than_zero != tokens) return;  // a token said zero: no encoder writes that
        const auto chunk = encode();
        expect(chunk.tokens == tokens && chunk.data == data);
        return;
    }
    std::fill(symbols.begin(), symbols.end(), zero);
    for (const std::uint16_t symbol : draw(in, others, tokens)) {
        if (symbols.empty()) break;
        symbols[in.upto(static_cast<std::uint32_t>(symbols.size() - 1))] = symbol;
    }
    if (!can_code(symbols, zero, runs)) return;
    const auto chunk = encode();
    tokens = chunk.tokens;
    const Symbols drawn = symbols;
    decode(chunk.data);
    expect(symbols == drawn);
}

void fuzz_context(Input& in, bool) {
    const std::uint32_t how = in.byte();
    int sides[4];
    for (int& side : sides) side = static_cast<int>(in.upto(kMostSide));
    const auto levels = static_cast<std::int32_t>(in.levels());
    const auto zero = static_cast<std::int32_t>(in.upto(levels - 1));
    std::vector<std::uint32_t> hint(how & 16 ? in.byte() : 0);
    for (auto& nonzeros : hint) nonzeros = (1u << in.upto(31)) - 1;
    const ectorch::View view{sides[0],         sides[1],       sides[2],    sides[3],
                             int(how) % 4, (how & 4) != 0, hint.data(), hint.size()};
    if (view.size() > kMostSymbols) return;
    const bool light = how & 8;
    Symbols symbols(view.size()), again(view.size());
    const ectorch::Alphabet alphabet{levels, zero};
    const Bytes data = in.rest();
    ectorch::check(view, alphabet, symbols.size());
    ectorch::context_decode(data.data(), data.size(), symbols.data(), view, light, alphabet);
    const Bytes out = ectorch::context_encode(symbols.data(), view, light, alphabet);
    ectorch::context_decode(out.data(), out.size(), again.data(), view, light, alphabet);
    expect(again == symbols);
}

// Any numbers: a table that may not sum to its scale, symbols that it may not have.
void fuzz_hostile(Input& in, bool draws) {
    const std::uint32_t chosen = in.byte();
    const int bits = static_cast<int>(in.byte()) - 4, more_bits = static_cast<int>(in.byte()) - 4;
    std::vector<std::uint32_t> frequencies(in.upto(kMostSide)), others(in.upto(kMostSide));
    for (auto* const list : {&frequencies, &others}) {
        for (auto& frequency : *list) frequency = in.upto(0xFFFF) << (draws ? 0 : in.byte() % 17);
    }
    Symbols symbols(in.upto(kMostSymbols));
    for (auto& symbol : symbols) symbol = static_cast<std::uint16_t>(in.byte() % 25);
    const auto zero = static_cast<std::uint16_t>(in.byte());
    const auto steps = [](const std::vector<std::uint32_t>& list, int scale_bits) {
        return ectorch::RansSteps(list.data(), list.size(), scale_bits);
    };
    if (chosen % 4 == 0) {
        ectorch::static_encode(symbols.data(), symbols.size(), {frequencies, bits});
    } else if (chosen % 4 == 1) {
        ectorch::rans_encode_dense(symbols.data(), symbols.size(), steps(frequencies, bits));
    } else if (chosen % 4 == 2) {
        ectorch::rans_encode_runs(symbols.data(), symbols.size(), zero, steps(frequencies, bits),
                                  steps(others, more_bits));
    } else {
        std::vector<std::uint64_t> counts(in.upto(kMostSide));
        ectorch::count_symbols(symbols.data(), symbols.size(), counts.data(), counts.size());
    }
}

// Any items: what is found of them rebuilds them.
template <class Bits>
void find_patterns(Input& in) {
    const std::size_t most = in.upto(0xFFFF);
    const Bytes data = in.rest();
    std::vector<Bits> items(data.size() / sizeof(Bits)), again(items.size());
    if (!items.empty()) std::memcpy(items.data(), data.data(), items.size() * sizeof(Bits));
    Symbols symbols(items.size());
    const auto found = ectorch::find_distinct(items.data(), items.size(), most, symbols.data());
    if (!found.found) return;
    const auto& patterns = found.patterns;
    ectorch::take(patterns.data(), patterns.size(), symbols.data(), symbols.size(), again.data());
    expect(again == items && std::is_sorted(patterns.begin(), patterns.end()));
    ectorch::take(patterns.data(), most, symbols.data(), 0, again.data());
}

void fuzz_patterns(Input& in, bool) {
    constexpr void (*widths[])(Input&) = {
        find_patterns<std::uint8_t>, find_patterns<std::uint16_t>, find_patterns<std::uint32_t>,
        find_patterns<std::uint64_t>};
    widths[in.byte() % 4](in);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr void (*targets[])(Input&, bool) = {fuzz_static, fuzz_dense, fuzz_runs, fuzz_context};
    constexpr void (*refusing[])(Input&, bool) = {fuzz_hostile, fuzz_patterns};
    Input in(data, size);
    const std::uint32_t chosen = in.byte();
    try {
        if (~chosen & 8) targets[chosen % 4](in, chosen & 4);
        else refusing[chosen % 2](in, chosen & 4);
    } catch (const ectorch::DamagedStream&) {
    } catch (const std::invalid_argument&) {
        expect(chosen & 8);
    }
    return 0;
}
