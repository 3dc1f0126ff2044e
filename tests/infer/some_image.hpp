#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "net/buffer.hpp"

namespace cleave::infer {

/// An image of these dimensions, "1x1x28x28".
inline net::Value image_of(const std::string& dims) {
  net::Value image;
  image.element = base::Element::u8;
  std::istringstream numbers(dims);
  for (std::string number; std::getline(numbers, number, 'x');)
    image.dims.push_back(std::stoll(number));
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(image.count()));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7);
  image.data = net::Buffer::copy_of(bytes.data(), bytes.size());
  return image;
}

}  // namespace cleave::infer
