#include "model/tokenizer/sentence_piece.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <mutex>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "base/file.hpp"
#include "model/tokenizer/sentence_piece_file.hpp"
#include "model/tokenizer/sentence_piece_module.hpp"
#include "model/tokenizer/unicode.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CLEAVE_SANITIZER_SEES_DLOPEN
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CLEAVE_SANITIZER_SEES_DLOPEN
#endif

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;

constexpr const char* module_name = "cleave_sentence_piece.so";

/// Whether a protobuf of somebody else's (libtorch's) is in this process.
bool meets_protobuf() {
  const auto is_protobuf = [](dl_phdr_info* library, std::size_t, void*) {
    return std::strstr(library->dlpi_name, "libprotobuf") != nullptr ? 1 : 0;
  };
  return dl_iterate_phdr(is_protobuf, nullptr) != 0;
}

/// How the module is opened: its library's functions are its own before anybody else's.
int open_flags(const fs::path& module) {
#ifdef CLEAVE_SANITIZER_SEES_DLOPEN
  // The sanitizers end the process at RTLD_DEEPBIND, so only a process without libtorch may go on.
  if (meets_protobuf())
    throw std::runtime_error("[" + module.string() +
                             "] cannot be opened beside libprotobuf under a sanitizer, needs a "
                             "build without");
  return RTLD_NOW | RTLD_LOCAL;
#else
  static_cast<void>(module);
  static_cast<void>(meets_protobuf);
  return RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif
}

const SentencePieceModule* open_module(const fs::path& module) {
  const auto refuse = [&](const std::string& what) {
    return std::runtime_error("[" + module.string() + "] " + what);
  };
  const auto reason = [] {
    const char* said = dlerror();
    return std::string(said == nullptr ? "no reason given" : said);
  };
  void* opened = dlopen(module.c_str(), open_flags(module));
  if (opened == nullptr)
    throw refuse("cannot open (" + reason() + "), needs Debian's libsentencepiece0");
  using Entry = const SentencePieceModule* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(opened, sentence_piece_entry));
  if (entry == nullptr) throw refuse("saw no module of ours (" + reason() + ")");
  const SentencePieceModule* functions = entry();
  if (functions->version != SentencePieceModule::current)
    throw refuse("saw version " + std::to_string(functions->version) + ", needs " +
                 std::to_string(SentencePieceModule::current));
  return functions;
}

const SentencePieceModule* find_module(const fs::path& model,
                                       const std::vector<fs::path>& folders) {
  std::string looked;
  for (const fs::path& folder : folders) {
    std::error_code ignored;
    if (fs::exists(folder / module_name, ignored)) return open_module(folder / module_name);
    looked += (looked.empty() ? "" : ", ") + folder.string();
  }
  throw std::runtime_error("[" + model.string() + "] needs " + module_name + ", which is not in " +
                           looked + ": install libsentencepiece-dev and build again");
}

/// What a blank becomes.
constexpr std::string_view blank = "\xE2\x96\x81";

/// Whether a token goes on behind a word: "a▁b".
bool crosses_words(std::string_view token) {
  while (token.substr(0, blank.size()) == blank) token.remove_prefix(blank.size());
  return token.find(blank) != std::string_view::npos;
}

/// Where the second word's blank is, or the end. Blanks in a row are one word's; one at the end is
/// that of the word before it.
std::size_t next_word(std::string_view text) {
  for (std::size_t at = text.find(' ', 1); at != std::string_view::npos;
       at = text.find(' ', at + 1))
    if (text[at - 1] != ' ' && at + 1 < text.size()) return at;
  return text.size();
}

class SentencePiece : public TokenScheme {
 public:
  SentencePiece(const fs::path& file, std::set<std::string> special, const SentencePieceModule* its,
                Blanks blanks)
      : module_(its),
        model_(nullptr, its->close),
        bare_(nullptr, its->close),
        blanks_(blanks),
        special_(std::move(special)) {
    constexpr std::uint64_t largest = 64u << 20;
    const std::string bytes = base::read_text(file, largest);
    expect_whole_sentence_piece(file, bytes);
    const auto refuse = [&](const std::string& what) {
      return std::runtime_error("[" + file.string() + "] " + what);
    };
    Error error{};
    model_.reset(module_->open(bytes.data(), bytes.size(), error.data(), error.size()));
    if (model_ == nullptr)
      throw refuse("saw no SentencePiece model (" + std::string(error.data()) + "), needs one");
    // What comes twice is merged: the same model, with normalizer_spec.add_dummy_prefix = false.
    const std::string bare = bytes + "\x1A\x02\x18\x00"s;
    if (blanks_ != Blanks::every)
      bare_.reset(module_->open(bare.data(), bare.size(), error.data(), error.size()));
    if (blanks_ != Blanks::every && bare_ == nullptr) throw refuse(std::string(error.data()));
    for (TokenId id = 0; id < module_->size(model_.get()); ++id) {
      std::size_t length = 0;
      const char* piece = module_->piece(model_.get(), id, &length);
      if (piece == nullptr) throw refuse("token " + std::to_string(id) + " cannot be read");
      try {
        vocabulary_.add({piece, length}, id);
      } catch (const std::invalid_argument& wrong) {
        throw refuse(wrong.what());
      }
      word_by_word_ = word_by_word_ && !crosses_words({piece, length});
    }
    word_by_word_ = word_by_word_ && only_merges(bytes) && vocabulary_.find(blank);
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view text, std::vector<TokenId>& ids) const override {
    const bool begins = text.substr(0, 1) == " " || text.substr(0, blank.size()) == blank;
    if (blanks_ != Blanks::every && begins) return encode_bare(text, ids);
    if (!word_by_word_ || text.find(blank) != std::string_view::npos)
      return encode_whole(model_.get(), text, ids);
    encode_words(text, ids);
  }

