#include "decompose/fit/fit.hpp"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <c10/core/GradMode.h>

#include "decompose/fit/part_fit.hpp"
#include "decompose/fit/teacher_stream.hpp"
#include "decompose/folder.hpp"

namespace cleave::decompose {

namespace fs = std::filesystem;
using at::Tensor;
using model::block_prefix;
using model::Transformer;

void FitOptions::check() const {
  const auto expect = [](bool fits, const std::string& field, const std::string& needs) {
    if (!fits) throw std::invalid_argument("[fit] options." + field + ": needs " + needs);
  };
  expect(reader_ridge > 0, "reader_ridge", "a number above 0");
  expect(writer_ridge > 0, "writer_ridge", "a number above 0");
  expect(head_ridge > 0, "head_ridge", "a number above 0");
  expect(batch > 0, "batch", "at least 1");
  expect(what != What::heads || stream == Stream::channels, "stream",
         "channels where only heads are fitted");
}
Fit fit_parts(const fs::path& folder, const std::vector<KeepList>& keeps,
              std::vector<Transformer> parts, const FitRows& rows, const FitOptions& options,
              const base::ProgressCallback& progress) {
  options.check();
  const c10::NoGradGuard no_grad;
  Work work(rows.batches(), options.threads);
  TeacherStream teacher(folder, rows, work, options.element);
  std::vector<std::unique_ptr<PartFit>> fits;
  bool any_rotated = false;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    fits.push_back(
        std::make_unique<PartFit>(teacher, keeps[p], std::move(parts[p]), rows, options, work));
    any_rotated = any_rotated || fits.back()->is_rotated();
  }
  Steps steps("fit", teacher.num_layers() + 1, progress);
  steps.next();
  std::vector<Tensor> covariances;
  if (any_rotated) covariances = covariances_of(teacher, rows, work);
  const bool fits_parts = options.what != FitOptions::What::heads;
  if (fits_parts)
    for (auto& fit : fits) fit->begin(covariances);
  for (int layer = 0; layer < teacher.num_layers(); ++layer) {
    steps.next();
    const Transformer block = teacher.piece(block_prefix(layer));
    for (const Half half : {Half::attention, Half::mlp}) {
      if (fits_parts)
        for (auto& fit : fits) fit->before(block, layer, half);
      teacher.advance(block, layer, half);
      if (fits_parts)
        for (auto& fit : fits) fit->after(layer, half);
    }
  }
  Fit result;
  for (auto& fit : fits) result.parts.push_back(fits_parts ? fit->end() : fit->as_it_is());
  result.teacher_features = teacher.features();
  return result;
}

void expect_rotatable(const model::ModelConfig& teacher, const model::ModelConfig& part) {
  if (part.width == teacher.width) return;
  if (teacher.norm_placement != model::NormPlacement::before)
    throw std::invalid_argument(
        "[fit] stream: saw components of a model whose norms come after each half, which cannot "
        "be rotated; needs channels");
  if (part.classes > 0 && part.is_text())
    throw std::invalid_argument(
        "[fit] stream: saw components of a part with a head of its own over texts, which is not "
        "rotated; needs channels");
}

}  // namespace cleave::decompose
