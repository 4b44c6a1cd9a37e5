// The compiled twin of ectorch.bitstream's coders: NumPy buffers in place, GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>

#include "context_model.hpp"
#include "levels.hpp"
#include "rans.hpp"
#include "static_coder.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::bytes to_bytes(const std::vector<std::uint8_t>& data) {
    return nb::bytes(reinterpret_cast<const char*>(data.data()), data.size());
}

const std::uint8_t* bytes_of(const nb::bytes& data) {
    return reinterpret_cast<const std::uint8_t*>(data.c_str());
}

nb::bytes static_encode(In<std::uint16_t> symbols, In<std::uint32_t> frequencies, int scale_bits) {
    ectorch::StaticTable table;
    table.frequencies.assign(frequencies.data(), frequencies.data() + frequencies.size());
    table.scale_bits = scale_bits;
    std::vector<std::uint8_t> out;
    {
        nb::gil_scoped_release unlocked;
        out = ectorch::static_encode(symbols.data(), symbols.size(), table);
    }
    return to_bytes(out);
}

void static_decode(nb::bytes data, Out<std::uint16_t> symbols, std::uint32_t levels) {
    nb::gil_scoped_release unlocked;
    ectorch::static_decode(bytes_of(data), data.size(), symbols.data(), symbols.size(), levels);
}

int decode_table(nb::bytes data, Out<std::uint32_t> frequencies) {
    ectorch::RangeDecoder coder(bytes_of(data), data.size());
    const auto table = ectorch::decode_table(coder, static_cast<std::uint32_t>(frequencies.size()));
    if (!coder.exhausted()) throw ectorch::DamagedStream("bytes left after the last frequency");
    std::copy(table.frequencies.begin(), table.frequencies.end(), frequencies.data());
    return table.scale_bits;
}

void count_symbols(In<std::uint16_t> symbols, Out<std::uint64_t> counts) {
    nb::gil_scoped_release unlocked;
    ectorch::count_symbols(symbols.data(), symbols.size(), counts.data(), counts.size());
}

void count_runs(In<std::uint16_t> symbols, std::uint16_t zero, Out<std::uint64_t> counts) {
    if (counts.size() != ectorch::kRunClasses) throw std::invalid_argument("run classes");
    nb::gil_scoped_release unlocked;
    ectorch::count_runs(symbols.data(), symbols.size(), zero, counts.data());
}

nb::bytes rans_encode_dense(In<std::uint16_t> symbols, In<std::uint32_t> frequencies,
                            int scale_bits) {
    std::vector<std::uint8_t> out;
    {
        nb::gil_scoped_release unlocked;
        const ectorch::RansSteps steps(frequencies.data(), frequencies.size(), scale_bits);
        out = ectorch::rans_encode_dense(symbols.data(), symbols.size(), steps);
    }
    return to_bytes(out);
}

void rans_decode_dense(nb::bytes data, In<std::uint64_t> slots, Out<std::uint16_t> symbols) {
    nb::gil_scoped_release unlocked;
    const ectorch::RansSlots table(slots.data(), slots.size());
    ectorch::rans_decode_dense(bytes_of(data), data.size(), table, symbols.data(), symbols.size());
}

std::pair<std::size_t, nb::bytes> rans_encode_runs(
    In<std::uint16_t> symbols, std::uint16_t zero, In<std::uint32_t> run_frequencies,
    int run_scale_bits, In<std::uint32_t> symbol_frequencies, int symbol_scale_bits) {
    ectorch::RunsChunk out;
    {
        nb::gil_scoped_release unlocked;
        const ectorch::RansSteps runs(run_frequencies.data(), run_frequencies.size(),
                                      run_scale_bits);
        const ectorch::RansSteps others(symbol_frequencies.data(), symbol_frequencies.size(),
                                        symbol_scale_bits);
        out = ectorch::rans_encode_runs(symbols.data(), symbols.size(), zero, runs, others);
    }
    return {out.tokens, to_bytes(out.data)};
}

void rans_decode_runs(nb::bytes data, std::size_t tokens, std::uint16_t zero,
                      In<std::uint64_t> run_slots, In<std::uint64_t> symbol_slots,
                      Out<std::uint16_t> symbols) {
    nb::gil_scoped_release unlocked;
    const ectorch::RansSlots runs(run_slots.data(), run_slots.size());
    const ectorch::RansSlots others(symbol_slots.data(), symbol_slots.size());
    ectorch::rans_decode_runs(bytes_of(data), data.size(), tokens, zero, runs, others,
                              symbols.data(), symbols.size());
}

