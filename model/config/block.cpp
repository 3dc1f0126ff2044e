#include "model/config/block.hpp"

#include <stdexcept>

namespace cleave::model {

std::string_view name_of(Projection which) {
  switch (which) {
    case Projection::query:
      return "query";
    case Projection::key:
      return "key";
    case Projection::value:
      return "value";
  }
  return "?";
}

std::string_view name_of(Half half) {
  switch (half) {
    case Half::attention:
      return "attention";
    case Half::mlp:
      return "mlp";
  }
  return "?";
}

std::string_view name_of(NormOf which) {
  switch (which) {
    case NormOf::embedding:
      return "embedding";
    case NormOf::attention:
      return "attention";
    case NormOf::mlp:
      return "mlp";
    case NormOf::feature:
      return "feature";
  }
  return "?";
}

std::string projection_prefix(int layer, Projection which) {
  return block_prefix(layer) + "attention." + std::string(name_of(which));
}

std::string norm_prefix(int layer, NormOf which) {
  switch (which) {
    case NormOf::embedding:
      return "embedding.norm";
    case NormOf::attention:
      return block_prefix(layer) + "norm_attention";
    case NormOf::mlp:
      return block_prefix(layer) + "norm_mlp";
    case NormOf::feature:
      return "norm";
  }
  throw std::logic_error("[block] saw an unknown norm");
}

bool norms_embedding(const ModelConfig& config) {
  return config.is_text() && config.norm_placement == NormPlacement::after;
}

std::string output_prefix(int layer, Half half) {
  return block_prefix(layer) + (half == Half::attention ? "attention.output" : "mlp.down");
}

}  // namespace cleave::model
