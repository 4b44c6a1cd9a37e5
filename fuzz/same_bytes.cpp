// Codes what same_bytes.py asks for on its standard input, one stream a line in hexadecimal, and
// checks that each decodes to what was coded.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "../native/context_model.hpp"
#include "../native/rans.hpp"
#include "../native/static_coder.hpp"

namespace {

using Symbols = std::vector<std::uint16_t>;
using Bytes = std::vector<std::uint8_t>;

template <class T>
T number() {
    long long value = 0;
    if (!(std::cin >> value)) std::abort();
    return static_cast<T>(value);
}

template <class T>
std::vector<T> numbers() {
    std::vector<T> values(number<std::size_t>());
    for (auto& value : values) value = number<T>();
    return values;
}

ectorch::StaticTable table() {
    ectorch::StaticTable read;
    read.scale_bits = number<int>();
    read.frequencies = numbers<std::uint32_t>();
    return read;
}

ectorch::RansSteps steps(const ectorch::StaticTable& table) {
    return {table.frequencies.data(), table.frequencies.size(), table.scale_bits};
}

std::vector<std::uint64_t> slots(const ectorch::StaticTable& table) {
    std::vector<std::uint64_t> slots;
    for (std::uint64_t level = 0; level < table.frequencies.size(); ++level) {
        const std::uint64_t frequency = table.frequencies[level];
        for (std::uint64_t place = 0; place < frequency; ++place) {
            slots.push_back(frequency << 32 | place << 16 | level);
        }
    }
    return slots;
}

void finish(const Bytes& stream, const Symbols& symbols, const Symbols& decoded) {
    if (decoded != symbols) std::abort();
    for (const auto byte : stream) std::printf("%02x", byte);
    std::puts("");
}

void code_static() {
    const auto frequencies = table();
    const auto symbols = numbers<std::uint16_t>();
    Symbols decoded(symbols.size());
    const auto out = ectorch::static_encode(symbols.data(), symbols.size(), frequencies);
    const auto levels = static_cast<std::uint32_t>(frequencies.frequencies.size());
    ectorch::static_decode(out.data(), out.size(), decoded.data(), decoded.size(), levels);
    finish(out, symbols, decoded);
}

void code_dense() {
    const auto frequencies = table();
    const auto symbols = numbers<std::uint16_t>();
    Symbols decoded(symbols.size());
    const auto out = ectorch::rans_encode_dense(symbols.data(), symbols.size(), steps(frequencies));
    const auto entries = slots(frequencies);
    ectorch::rans_decode_dense(out.data(), out.size(), {entries.data(), entries.size()},
                               decoded.data(), decoded.size());
    finish(out, symbols, decoded);
}

void code_runs() {
    const auto zero = number<std::uint16_t>();
    const auto runs = table(), others = table();
    const auto symbols = numbers<std::uint16_t>();
    Symbols decoded(symbols.size());
    const auto out = ectorch::rans_encode_runs(symbols.data(), symbols.size(), zero, steps(runs),
                                               steps(others));
    const auto run_slots = slots(runs), other_slots = slots(others);
    ectorch::rans_decode_runs(out.data.data(), out.data.size(), out.tokens, zero,
                              {run_slots.data(), run_slots.size()},
                              {other_slots.data(), other_slots.size()}, decoded.data(),
                              decoded.size());
    finish(out.data, symbols, decoded);
}

void code_context() {
    const auto shape = numbers<int>();
    const auto order = number<int>();
    const bool live = number<bool>(), light = number<bool>();
    const auto levels = number<std::int32_t>(), zero = number<std::int32_t>();
    const auto hint = numbers<std::uint32_t>();
    const auto symbols = numbers<std::uint16_t>();
    Symbols decoded(symbols.size());
    const ectorch::View view{shape.at(0), shape.at(1), shape.at(2),  shape.at(3),
                             order,       live,        hint.data(), hint.size()};
    ectorch::check(view, {levels, zero}, symbols.size());
    const auto out = ectorch::context_encode(symbols.data(), view, light, {levels, zero});
    ectorch::context_decode(out.data(), out.size(), decoded.data(), view, light, {levels, zero});
    finish(out, symbols, decoded);
}

}  // namespace

int main() {
    for (std::string coder; std::cin >> coder;) {
        if (coder == "static") code_static();
        else if (coder == "dense") code_dense();
        else if (coder == "runs") code_runs();
        else if (coder == "context") code_context();
        else return 1;
    }
}
