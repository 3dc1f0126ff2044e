// What a person can get wrong, at the door where they get it wrong: one clear line, the right exit
// code, nothing written.

#include <algorithm>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <zlib.h>

#include "model/checkpoint.hpp"
#include "model/image.hpp"
#include "model/transformer.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

/// A tiny model, a fleet, and (made once for all tests) a plan and a bundle.
class BadInput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    make_tiny_model(*shared_, *shared_ / "model");
    write_text(*shared_ / "fleet.toml", tiny_fleet());
    ASSERT_EQ(run_cleave(*shared_, {"plan", *shared_ / "model", "--fleet", *shared_ / "fleet.toml",
                                    "--strategy", "decomposed", "--max-part-share", "0", "--out",
                                    *shared_ / "plan.json"})
                  .code,
              0);
    const auto ran =
        run_cleave(*shared_, {"decompose", *shared_ / "model", "--plan", *shared_ / "plan.json",
                              "--fleet", *shared_ / "fleet.toml", "--out", *shared_ / "bundle"});
    ASSERT_EQ(ran.code, 0) << ran.error;
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  /// A copy that this test may spoil.
  std::string copy(const std::string& name) {
    fs::copy(*shared_ / name, own_ / name, fs::copy_options::recursive);
    return own_ / name;
  }

  /// Fails unless the command ends with `code` and says one line that holds each of `words`.
  void expect_refusal(const std::vector<std::string>& command, int code,
                      const std::vector<std::string>& words) {
    const auto ran = run_cleave(own_, command);
    EXPECT_EQ(ran.code, code) << ran.error << ran.out;
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
    for (const auto& word : words)
      EXPECT_NE(ran.error.find(word), std::string::npos)
          << "'" << word << "' is not in: " << ran.error;
  }

  /// A grey square that the model takes.
  static void write_image(const std::string& path) {
    fs::create_directories(fs::path(path).parent_path());
    model::write_png({8, 8, 1, std::vector<std::uint8_t>(64, 100)}, path);
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* BadInput::shared_ = nullptr;

TEST_F(BadInput, AnUnknownCommandNamesTheNearest) {
  expect_refusal({"evalute"}, 2, {"evalute", "did you mean 'evaluate'"});
}

TEST_F(BadInput, AWireFormatIsOneOfThoseThatThereAre) {
  const std::vector<std::string> plan{
      "plan", *shared_ / "model", "--fleet", *shared_ / "fleet.toml", "--out", own_ / "plan.json"};
  const auto with = [&plan](std::vector<std::string> more) {
    more.insert(more.begin(), plan.begin(), plan.end());
    return more;
  };
  expect_refusal(with({"--strategy", "tensor", "--wire", "int4"}), 2,
                 {"[--wire] saw 'int4', needs one of f32|f16|bf16|int8"});
  expect_refusal(with({"--wire", "int8"}), 1,
                 {"wire: saw int8 and the strategy 'auto', needs a strategy whose devices exchange "
                  "values: pipeline, tensor, voltage, hepti, galaxy, prism"});
  expect_refusal(with({"--wire", "f16", "--shares-of", *shared_ / "plan.json"}), 2,
                 {"[--wire] saw --shares-of too"});
  EXPECT_FALSE(fs::exists(own_ / "plan.json"));
}

TEST_F(BadInput, AMissingModelIsNamed) {
  expect_refusal({"inspect", own_ / "nowhere"}, 1, {"nowhere"});
}

TEST_F(BadInput, AFolderThatIsNotThereIsNoModelFolder) {
  expect_refusal({"evaluate", "/nowhere", "--teacher", *shared_ / "model", "--data", "/nothing"}, 1,
                 {"[/nowhere]", "saw nothing there"});
  expect_refusal({"bench", "/nowhere", "--local", "--without", "cam"}, 1,
                 {"[/nowhere]", "saw nothing there"});
}

TEST_F(BadInput, ATruncatedCheckpointIsRefused) {
  const std::string model = copy("model");
  fs::resize_file(model + "/model.safetensors", fs::file_size(model + "/model.safetensors") - 100);
  expect_refusal({"inspect", model}, 1, {"model.safetensors"});
}

TEST_F(BadInput, AHostileHeaderIsRefused) {
  const std::string model = copy("model");
  std::string bytes(8, '\xff');  // a header of 2^64 − 1 bytes
  write_text(model + "/model.safetensors", bytes + "{}");
  expect_refusal({"inspect", model}, 1, {"model.safetensors"});
}

TEST_F(BadInput, AConfigThatContradictsTheTensorsIsRefused) {
  const std::string model = copy("model");
  std::string config = base::read_text(model + "/config.json");
  const auto at = config.find("\"intermediate_size\": 64");
  ASSERT_NE(at, std::string::npos) << config;
  config.replace(at, 23, "\"intermediate_size\": 96");
  write_text(model + "/config.json", config);
  expect_refusal({"inspect", model}, 1, {"saw", "needs", "96"});
}

TEST_F(BadInput, ALayerThatTheConfigDoesNotKnowIsRefused) {
  const std::string model = copy("model");
  std::string config = base::read_text(model + "/config.json");
  const std::string two = "\"num_hidden_layers\": 2", one = "\"num_hidden_layers\": 1";
  const auto at = config.find(two);
  ASSERT_NE(at, std::string::npos) << config;
  config.replace(at, two.size(), one);
  write_text(model + "/config.json", config);
  expect_refusal({"inspect", model}, 1, {"layer.1.", "beyond the 1 layers of config.json"});
}

TEST_F(BadInput, AnUnknownModelTypeListsTheKnown) {
  const std::string model = copy("model");
  write_text(model + "/config.json", R"({"model_type": "resnet"})");
  expect_refusal({"inspect", model}, 1, {"resnet", "vit", "deit"});
}

TEST_F(BadInput, AFleetWithoutLinksIsRefused) {
  write_text(
      own_ / "fleet.toml",
      "format = 1\n[[device]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nmemory = \"1 GB\"\npreset "
      "= \"pi5\"\n"
      "[[device]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\nmemory = \"1 GB\"\npreset = \"pi5\"\n");
  expect_refusal(
      {"plan", *shared_ / "model", "--fleet", own_ / "fleet.toml", "--out", own_ / "plan.json"}, 1,
      {"fleet.toml", "link"});
  EXPECT_FALSE(fs::exists(own_ / "plan.json"));
}

TEST_F(BadInput, ADeviceWithoutMemoryIsRefused) {
  write_text(own_ / "fleet.toml", tiny_fleet("0"));
  expect_refusal({"plan", *shared_ / "model", "--fleet", own_ / "fleet.toml"}, 1,
                 {"fleet.toml", "memory"});
}

TEST_F(BadInput, ALinkToAnUnknownDeviceIsRefused) {
  write_text(own_ / "fleet.toml",
             tiny_fleet() + "[[link]]\nfrom = \"hub\"\nto = \"attic\"\nbandwidth = \"1 Mbit/s\"\n");
  expect_refusal({"plan", *shared_ / "model", "--fleet", own_ / "fleet.toml"}, 1,
                 {"fleet.toml", "attic"});
}

TEST_F(BadInput, AMisspeltRecipeKeyNamesTheNearest) {
  write_text(own_ / "recipe.toml", "format = 1\n[data]\npath = \".\"\n[join]\nepochs = 1\n");
  expect_refusal({"calibrate", *shared_ / "bundle", "--teacher", *shared_ / "model", "--recipe",
                  own_ / "recipe.toml"},
                 1, {"recipe.toml", "join", "joint"});
}

TEST_F(BadInput, BrokenTomlSaysTheLine) {
  write_text(own_ / "fleet.toml", "format = 1\n[links\n");
  expect_refusal({"plan", *shared_ / "model", "--fleet", own_ / "fleet.toml"}, 1,
                 {"fleet.toml", "line 2"});
}

TEST_F(BadInput, AWrongDigestIsRefused) {
  const std::string bundle = copy("bundle");
  const std::string weights = bundle + "/parts/default/hub/model.safetensors";
  std::string bytes = base::read_text(weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_text(weights, bytes);
  expect_refusal({"agent", bundle, "--device", "hub"}, 1,
                 {"parts/default/hub/model.safetensors", "saw", "needs"});
}

TEST_F(BadInput, AnAgentWithoutItsPartSaysWhatToCopy) {
  const std::string bundle = copy("bundle");
  fs::remove_all(bundle + "/parts/default/hub");
  expect_refusal({"agent", bundle, "--device", "hub"}, 1, {"parts/default/hub"});
}

TEST_F(BadInput, AnUnknownDeviceListsTheKnown) {
  expect_refusal({"agent", *shared_ / "bundle", "--device", "attic"}, 2, {"attic", "hub"});
}

TEST_F(BadInput, AFlagsWrongValueIsWrongUsage) {
  expect_refusal({"init", "--config", "nope", "--out", own_ / "model"}, 2, {"--config", "nope"});
  expect_refusal({"profile", "--like", "nope"}, 2, {"--like", "nope"});
  expect_refusal({"agent", *shared_ / "bundle", "--device", "hub", "--listen", "127.0.0.1:99999"},
                 2, {"--listen", "99999", "host:port"});
  expect_refusal({"infer", "--via", "nohost", own_ / "a.png"}, 2, {"--via", "nohost"});
  expect_refusal({"status", "nohost"}, 2, {"nohost", "host:port"});
}

TEST_F(BadInput, FlagsThatContradictEachOtherAreWrongUsage) {
  write_text(own_ / "a.png", "");
  const std::string bundle = *shared_ / "bundle";
  expect_refusal({"infer", bundle, own_ / "a.png", "--without", "cam"}, 2,
                 {"--without", "--local"});
  expect_refusal({"infer", own_ / "a.png", "--via", "127.0.0.1:1", "--local"}, 2,
                 {"--via", "--local"});
  expect_refusal({"infer", own_ / "a.png", "--via", "127.0.0.1:1", "--without", "cam"}, 2,
                 {"--without"});
  expect_refusal({"bench", bundle, "--without", "cam"}, 2, {"--without", "--local"});
}

TEST_F(BadInput, InferNeedsABundleAndAnImage) {
  fs::create_directory(own_ / "empty");
  const std::string bundle = *shared_ / "bundle";
  expect_refusal({"infer"}, 2, {"MODEL", "IMAGE", "--via"});
  expect_refusal({"infer", "--via", "127.0.0.1:1"}, 2, {"IMAGE"});
  // Nobody is dialled before: that would fail with 1.
  expect_refusal({"infer", bundle, "--join-timeout", "0"}, 2, {"IMAGE"});
  expect_refusal({"infer", bundle, own_ / "empty", "--join-timeout", "0"}, 2, {"no image"});
}

TEST_F(BadInput, AFleetThatIsNotThereIsSaidBeforeTheCut) {
  expect_refusal({"decompose", *shared_ / "model", "--plan", *shared_ / "plan.json", "--fleet",
                  own_ / "nowhere.toml", "--out", own_ / "bundle"},
                 1, {"nowhere.toml"});
  EXPECT_FALSE(fs::exists(own_ / "bundle"));
}

TEST_F(BadInput, ListeningBeyondLoopbackNeedsInsecure) {
  expect_refusal({"agent", *shared_ / "bundle", "--device", "hub", "--listen", "0.0.0.0:0"}, 2,
                 {"0.0.0.0", "--insecure"});
}

TEST_F(BadInput, APortInUseIsNamed) {
  const int taken = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  expect_refusal({"agent", *shared_ / "bundle", "--device", "hub", "--listen", "127.0.0.1:" + port},
                 1, {"127.0.0.1:" + port});
  close(taken);
}

TEST_F(BadInput, NoAgentAtAllIsAFailureThatNamesThem) {
  write_text(own_ / "a.png", "");
  expect_refusal(
      {"infer", *shared_ / "bundle", own_ / "a.png", "--join-timeout", "100 ms", "--require-all"},
      3, {"hub", "127.0.0.1:7101"});
  expect_refusal({"infer", *shared_ / "bundle", own_ / "a.png", "--join-timeout", "100 ms"}, 1,
                 {"hub", "127.0.0.1:7101"});
}

TEST_F(BadInput, ABrokenImageIsNamed) {
  write_text(own_ / "a.png", "not a picture");
  expect_refusal({"infer", *shared_ / "bundle", own_ / "a.png", "--local"}, 1, {"a.png"});
}

TEST_F(BadInput, ABrokenImageDoesNotKeepTheOthersFromTheirAnswers) {
  write_text(own_ / "images/a.png", "not a picture");
  write_image(own_ / "images/b.png");
  const auto ran = run_cleave(own_, {"infer", *shared_ / "bundle", own_ / "images", "--local"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.error.find("a.png: no answer: "), std::string::npos) << ran.error;
  EXPECT_NE(ran.out.find("b.png: "), std::string::npos) << ran.out;
}

// As published backbones are: their answer is the state of the class token.
TEST_F(BadInput, AModelOfImagesWithoutAHeadGivesItsFeaturesAndIsNotJudged) {
  model::Transformer model = model::load(*shared_ / "model");
  model.config.classes = 0;
  model.config.labels.clear();
  model::save(model, own_ / "headless");
  write_image(own_ / "a.png");
  const auto ran =
      run_cleave(own_, {"infer", own_ / "headless", own_ / "a.png", "--format", "json"});
  ASSERT_EQ(ran.code, 0) << ran.error;
  const auto numbers = nlohmann::json::parse(ran.out).at("features").get<std::vector<float>>();
  const model::Image image = model::read_image(own_ / "a.png", model.config.channels);
  const auto planes = model::prepare(image, model.config.processing, model.config.channels);
  const at::Tensor pixels =
      at::tensor(planes, at::kByte)
          .view({1, model.config.channels, model.config.image_height, model.config.image_width});
  const at::Tensor features = model::features(model, model::normalise_pixels(model.config, pixels));
  EXPECT_TRUE(at::allclose(at::tensor(numbers), features.flatten(), 1e-5, 1e-5));
  const auto text = run_cleave(own_, {"infer", own_ / "headless", own_ / "a.png"});
  EXPECT_NE(text.out.find("numbers)  1.0000 with the first"), std::string::npos) << text.out;
  for (const char* split : {"train", "test"})
    write_image(own_ / ("data/" + std::string(split) + "/a/0.png"));
  expect_refusal({"evaluate", own_ / "headless", "--data", own_ / "data"}, 1,
                 {"saw a model without a head, needs one"});
}

/// A picture that says in its EXIF that its first row is the right side.
std::string turned_png(const std::string& png) {
  const std::string exif("eXIfMM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0", 30);
  const auto big_endian = [](unsigned long value) {
    std::string bytes;
    for (int place = 24; place >= 0; place -= 8) bytes += static_cast<char>(value >> place & 0xff);
    return bytes;
  };
  const std::size_t at = png.find("IDAT") - 4;
  return png.substr(0, at) + big_endian(exif.size() - 4) + exif +
         big_endian(crc32(0, reinterpret_cast<const Bytef*>(exif.data()),
                          static_cast<unsigned>(exif.size()))) +
         png.substr(at);
}

TEST_F(BadInput, WhatAPictureDoesNotShowIsSaidOnce) {
  write_image(own_ / "images/a.png");
  const std::string turned = turned_png(base::read_text(own_ / "images/a.png"));
  base::write_whole(own_ / "images/a.png", turned);
  base::write_whole(own_ / "images/b.png", turned);
  std::vector<std::string> words = {"infer", *shared_ / "bundle", own_ / "images", "--local"};
  const auto plain = run_cleave(own_, words);
  EXPECT_EQ(plain.code, 0) << plain.error;
  const std::string note = "its EXIF says which way is up, which is not followed";
  const std::size_t at = plain.error.find(note);
  EXPECT_NE(at, std::string::npos) << plain.error;
  EXPECT_EQ(plain.error.find(note, at + 1), std::string::npos) << plain.error;
  words.push_back("--exif-rotation");
  const auto upright = run_cleave(own_, words);
  EXPECT_EQ(upright.code, 0) << upright.error;
  EXPECT_EQ(upright.error.find("EXIF"), std::string::npos) << upright.error;
}

TEST_F(BadInput, NamesThatAreNoUtf8AreNoReasonToFail) {
  const std::string image = own_ / "\xff.png";
  write_image(image);
  const auto ran =
      run_cleave(own_, {"infer", *shared_ / "bundle", image, "--local", "--format", "json"});
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(nlohmann::json::parse(ran.out).at("missing").size(), 0U);
}

TEST_F(BadInput, AMemoryObjectiveNeedsAnImportance) {
  expect_refusal(
      {"plan", *shared_ / "model", "--fleet", *shared_ / "fleet.toml", "--objective", "memory"}, 2,
      {"--objective", "--min-importance"});
}

TEST_F(BadInput, AFitNeedsDataAndComponentsAFit) {
  const std::vector<std::string> words = {
      "decompose", *shared_ / "model", "--plan", *shared_ / "plan.json", "--out", own_ / "new"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), words.begin(), words.end());
    return more;
  };
  expect_refusal(with({"--fit", "sequential"}), 2, {"--fit sequential", "needs --data"});
  expect_refusal(with({"--stream", "components"}), 2, {"--stream components", "--data"});
  expect_refusal(with({"--data", *shared_ / "images", "--fit", "none", "--stream", "components"}),
                 2, {"--stream components", "a fit"});
  EXPECT_FALSE(fs::exists(own_ / "new"));
}

TEST_F(BadInput, ABundleIsNotWrittenOverSomethingElse) {
  write_text(own_ / "precious/diary.txt", "dear diary");
  expect_refusal({"decompose", *shared_ / "model", "--plan", *shared_ / "plan.json", "--out",
                  own_ / "precious"},
                 1, {"precious"});
  EXPECT_EQ(base::read_text(own_ / "precious/diary.txt"), "dear diary");
  EXPECT_EQ(std::distance(fs::directory_iterator(own_ / "precious"), fs::directory_iterator()), 1);
}

TEST_F(BadInput, TrainingIsNotWrittenOverSomethingElse) {
  write_text(own_ / "precious/diary.txt", "dear diary");
  expect_refusal({"train", std::string(CLEAVE_SOURCE_DIR) + "/recipes/fashion-mnist/teacher.toml",
                  "--data", *shared_ / "nowhere", "--out", own_ / "precious"},
                 1, {"precious", "config.json"});
  EXPECT_EQ(std::distance(fs::directory_iterator(own_ / "precious"), {}), 1);
}

TEST_F(BadInput, TextThatIsNoUtf8IsRefusedUnlessAskedOtherwise) {
  const std::string tokenizer =
      std::string(CLEAVE_SOURCE_DIR) + "/tests/goldens/tokenizers/byte_pair";
  write_text(own_ / "text.txt", "fine\nbro\xffken\n");
  expect_refusal({"tokenize", tokenizer, own_.path().string()}, 1, {"cannot read: is a folder"});
  const auto ran = run_cleave(own_, {"tokenize", tokenizer, own_ / "text.txt"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.error.find("text.txt] byte 8: is no valid UTF-8"), std::string::npos) << ran.error;
  const auto lossy =
      run_cleave(own_, {"tokenize", tokenizer, own_ / "text.txt", "--lossy", "--format", "json"});
  EXPECT_EQ(lossy.code, 0) << lossy.error;
  EXPECT_NE(lossy.out.find("\"text\":\"bro\xEF\xBF\xBDken\""), std::string::npos) << lossy.out;
}

TEST_F(BadInput, ATokenizerThatIsNotTheModelsIsRefused) {
  fs::copy(std::string(CLEAVE_SOURCE_DIR) + "/tests/goldens/tokenizers/byte_pair", own_ / "model");
  write_text(own_ / "model/config.json", R"({"model_type": "of its own", "vocab_size": 5})");
  expect_refusal({"tokenize", own_ / "model"}, 1, {"model] tokenizer: saw ", "vocabulary of 5"});
}

TEST_F(BadInput, AFullDiskIsSaidOnceAndLeavesAnOutputThatFailed) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  Process::Options options;
  options.words = {"/bin/sh", "-c", std::string(CLEAVE_PROGRAM) + " --help > /dev/full"};
  EXPECT_NE(Process(options).wait(), 0);
}

TEST_F(BadInput, AnInfeasiblePlanIsANegativeOutcome) {
  write_text(own_ / "fleet.toml", tiny_fleet("1 MB"));
  const auto ran = run_cleave(own_, {"plan", *shared_ / "model", "--fleet", own_ / "fleet.toml",
                                     "--out", own_ / "plan.json"});
  EXPECT_EQ(ran.code, 3) << ran.error << ran.out;
  EXPECT_NE(ran.out.find("memory"), std::string::npos) << ran.out;
  EXPECT_FALSE(fs::exists(own_ / "plan.json"));
}

}  // namespace
}  // namespace cleave::tools
