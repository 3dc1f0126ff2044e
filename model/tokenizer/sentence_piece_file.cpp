#include "model/tokenizer/sentence_piece_file.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>

namespace cleave::model {
namespace {

/// A protocol buffer's fields, one level of them.
class Fields {
 public:
  struct Field {
    std::uint64_t number = 0;
    std::uint64_t value = 0;  // of a varint
    std::string_view bytes;   // of a message or string
  };
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  bool at_end() const { return at_ == bytes_.size(); }
  std::size_t position() const { return at_; }

  /// The field that begins here; goes behind it. Throws std::invalid_argument where it does not
  /// end.
  Field next() {
    const std::uint64_t key = varint();
    Field field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        skip(8);
        break;
      case 2: {
        const std::uint64_t size = varint();
        const std::size_t begin = at_;
        skip(size);
        field.bytes = bytes_.substr(begin, at_ - begin);
        break;
      }
      case 5:
        skip(4);
        break;
      default:
        throw std::invalid_argument("saw no field");
    }
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      skip(1);
      const auto byte = static_cast<unsigned char>(bytes_[at_ - 1]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    throw std::invalid_argument("saw no field");
  }

  void skip(std::uint64_t size) {
    if (size > bytes_.size() - at_) throw std::invalid_argument("saw the end within a field");
    at_ += static_cast<std::size_t>(size);
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
};

/// Fields of a SentencePiece model.
constexpr std::uint64_t piece_field = 1, trainer_field = 2, normalizer_field = 3;

}  // namespace

void expect_whole_sentence_piece(const std::filesystem::path& file, std::string_view bytes) {
  constexpr const char* needs = ", needs a whole SentencePiece model";
  bool trainer = false, normalizer = false;
  Fields fields(bytes);
  while (!fields.at_end()) {
    const std::size_t begin = fields.position();
    try {
      const std::uint64_t number = fields.next().number;
      trainer = trainer || number == trainer_field;
      normalizer = normalizer || number == normalizer_field;
    } catch (const std::invalid_argument& wrong) {
      throw std::runtime_error("[" + file.string() + "] byte " + std::to_string(begin) + ": " +
                               wrong.what() + needs);
    }
  }
  if (!trainer || !normalizer)
    throw std::runtime_error("[" + file.string() + "] saw no " +
                             (trainer ? "normalizer_spec" : "trainer_spec") + needs);
}

bool only_merges(std::string_view bytes) {
  constexpr std::uint64_t byte_pairs = 2, unused = 5;
  std::uint64_t model_type = 1, suffix = 0, dummy_prefix = 1, remove_extra = 1, escape = 1;
  bool mapped = false, any_unused = false;
  const auto read = [&](std::uint64_t section, const Fields::Field& field) {
    if (section == piece_field && field.number == 3)
      any_unused = any_unused || field.value == unused;
    if (section == trainer_field && field.number == 3) model_type = field.value;
    if (section == trainer_field && field.number == 24) suffix = field.value;
    if (section == normalizer_field && field.number == 2) mapped = mapped || !field.bytes.empty();
    if (section == normalizer_field && field.number == 3) dummy_prefix = field.value;
    if (section == normalizer_field && field.number == 4) remove_extra = field.value;
    if (section == normalizer_field && field.number == 5) escape = field.value;
  };
  try {
    for (Fields model(bytes); !model.at_end();) {
      const Fields::Field section = model.next();
      if (section.number <= normalizer_field)
        for (Fields fields(section.bytes); !fields.at_end();) read(section.number, fields.next());
    }
  } catch (const std::invalid_argument&) {
    return false;
  }
  return model_type == byte_pairs && suffix == 0 && !mapped && !any_unused && dummy_prefix != 0 &&
         remove_extra == 0 && escape != 0;
}

}  // namespace cleave::model
