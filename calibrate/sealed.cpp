#include "calibrate/sealed.hpp"

#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"

namespace cleave::calibrate {
namespace {

const char digest_key[] = "sha256";

/// All that a file says beside its tensors' bytes.
std::string outline(const std::map<std::string, std::string>& metadata,
                    const std::vector<model::TensorEntry>& entries) {
  nlohmann::json all = {{"metadata", metadata}, {"tensors", nlohmann::json::array()}};
  all["metadata"].erase(digest_key);
  for (const model::TensorEntry& entry : entries)
    all["tensors"].push_back({entry.name, entry.element_name(), entry.foreign, entry.dims});
  return all.dump();
}

base::Sha256 begin_digest(const std::string& outline) {
  base::Sha256 hash;
  hash.update(outline.data(), outline.size());
  return hash;
}

std::string digest_of(const model::TensorFiles& files) {
  std::vector<model::TensorEntry> entries;
  for (const auto& [name, entry] : files.entries()) entries.push_back(entry);
  base::Sha256 hash = begin_digest(outline(files.metadata(), entries));
  for (const model::TensorEntry& entry : entries)
    hash.update(files.data(entry), static_cast<std::size_t>(entry.bytes));
  return hash.finish();
}

}  // namespace

void write_sealed(const std::filesystem::path& path,
                  const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<model::TensorEntry> entries;
  for (const auto& [name, tensor] : tensors)
    entries.push_back({name,
                       tensor.scalar_type() == at::kHalf ? base::Element::f16 : base::Element::f32,
                       tensor.sizes().vec(), 0, 0});
  std::map<std::string, std::string> sealed = metadata;
  sealed["format"] = "pt";
  base::Sha256 hash = begin_digest(outline(sealed, entries));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor whole = tensor.to(at::kCPU).contiguous();
    hash.update(whole.data_ptr(), whole.nbytes());
  }
  sealed[digest_key] = hash.finish();
  model::SafetensorsWriter writer(path, std::move(entries), sealed);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor whole = tensor.to(at::kCPU).contiguous();
    writer.write(whole.data_ptr(), whole.nbytes());
  }
  writer.commit();
}

model::TensorFiles open_sealed(const std::filesystem::path& path, const std::string& what,
                               const std::string& remedy) {
  const auto refusal = [&](const std::string& saw) {
    return std::runtime_error("[" + path.string() + "] " + what + ": " + saw +
                              ", needs to be deleted to " + remedy);
  };
  const base::MappedFile there(path);  // throws where nobody lets us: deleting would not help
  std::optional<model::TensorFiles> files;
  std::string digest;
  try {
    files.emplace(path);
    digest = digest_of(*files);
  } catch (const std::runtime_error& error) {
    throw refusal(std::string("cannot be read (") + error.what() + ")");
  }
  const auto stated = files->metadata().find(digest_key);
  if (stated == files->metadata().end())
    throw refusal("saw no digest of its contents (made by an older version, or damaged)");
  if (digest != stated->second)
    throw refusal("saw contents that are not those of its digest (the file is damaged)");
  return std::move(*files);
}

}  // namespace cleave::calibrate
