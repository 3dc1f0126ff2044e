#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"

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

/// Asks and waits for the answer, at most a minute.
inline Response ask(Client& client, const net::Value& image, bool require_all = false) {
  Request request;
  request.input = image;
  request.deadline = std::chrono::seconds(60);
  request.require_all = require_all;
  std::promise<Response> promise;
  client.submit(std::move(request),
                [&](Response response) { promise.set_value(std::move(response)); });
  return promise.get_future().get();
}

}  // namespace cleave::infer
