// The compiled twin of ectorch.bitstream.plain: NumPy buffers in place, GIL released. The protocol
// in src/ectorch/bitstream/native.py has the same functions.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>

#include <atomic>
#include <memory>

#include "codebook.hpp"
#include "context_model.hpp"
#include "poll.hpp"
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

// Bytes, or a view of some: made and given back while the GIL is held.
class Stream {
   public:
    explicit Stream(const nb::object& bytes) {
        if (PyObject_GetBuffer(bytes.ptr(), &view_, PyBUF_SIMPLE)) throw nb::python_error();
    }
    Stream(const Stream&) = delete;
    ~Stream() { PyBuffer_Release(&view_); }

    const std::uint8_t* data() const { return static_cast<const std::uint8_t*>(view_.buf); }
    std::size_t nbytes() const { return static_cast<std::size_t>(view_.len); }

   private:
    Py_buffer view_;
};

// A kernel never writes what it still reads.
template <class Written, class... Read>
void check_apart(const Written& out, const Read&... in) {
    const auto begin = [](const auto& a) { return reinterpret_cast<std::uintptr_t>(a.data()); };
    const auto end = [&](const auto& a) { return begin(a) + a.nbytes(); };
    const auto meets = [&](const auto& a) { return begin(a) < end(out) && begin(out) < end(a); };
    if ((meets(in) || ...)) throw std::invalid_argument("an output lies in an input");
}

// Ends the coders of the threads that watch it.
class Stop {
   public:
    void watch() const { watched = flag_; }
    void set() { *flag_ = true; }

    static thread_local std::shared_ptr<std::atomic<bool>> watched;

   private:
    std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

thread_local std::shared_ptr<std::atomic<bool>> Stop::watched;

struct Stopped : std::exception {
    const char* what() const noexcept override { return "stopped by another thread"; }
};

// A thread that watches nothing may be the one that gets signals.
void poll() {
    if (Stop::watched) {
        if (*Stop::watched) throw Stopped();
        return;
    }
    nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals()) throw nb::python_error();
}

