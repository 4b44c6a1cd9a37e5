// The compiled twin of ectorch.bitstream's coders: NumPy buffers in place, GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>

#include "context_model.hpp"
#include "levels.hpp"
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

using Shape = std::array<int, 4>;  // rows, channels, height, width

ectorch::View view_of(const Shape& shape, int order, bool live, In<std::uint32_t> hint) {
    return {shape[0], shape[1], shape[2], shape[3], order, live, hint.data(), static_cast<int>(hint.size())};
}

nb::bytes context_encode(In<std::uint16_t> symbols, Shape shape, int order, bool live, bool light,
                         int levels, int zero, In<std::uint32_t> hint) {
    const auto view = view_of(shape, order, live, hint);
    if (view.size() != symbols.size()) throw std::invalid_argument("shape and symbols differ");
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
    if (view.size() != symbols.size()) throw std::invalid_argument("shape and symbols differ");
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

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);
    nb::exception<ectorch::DamagedStream>(m, "DamagedStream", PyExc_ValueError);
    m.def("static_encode", &static_encode, "symbols"_a, "frequencies"_a, "scale_bits"_a);
    m.def("static_decode", &static_decode, "data"_a, "symbols"_a, "levels"_a);
    m.def("context_encode", &context_encode, "symbols"_a, "shape"_a, "order"_a, "live"_a, "light"_a,
          "levels"_a, "zero"_a, "hint"_a);
    m.def("context_decode", &context_decode, "data"_a, "symbols"_a, "shape"_a, "order"_a, "live"_a,
          "light"_a, "levels"_a, "zero"_a, "hint"_a);
    m.def("find_distinct", &find_distinct<std::uint8_t>, "bits"_a, "most"_a, "symbols"_a);
    m.def("find_distinct", &find_distinct<std::uint16_t>, "bits"_a, "most"_a, "symbols"_a);
    m.def("find_distinct", &find_distinct<std::uint32_t>, "bits"_a, "most"_a, "symbols"_a);
    m.def("find_distinct", &find_distinct<std::uint64_t>, "bits"_a, "most"_a, "symbols"_a);
}
