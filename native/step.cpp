// The compiled kernels of a training step: memory of tensors by address, GIL released. Who calls
// them, ectorch.constrain.kernels.native, answers for addresses, sizes and dtypes.
#include <nanobind/nanobind.h>

#include <stdexcept>

#include "grid.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using ectorch::Bfloat16;
using ectorch::Grid;
using Address = std::uintptr_t;

namespace {

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

#define ECTORCH_ROUND(T, OUT)                                                               \
    ECTORCH_LANES void round_of(const T* weight, std::int64_t size, const Grid& grid,       \
                                const std::int16_t* noise, OUT* out) {                      \
        ectorch::round_part(weight, size, grid, noise, out);                                \
    }
ECTORCH_ROUND(float, float)
ECTORCH_ROUND(float, Bfloat16)
ECTORCH_ROUND(double, double)
ECTORCH_ROUND(double, Bfloat16)
ECTORCH_ROUND(Bfloat16, Bfloat16)

#define ECTORCH_EACH(T)                                                                     \
    ECTORCH_LANES void move_of(const T* weight, std::int64_t size, const Grid& grid,        \
                               const std::int16_t* noise, T* out) {                         \
        ectorch::move_part(weight, size, grid, noise, out);                                 \
    }                                                                                       \
    ECTORCH_LANES void charge_of(const T* weight, std::int64_t size, const Grid& grid,      \
                                 const T* by_level, T* out) {                               \
        ectorch::charge_part(weight, size, grid, by_level, out);                            \
    }                                                                                       \
    ECTORCH_LANES bool count_of(const T* weight, std::int64_t size, const Grid& grid,       \
                                ectorch::Bin* bins) {                                       \
        return ectorch::count_part(weight, size, grid, bins);                               \
    }
ECTORCH_EACH(float)
ECTORCH_EACH(double)
ECTORCH_EACH(Bfloat16)

// Calls `work` with a null pointer of the type that `kind` names.
template <class Work>
void with_type(int kind, Work work) {
    if (kind == 0) return work(static_cast<float*>(nullptr));
    if (kind == 1) return work(static_cast<double*>(nullptr));
    if (kind == 2) return work(static_cast<Bfloat16*>(nullptr));
    throw std::invalid_argument("unknown kind of number");
}

template <class T, class Out>
void round_all(Address weight, std::int64_t size, const Grid& grid, Address noise, Address out,
               int threads) {
    ectorch::in_parts(size, threads, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
        round_of(at<const T>(weight) + begin, end - begin, grid,
                 noise ? at<const std::int16_t>(noise) + begin : nullptr, at<Out>(out) + begin);
    });
}

void round_weights(Address weight, std::int64_t size, int kind, double step, std::int64_t low,
           std::int64_t high, Address noise, Address out, int out_kind, int threads) {
    const Grid grid{step, low, high};
    nb::gil_scoped_release unlocked;
    with_type(kind, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if (out_kind == kind)
            round_all<T, T>(weight, size, grid, noise, out, threads);
        else if (out_kind == 2)
            round_all<T, Bfloat16>(weight, size, grid, noise, out, threads);
        else
            throw std::invalid_argument("rounded values are of the weights' type or bfloat16");
    });
}

void move_weights(Address weight, std::int64_t size, int kind, double step, std::int64_t low,
          std::int64_t high, Address noise, Address out) {
    const Grid grid{step, low, high};
    nb::gil_scoped_release unlocked;
    with_type(kind, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        move_of(at<const T>(weight), size, grid, noise ? at<const std::int16_t>(noise) : nullptr,
                at<T>(out));
    });
}

void charge_weights(Address weight, std::int64_t size, int kind, double step, std::int64_t low,
                    std::int64_t high, Address lengths, double factor, Address out, int threads) {
    const Grid grid{step, low, high};
    nb::gil_scoped_release unlocked;
    with_type(kind, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto by_level =
            ectorch::slopes_of<T>(at<const float>(lengths), grid, static_cast<float>(factor));
        ectorch::in_parts(size, threads, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
            charge_of(at<const T>(weight) + begin, end - begin, grid, by_level.data(),
                      at<T>(out) + begin);
        });
    });
}