using Shape = std::array<int, 4>;  // rows, channels, height, width

ectorch::View view_of(const Shape& shape, int order, bool live, In<std::uint32_t> hint) {
    return {shape[0], shape[1], shape[2], shape[3], order, live, hint.data(), hint.size()};
}

nb::bytes context_encode(In<std::uint16_t> symbols, Shape shape, int order, bool live, bool light,
                         int levels, int zero, In<std::uint32_t> hint) {
    const auto view = view_of(shape, order, live, hint);
    ectorch::check(view, {levels, zero}, symbols.size());
    std::vector<std::uint8_t> out;
    {
        nb::gil_scoped_release unlocked;
        out = ectorch::context_encode(symbols.data(), view, light, {levels, zero});
    }
    return to_bytes(out);
}

void context_decode(nb::bytes data, Out<std::uint16_t> symbols, Shape shape, int order, bool live,
                    bool light, int levels, int zero, In<std::uint32_t> hint) {
    const auto view = view_of(shape, order, live, hint);
    ectorch::check(view, {levels, zero}, symbols.size());
    nb::gil_scoped_release unlocked;
    ectorch::context_decode(bytes_of(data), data.size(), symbols.data(), view, light, {levels, zero});
}

template <class Bits>
nb::object find_distinct(In<Bits> bits, std::size_t most, Out<std::uint16_t> symbols) {
    ectorch::Distinct<Bits> found;
    {
        nb::gil_scoped_release unlocked;
        found = ectorch::find_distinct(bits.data(), bits.size(), most, symbols.data());
    }
    if (!found.found) return nb::none();
    return to_bytes({reinterpret_cast<const std::uint8_t*>(found.patterns.data()),
                     reinterpret_cast<const std::uint8_t*>(found.patterns.data() + found.patterns.size())});
}

template <class Bits>
void take(In<Bits> table, In<std::uint16_t> symbols, Out<Bits> out) {
    if (symbols.size() != out.size()) throw std::invalid_argument("symbols and out differ");
    nb::gil_scoped_release unlocked;
    ectorch::take(table.data(), table.size(), symbols.data(), symbols.size(), out.data());
}

template <class Bits>
void define_levels(nb::module_& m) {
    m.def("find_distinct", &find_distinct<Bits>, "bits"_a, "most"_a, "symbols"_a);
    m.def("take", &take<Bits>, "table"_a, "symbols"_a, "out"_a);
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);
    nb::exception<ectorch::DamagedStream>(m, "DamagedStream", PyExc_ValueError);
    m.def("static_encode", &static_encode, "symbols"_a, "frequencies"_a, "scale_bits"_a);
    m.def("static_decode", &static_decode, "data"_a, "symbols"_a, "levels"_a);
    m.def("decode_table", &decode_table, "data"_a, "frequencies"_a);
    m.def("count_symbols", &count_symbols, "symbols"_a, "counts"_a);
    m.def("count_runs", &count_runs, "symbols"_a, "zero"_a, "counts"_a);
    m.def("rans_encode_dense", &rans_encode_dense, "symbols"_a, "frequencies"_a, "scale_bits"_a);
    m.def("rans_decode_dense", &rans_decode_dense, "data"_a, "slots"_a, "symbols"_a);
    m.def("rans_encode_runs", &rans_encode_runs, "symbols"_a, "zero"_a, "run_frequencies"_a,
          "run_scale_bits"_a, "symbol_frequencies"_a, "symbol_scale_bits"_a);
    m.def("rans_decode_runs", &rans_decode_runs, "data"_a, "tokens"_a, "zero"_a, "run_slots"_a,
          "symbol_slots"_a, "symbols"_a);
    m.def("context_encode", &context_encode, "symbols"_a, "shape"_a, "order"_a, "live"_a, "light"_a,
          "levels"_a, "zero"_a, "hint"_a);
    m.def("context_decode", &context_decode, "data"_a, "symbols"_a, "shape"_a, "order"_a, "live"_a,
          "light"_a, "levels"_a, "zero"_a, "hint"_a);
    define_levels<std::uint8_t>(m);
    define_levels<std::uint16_t>(m);
    define_levels<std::uint32_t>(m);
    define_levels<std::uint64_t>(m);
}
