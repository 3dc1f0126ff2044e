#include "decompose/slice.hpp"

#include <cstring>
#include <fstream>
#include <map>

#include <gtest/gtest.h>

#include "model/config/hugging_face.hpp"
#include "tests/decompose/teacher.hpp"

namespace cleave::decompose {
namespace {

using base::read_text;
using model::Axis;
using testing::message_of;
using testing::Scratch;
using testing::tiny_config;
using testing::tiny_keep;
using testing::tiny_teacher;

/// Where unit-wise element `i` of an axis of the part lies in the teacher. The slow way: one
/// element at a time.
std::int64_t in_teacher(const Axis& axis, std::int64_t i, const KeepList& keep) {
  const auto layer = static_cast<std::size_t>(std::max(axis.layer, 0));  // of the part
  switch (axis.kind) {
    case Axis::Kind::residual:
      return keep.channels[static_cast<std::size_t>(i)];
    case Axis::Kind::mlp:
      return keep.mlp[layer][static_cast<std::size_t>(i)];
    case Axis::Kind::heads:
      return keep.heads[layer][static_cast<std::size_t>(i / axis.unit)] * axis.unit + i % axis.unit;
    case Axis::Kind::fixed:
      break;
  }
  return i;
}

/// One tensor of the part, picked from the teacher element by element.
std::string picked(const model::Parameter& part, const std::vector<std::int64_t>& teacher_dims,
                   const std::string& teacher, std::size_t element_bytes, const KeepList& keep) {
  std::string bytes;
  const auto dims = part.dims();
  for (std::int64_t flat = 0; flat < part.count(); ++flat) {
    std::int64_t rest = flat, offset = 0, stride = 1;
    for (std::size_t axis = dims.size(); axis-- > 0;) {
      offset += in_teacher(part.axes[axis], rest % dims[axis], keep) * stride;
      rest /= dims[axis];
      stride *= teacher_dims[axis];
    }
    bytes += teacher.substr(static_cast<std::size_t>(offset) * element_bytes, element_bytes);
  }
  return bytes;
}

/// The teacher's key of a part's parameter: its layer's number changed back.
std::string teacher_key(const std::string& key, const KeepList& keep) {
  const std::string layer = "encoder.layer.";
  const auto at = key.find(layer);
  if (at == std::string::npos) return key;
  const auto number = at + layer.size();
  const auto end = key.find('.', number);
  const auto kept = keep.layers.at(std::stoul(key.substr(number, end - number)));
  return key.substr(0, number) + std::to_string(kept) + key.substr(end);
}

void expect_cut(const std::filesystem::path& teacher, const std::filesystem::path& part,
                const KeepList& keep) {
  const auto config = model::read_config(part);
  EXPECT_TRUE(config == kept_config(model::read_config(teacher), keep));
  const model::TensorFiles before(teacher), after(part);
  model::check_tensors(config, after);
  const auto tensors = model::stored_tensors(config);
  EXPECT_EQ(after.entries().size(), tensors.size());
  for (const auto& stored : tensors) {
    const auto& parameter = stored.parts.front();
    const auto& whole = before.at(teacher_key(stored.key, keep));
    const auto& cut = after.at(stored.key);
    EXPECT_EQ(cut.element, whole.element);
    const auto element_bytes = static_cast<std::size_t>(base::size_of(whole.element));
    EXPECT_EQ(testing::bytes_of(after, cut),
              picked(parameter, whole.dims, testing::bytes_of(before, whole), element_bytes, keep))
        << parameter.name;
  }
}

/// The model of `from` again at `to`, its tensors of another element type: 16-bit patterns that
/// differ everywhere.
void rewrite_as(base::Element element, const std::filesystem::path& from,
                const std::filesystem::path& to) {
  const auto config = model::read_config(from);
  std::filesystem::create_directories(to);
  model::write_config(config, to);
  std::vector<model::TensorEntry> entries;
  for (const auto& stored : model::stored_tensors(config)) {
    model::TensorEntry entry;
    entry.name = stored.key;
    entry.dims = stored.dims();
    entry.element = element;
    entries.push_back(entry);
  }
  model::SafetensorsWriter writer(to / "model.safetensors", entries);
  std::uint16_t pattern = 0;
  for (const auto& parameter : model::parameters(config)) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(parameter.count()));
    for (auto& value : values) value = pattern++;
    writer.write(values.data(), values.size() * sizeof values[0]);
  }
  writer.commit();
}