void count_weights(Address weight, std::int64_t size, int kind, double step, std::int64_t low,
           std::int64_t high, Address counts, int threads) {
    const Grid grid{step, low, high};
    const auto levels = static_cast<std::size_t>(high - low + 1);
    nb::gil_scoped_release unlocked;
    with_type(kind, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        std::vector<std::vector<ectorch::Bin>> parts(
            static_cast<std::size_t>(std::max(threads, 1)), std::vector<ectorch::Bin>(levels));
        std::vector<char> finite(parts.size(), true);
        ectorch::in_parts(size, threads, [&](std::int64_t begin, std::int64_t end, std::int64_t part) {
            const auto own = static_cast<std::size_t>(part);
            finite[own] = count_of(at<const T>(weight) + begin, end - begin, grid, parts[own].data());
        });
        for (std::size_t part = 1; part < parts.size(); ++part) {
            finite[0] = finite[0] && finite[part];
            for (std::size_t level = 0; level < levels; ++level) {
                parts[0][level].items += parts[part][level].items;
                parts[0][level].above_high += parts[part][level].above_high;
                parts[0][level].above_low += parts[part][level].above_low;
            }
        }
        ectorch::counts_of(parts[0], finite[0], at<double>(counts));
    });
}

// What a sum of gradients times moves hands back to the log gap: rounded after each operation.
void to_log_gap(Address total, int kind, double step, double gap, Address out) {
    with_type(kind, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using W = ectorch::Wide<T>;
        const T by_step = ectorch::narrow<T>(ectorch::widen(*at<const T>(total)) / static_cast<W>(step));
        *at<T>(out) = ectorch::narrow<T>(ectorch::widen(by_step) * static_cast<W>(gap));
    });
}

using Block = std::pair<double, std::int64_t>;  // sum and length

// Pool adjacent violators for a non-increasing fit.
template <class At>
std::vector<Block> falling_blocks(std::int64_t size, At value) {
    std::vector<Block> blocks;
    for (std::int64_t at = 0; at < size; ++at) {
        double total = value(at);
        std::int64_t length = 1;
        while (!blocks.empty() && blocks.back().first / blocks.back().second < total / length) {
            total = total + blocks.back().first;
            length += blocks.back().second;
            blocks.pop_back();
        }
        blocks.emplace_back(total, length);
    }
    return blocks;
}

void isotonic_row(const double* counts, std::int64_t levels, std::int64_t zero, double* out) {
    const auto left = falling_blocks(zero, [&](std::int64_t at) { return counts[zero - 1 - at]; });
    const auto right = falling_blocks(levels - 1 - zero,
                                      [&](std::int64_t at) { return counts[zero + 1 + at]; });
    const auto mean = [](const std::vector<Block>& blocks, std::size_t at) {
        return at < blocks.size() ? blocks[at].first / blocks[at].second : 0.0;
    };
    double total = counts[zero];
    std::int64_t size = 1, first = zero;  // the top's
    std::size_t taken_left = 0, taken_right = 0;
    for (;;) {
        const double next_left = mean(left, taken_left), next_right = mean(right, taken_right);
        const double next = next_right > next_left ? next_right : next_left;
        if (!(next > total / size)) break;  // also where counts are NaN
        const bool from_left = next_left >= next_right;
        const Block& block = from_left ? left[taken_left++] : right[taken_right++];
        total = total + block.first;
        size += block.second;
        if (from_left) first -= block.second;
    }
    double* end = std::fill_n(out + first, size, total / size);
    for (; taken_right < right.size(); ++taken_right)
        end = std::fill_n(end, right[taken_right].second, mean(right, taken_right));
    double* begin = out + first;
    for (; taken_left < left.size(); ++taken_left) {
        begin -= left[taken_left].second;
        std::fill_n(begin, left[taken_left].second, mean(left, taken_left));
    }
}

void isotonic_rows(Address counts, std::int64_t rows, std::int64_t levels, std::int64_t zero,
                   Address out) {
    nb::gil_scoped_release unlocked;
    for (std::int64_t row = 0; row < rows; ++row)
        isotonic_row(at<const double>(counts) + row * levels, levels, zero,
                     at<double>(out) + row * levels);
}

}  // namespace

NB_MODULE(_compiled, m) {
    nb::set_leak_warnings(false);
    m.def("to_bfloat16", [](double x) {
        return ectorch::widen(ectorch::narrow<Bfloat16>(x));
    });
    m.def("to_log_gap", &to_log_gap);
    m.def("isotonic", &isotonic_rows);
    m.def("round", &round_weights);
    m.def("move", &move_weights);
    m.def("charge", &charge_weights);
    m.def("count", &count_weights);
}
