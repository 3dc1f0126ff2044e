#pragma once

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <sys/stat.h>

namespace cleave::base {

/// An open file of the system, closed at the end of its scope. For the sources of this room only.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  int release();
  /// Now, and says whether the system could (an error number, or 0).
  int close();

 private:
  int fd_ = -1;
};

/// "[path] cannot <verb>: <the system's reason>".
std::runtime_error system_failure(const std::filesystem::path& path, const std::string& verb,
                                  int error);

/// Opens for reading; refuses a folder. `verb` stands in the message: "read", "map".
Descriptor open_to_read(const std::filesystem::path& path, const std::string& verb,
                        struct stat& status);

/// Whether the open file is the one that has this name now.
bool is_same_file(int fd, const std::filesystem::path& path);

/// Up to `size` bytes; 0 at the end of the file.
std::size_t read_some(const Descriptor& file, const std::filesystem::path& path, void* data,
                      std::size_t size);

}  // namespace cleave::base
