// Long loops ask now and then whether they are to go on.
#pragma once

#include <algorithm>
#include <cstddef>

namespace ectorch {

// Throws where they are not; who runs the coders may set it.
inline void (*poll)() = [] {};

constexpr std::size_t kPollItems = 1 << 20;

// Where the items from `begin` on that are worked off before the next question end.
inline std::size_t block_end(std::size_t begin, std::size_t count) {
    if (begin) poll();
    return std::min(count, begin + kPollItems);
}

}  // namespace ectorch
