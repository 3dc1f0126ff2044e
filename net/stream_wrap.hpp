#pragma once

#include <functional>
#include <memory>
#include <string>

namespace cleave::net {

class Stream;

/// Puts a stream over a connection's: TLS, an emulated link, or a test's recorder. `host` is where
/// the other end is.
using StreamWrap =
    std::function<std::unique_ptr<Stream>(std::unique_ptr<Stream>, const std::string& host)>;

}  // namespace cleave::net
