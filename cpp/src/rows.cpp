#include "trajmill/rows.hpp"

#include "trajmill/error.hpp"

namespace trajmill {

void Rows::require_room_for(std::uint64_t count) const {
  if (element_size < 8 && count > std::uint64_t{1} << (8 * element_size)) {
    throw std::invalid_argument(
        message(count, " different values do not fit into integers of ", element_size, " byte(s)"));
  }
}

}  // namespace trajmill