template <class Symbol>
nb::bytes static_encode(In<Symbol> symbols, In<std::uint32_t> frequencies, int scale_bits) {
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

template <class Symbol>
void static_decode(nb::object data, Out<Symbol> symbols, std::uint32_t levels, bool whole) {
    const Stream stream(data);
    check_apart(symbols, stream);
    nb::gil_scoped_release unlocked;
    ectorch::static_decode(stream.data(), stream.nbytes(), symbols.data(), symbols.size(), levels,
                           whole);
}

int decode_table(nb::object data, Out<std::uint32_t> frequencies) {
    ectorch::check_levels(frequencies.size());
    const Stream stream(data);
    check_apart(frequencies, stream);
    ectorch::RangeDecoder coder(stream.data(), stream.nbytes());
    const auto table = ectorch::decode_table(coder, static_cast<std::uint32_t>(frequencies.size()));
    if (!coder.exhausted()) throw ectorch::DamagedStream("bytes left after the last frequency");
    std::copy(table.frequencies.begin(), table.frequencies.end(), frequencies.data());
    return table.scale_bits;
}

void count_symbols(In<std::uint16_t> symbols, Out<std::uint64_t> counts) {
    check_apart(counts, symbols);
    nb::gil_scoped_release unlocked;
    ectorch::count_symbols(symbols.data(), symbols.size(), counts.data(), counts.size());
}

void count_runs(In<std::uint16_t> symbols, std::uint16_t zero, Out<std::uint64_t> counts) {
    if (counts.size() != ectorch::kRunClasses) throw std::invalid_argument("run classes");
    check_apart(counts, symbols);
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

void rans_decode_dense(nb::object data, In<std::uint64_t> slots, Out<std::uint16_t> symbols) {
    const Stream stream(data);
    check_apart(symbols, slots, stream);
    nb::gil_scoped_release unlocked;
    const ectorch::RansSlots table(slots.data(), slots.size());
    ectorch::rans_decode_dense(stream.data(), stream.nbytes(), table, symbols.data(),
                               symbols.size());
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

void rans_decode_runs(nb::object data, std::size_t tokens, std::uint16_t zero,
                      In<std::uint64_t> run_slots, In<std::uint64_t> symbol_slots,
                      Out<std::uint16_t> symbols) {
    const Stream stream(data);
    check_apart(symbols, run_slots, symbol_slots, stream);
    nb::gil_scoped_release unlocked;
    const ectorch::RansSlots runs(run_slots.data(), run_slots.size());
    const ectorch::RansSlots others(symbol_slots.data(), symbol_slots.size());
    ectorch::rans_decode_runs(stream.data(), stream.nbytes(), tokens, zero, runs, others,
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

void context_decode(nb::object data, Out<std::uint16_t> symbols, Shape shape, int order, bool live,
                    bool light, int levels, int zero, In<std::uint32_t> hint) {
    const auto view = view_of(shape, order, live, hint);
    ectorch::check(view, {levels, zero}, symbols.size());
    const Stream stream(data);
    check_apart(symbols, hint, stream);
    nb::gil_scoped_release unlocked;
    ectorch::context_decode(stream.data(), stream.nbytes(), symbols.data(), view, light,
                            {levels, zero});
}

template <class Bits>
nb::object find_distinct(In<Bits> bits, std::size_t most, Out<std::uint16_t> symbols) {
    if (symbols.size() != bits.size()) throw std::invalid_argument("bits and symbols differ");
    check_apart(symbols, bits);
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
    check_apart(out, table);
    const void* const start = out.data();
    if (start != symbols.data() || sizeof(Bits) != 2) check_apart(out, symbols);
    nb::gil_scoped_release unlocked;
    ectorch::take(table.data(), table.size(), symbols.data(), symbols.size(), out.data());
}

// What has another dtype or stride is refused: a copy of it would be read, or worse, written.
auto array(const char* name) { return nb::arg(name).noconvert(); }

template <class Symbol>
void define_static(nb::module_& m) {
    m.def("static_encode", &static_encode<Symbol>, array("symbols"), array("frequencies"),
          "scale_bits"_a);
    m.def("static_decode", &static_decode<Symbol>, "data"_a, array("symbols"), "levels"_a,
          "whole"_a = true);
}

template <class Bits>
void define_codebook(nb::module_& m) {
    m.def("find_distinct", &find_distinct<Bits>, array("bits"), "most"_a, array("symbols"));
    m.def("take", &take<Bits>, array("table"), array("symbols"), array("out"));
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);
    ectorch::poll = &poll;
    nb::exception<ectorch::DamagedStream>(m, "DamagedStream", PyExc_ValueError);
    nb::exception<Stopped>(m, "Stopped", PyExc_RuntimeError);
    nb::class_<Stop>(m, "Stop").def(nb::init<>()).def("watch", &Stop::watch).def("set", &Stop::set);
    define_static<std::uint8_t>(m);
    define_static<std::uint16_t>(m);
    m.def("decode_table", &decode_table, "data"_a, array("frequencies"));
    m.def("count_symbols", &count_symbols, array("symbols"), array("counts"));
    m.def("count_runs", &count_runs, array("symbols"), "zero"_a, array("counts"));
    m.def("rans_encode_dense", &rans_encode_dense, array("symbols"), array("frequencies"),
          "scale_bits"_a);
    m.def("rans_decode_dense", &rans_decode_dense, "data"_a, array("slots"), array("symbols"));
    m.def("rans_encode_runs", &rans_encode_runs, array("symbols"), "zero"_a,
          array("run_frequencies"), "run_scale_bits"_a, array("symbol_frequencies"), "symbol_scale_bits"_a);
    m.def("rans_decode_runs", &rans_decode_runs, "data"_a, "tokens"_a, "zero"_a, array("run_slots"),
          array("symbol_slots"), array("symbols"));
    m.def("context_encode", &context_encode, array("symbols"), "shape"_a, "order"_a, "live"_a,
          "light"_a, "levels"_a, "zero"_a, array("hint"));
    m.def("context_decode", &context_decode, "data"_a, array("symbols"), "shape"_a, "order"_a,
          "live"_a, "light"_a, "levels"_a, "zero"_a, array("hint"));
    define_codebook<std::uint8_t>(m);
    define_codebook<std::uint16_t>(m);
    define_codebook<std::uint32_t>(m);
    define_codebook<std::uint64_t>(m);
}