TEST(Slice, KeepingEverythingChangesNothing) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  slice(teacher, keep_all(tiny_config()), scratch / "whole");
  EXPECT_EQ(read_text(scratch / "whole" / "model.safetensors"),
            read_text(teacher / "model.safetensors"));
  EXPECT_EQ(read_text(scratch / "whole" / "config.json"), read_text(teacher / "config.json"));
  EXPECT_EQ(read_text(scratch / "whole" / "preprocessor_config.json"),
            read_text(teacher / "preprocessor_config.json"));
}

TEST(Slice, KeepsTheNamedUnitsOfEveryTensor) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  slice(teacher, tiny_keep(), scratch / "part");
  expect_cut(teacher, scratch / "part", tiny_keep());
}

TEST(Slice, CutsADistilledModel) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch, testing::tiny_distilled_config());
  slice(teacher, tiny_keep(), scratch / "part");
  expect_cut(teacher, scratch / "part", tiny_keep());
}

TEST(Slice, KeepsTheElementType) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  for (const auto element : {base::Element::f16, base::Element::bf16}) {
    rewrite_as(element, teacher, scratch / "half");
    slice(scratch / "half", tiny_keep(), scratch / "part");
    expect_cut(scratch / "half", scratch / "part", tiny_keep());
  }
}

TEST(Slice, CuttingAPartAgainIsCuttingOnce) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  slice(teacher, tiny_keep(), scratch / "part");
  const KeepList again{{1}, {0, 3, 6}, {{1}}, {{0, 1}}};
  slice(scratch / "part", again, scratch / "twice");
  const KeepList once{{2}, {0, 5, 11}, {{2}}, {{2, 9}}};
  slice(teacher, once, scratch / "once");
  EXPECT_EQ(read_text(scratch / "twice" / "model.safetensors"),
            read_text(scratch / "once" / "model.safetensors"));
}

TEST(Slice, DropsAttentionOrMlpOfALayer) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  auto keep = tiny_keep();
  keep.heads[0].clear();
  keep.mlp[1].clear();
  slice(teacher, keep, scratch / "part");
  expect_cut(teacher, scratch / "part", keep);
}

TEST(Slice, LeavesTheClassifierOut) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  auto keep = tiny_keep();
  keep.classifier = false;
  slice(teacher, keep, scratch / "part");
  expect_cut(teacher, scratch / "part", keep);
  EXPECT_EQ(model::read_config(scratch / "part").classes, 0);
}

TEST(Slice, CutsEveryGroupAnywhere) {
  // Each group alone, at its ends and in its middle.
  const Scratch scratch;
  const auto config = tiny_config();
  const auto teacher = tiny_teacher(scratch);
  const auto without = [](std::vector<std::int64_t>& list, std::size_t index) {
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(index));
  };
  for (const double where : {0.0, 0.5, 1.0}) {
    const auto place = [&](const auto& list) {
      return static_cast<std::size_t>(where * static_cast<double>(list.size() - 1));
    };
    std::vector<KeepList> cuts;
    auto channels = keep_all(config);
    without(channels.channels, place(channels.channels));
    cuts.push_back(channels);
    for (std::size_t l = 0; l < config.layers.size(); ++l) {
      auto heads = keep_all(config), mlp = keep_all(config);
      without(heads.heads[l], place(heads.heads[l]));
      without(mlp.mlp[l], place(mlp.mlp[l]));
      cuts.push_back(heads);
      cuts.push_back(mlp);
    }
    for (const auto& keep : cuts) {
      slice(teacher, keep, scratch / "part");
      expect_cut(teacher, scratch / "part", keep);
    }
  }
}

TEST(Slice, ReplacesAModelAndNothingElse) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  slice(teacher, keep_all(tiny_config()), scratch / "part");
  slice(teacher, tiny_keep(), scratch / "part");
  expect_cut(teacher, scratch / "part", tiny_keep());
  std::filesystem::create_directories(scratch / "photos");
  std::ofstream(scratch / "photos" / "cat.png") << "x";
  EXPECT_EQ(message_of([&] { slice(teacher, tiny_keep(), scratch / "photos"); }),
            "[" + (scratch / "photos").string() +
                "] exists and is no model folder: saw no config.json, needs a new, an empty or "
                "such a folder");
}