  void encode_behind(std::string_view text, std::vector<TokenId>& ids) const override {
    blanks_ == Blanks::first ? encode_bare(text, ids) : encode(text, ids);
  }

  std::string decode(const std::vector<std::string>& tokens) const override {
    std::string text;
    std::vector<TokenId> plain;  // not written yet
    bool behind_special = true;  // or at the start
    for (const std::string& token : tokens) {
      if (special_.count(token) == 0) {
        if (const auto id = vocabulary_.find(token)) plain.push_back(*id);
        behind_special = false;
        continue;
      }
      if (!behind_special) text += ' ';
      append_plain(plain, text);
      text += token;
      plain.clear();
      behind_special = true;
    }
    append_plain(plain, text);
    return repaired_utf8(text);
  }

 private:
  using Error = std::array<char, 512>;

  /// Without a blank before it.
  void encode_bare(std::string_view text, std::vector<TokenId>& ids) const {
    const bool by_words = word_by_word_ && text.find(blank) == std::string_view::npos;
    const std::size_t end = by_words ? next_word(text) : text.size();
    encode_whole(bare_.get(), text.substr(0, end), ids);
    if (end < text.size()) encode_words(text.substr(end + 1), ids);
  }

  /// Each with a blank before it.
  void encode_words(std::string_view text, std::vector<TokenId>& ids) const {
    const std::lock_guard lock(mutex_);
    while (!text.empty()) {
      const std::size_t end = next_word(text);
      encode_word(text.substr(0, end), ids);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  void encode_whole(const void* model, std::string_view text, std::vector<TokenId>& ids) const {
    const auto take = [](void* to, const std::int32_t* found, std::size_t count) {
      auto& all = *static_cast<std::vector<TokenId>*>(to);
      all.insert(all.end(), found, found + count);
    };
    Error error{};
    if (!module_->encode(model, text.data(), text.size(), take, &ids, error.data(), error.size()))
      throw std::runtime_error(std::string("[tokenizer] SentencePiece: ") + error.data());
  }

  /// Without the blank before it, which the library writes.
  void encode_word(std::string_view word, std::vector<TokenId>& ids) const {
    constexpr std::size_t longest = 64, most = 1 << 16;
    if (word.size() > longest) return encode_whole(model_.get(), word, ids);
    auto known = known_words_.find(std::string(word));
    if (known == known_words_.end()) {
      std::vector<TokenId> tokens;
      encode_whole(model_.get(), word, tokens);
      if (known_words_.size() >= most) known_words_.clear();
      known = known_words_.emplace(word, std::move(tokens)).first;
    }
    ids.insert(ids.end(), known->second.begin(), known->second.end());
  }

  void append_plain(const std::vector<TokenId>& ids, std::string& text) const {
    if (ids.empty()) return;
    const auto take = [](void* to, const char* found, std::size_t size) {
      static_cast<std::string*>(to)->append(found, size);
    };
    Error error{};
    if (!module_->decode(model_.get(), ids.data(), ids.size(), take, &text, error.data(),
                         error.size()))
      throw std::runtime_error(std::string("[tokenizer] SentencePiece: ") + error.data());
  }

  const SentencePieceModule* module_;
  std::unique_ptr<void, void (*)(void*)> model_, bare_;  // bare_: that puts no blank before a text
  const Blanks blanks_;
  const std::set<std::string> special_;
  Vocabulary vocabulary_;
  /// Words become the same tokens wherever they stand: no merge reaches over a blank.
  bool word_by_word_ = true;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<TokenId>> known_words_;
};

}  // namespace

std::vector<fs::path> sentence_piece_folders() {
  std::vector<fs::path> folders;
  std::error_code failed;
  if (const fs::path program = fs::read_symlink("/proc/self/exe", failed); !failed) {
    folders.push_back((program.parent_path() / CLEAVE_MODULES_FROM_PROGRAM).lexically_normal());
    folders.push_back(program.parent_path());
  }
#ifdef CLEAVE_MODULES_BUILT
  folders.emplace_back(CLEAVE_MODULES_BUILT);
#endif
  return folders;
}

std::unique_ptr<TokenScheme> sentence_piece(const fs::path& file, std::set<std::string> special,
                                            const std::vector<fs::path>& folders, Blanks blanks) {
  return std::make_unique<SentencePiece>(file, std::move(special), find_module(file, folders),
                                         blanks);
}

}  // namespace cleave::model
