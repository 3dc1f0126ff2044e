#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/reader.hpp"

// The list of what the files of a model folder say, and what becomes of each field: every field
// that changes an answer is used, refused by name, or said to be ignored. model/FOLDERS.md is this
// list for reading; tests hold both together.
namespace cleave::model {

/// What becomes of a field.
enum class Fate {
  used,       // means here what it means to Transformers
  only,       // changes answers in ways that are not built: any but the values listed is refused
  ignored,    // changes answers there, not here: any but the values listed is said to be ignored
  no_effect,  // on answers: training, versions, names
};

struct FolderField {
  std::string_view file;  // "config.json"; "1_Pooling/config.json" stands for every Pooling module
  /// Of the file's table, parted by blanks; empty: the file as a whole.
  std::string_view fields;
  /// `model_type`s parted by blanks that it concerns; empty: all.
  std::string_view families;
  Fate fate = Fate::used;
  /// Values in JSON parted by " | ": those that pass (only), or go without saying (ignored). A null
  /// always does.
  std::string_view values;
  /// What it means, or why it has no effect.
  std::string_view meaning;
};

/// The list, file by file.
const std::vector<FolderField>& folder_fields();
std::string_view name_of(Fate fate);

/// The row of a field; null where there is none. `family` is the folder's `model_type`. What
/// config.json says of generation has the rows of generation_config.json.
const FolderField* find_field(std::string_view file, std::string_view field,
                              std::string_view family = {});
/// Whether `value` is one of those that the row lists, or null.
bool is_listed(const FolderField& row, const nlohmann::json& value);

/// Throws std::runtime_error "[config.json] position_embedding_type: saw "relative_key", needs
/// "absolute" (…)" where a field of `table` has a value that is refused. `file` is its name in the
/// list.
void check_fields(const base::Reader& table, std::string_view file, std::string_view family = {});

/// What the files of a model folder say that changes answers elsewhere and is ignored here, and the
/// fields that are not known: a line each, for people. Throws std::runtime_error where a file is no
/// JSON.
std::vector<std::string> folder_notes(const std::filesystem::path& folder);

}  // namespace cleave::model