TEST(Slice, RefusesToReplaceItsOwnTeacher) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  EXPECT_EQ(message_of([&] { slice(teacher, tiny_keep(), teacher / "."); }),
            "[" + (teacher / ".").string() +
                "] is the teacher itself: needs another folder for the part");
  EXPECT_TRUE(model::read_config(teacher).num_layers() == 3);
}

TEST(Slice, LeavesNothingWhereItFails) {
  const Scratch scratch;
  const auto teacher = tiny_teacher(scratch);
  std::filesystem::resize_file(teacher / "model.safetensors", 2000);
  EXPECT_NE(message_of([&] { slice(teacher, tiny_keep(), scratch / "part"); }), "");
  const auto stop = [](const base::Progress&) { return false; };
  init(tiny_config(), 7, teacher);
  EXPECT_EQ(message_of([&] { slice(teacher, tiny_keep(), scratch / "part", stop); }),
            "[cut part] stopped on request");
  for (const auto& name : testing::names_below(scratch.path())) {
    EXPECT_EQ(name.rfind("teacher", 0), 0u) << name;
  }
}

TEST(Slice, SaysWhichListDoesNotFit) {
  const auto refusal = [](auto spoil) {
    auto keep = tiny_keep();
    spoil(keep);
    return message_of([&] { kept_config(tiny_config(), keep); });
  };
  using K = KeepList;
  EXPECT_EQ(refusal([](K&) {}), "");
  EXPECT_EQ(refusal([](K& k) {
              k.heads[1] = {0, 3};
            }),
            "[keep] heads[1]: keeps head 3, the model has heads 0..2");
  EXPECT_EQ(refusal([](K& k) { k.mlp[1] = {10}; }),
            "[keep] mlp[1]: keeps unit 10, the model has units 0..9");
  EXPECT_EQ(refusal([](K& k) {
              k.layers = {0, 3};
            }),
            "[keep] layers: keeps layer 3, the model has layers 0..2");
  EXPECT_EQ(refusal([](K& k) { k.channels = {12}; }),
            "[keep] channels: keeps channel 12, the model has channels 0..11");
  EXPECT_EQ(refusal([](K& k) { k.channels = {-1}; }),
            "[keep] channels: keeps channel -1, the model has channels 0..11");
  EXPECT_EQ(refusal([](K& k) {
              k.channels = {3, 3};
            }),
            "[keep] channels: saw channel 3 after 3, needs an ascending list");
  EXPECT_EQ(refusal([](K& k) { k.channels.clear(); }),
            "[keep] channels: saw none, needs at least 1");
  EXPECT_EQ(refusal([](K& k) { k.layers.clear(); }), "[keep] layers: saw none, needs at least 1");
  EXPECT_EQ(refusal([](K& k) { k.heads.pop_back(); }),
            "[keep] heads: saw 1 lists, needs one for each of 2 layers");
  EXPECT_EQ(refusal([](K& k) { k.mlp.clear(); }),
            "[keep] mlp: saw 0 lists, needs one for each of 2 layers");
}

TEST(Keep, IsReadAsItWasWritten) {
  const Scratch scratch;
  write_keep(tiny_keep(), scratch / "keep.json");
  EXPECT_TRUE(read_keep(scratch / "keep.json") == tiny_keep());
}

TEST(Keep, RefusesAnotherFormatAndForeignFields) {
  const Scratch scratch;
  const auto file = scratch / "keep.json";
  const auto refusal = [&](const std::string& text) {
    std::ofstream(file) << text;
    const auto message = message_of([&] { read_keep(file); });
    EXPECT_EQ(message.find("[" + file.string() + "] "), 0u) << message;
    return message.substr(std::min(message.size(), file.string().size() + 3));
  };
  EXPECT_EQ(refusal(R"({"format": 2})").find("format: saw 2"), 0u);
  EXPECT_EQ(refusal(R"({"format": 1, "layers": [0], "channels": [-1], "heads": [], "mlp": []})")
                .find("channels[0]: saw -1"),
            0u);
  EXPECT_NE(refusal(R"({"format": 1, "layer": [0]})").find("layers"), std::string::npos);
}

}  // namespace
}  // namespace cleave::decompose
