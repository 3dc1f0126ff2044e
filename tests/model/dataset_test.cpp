#include "model/dataset.hpp"

#include <fstream>
#include <map>
#include <tuple>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "model/image.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_contains;
using testing::Scratch;

ModelConfig input(std::int64_t side, std::int64_t channels, std::int64_t classes) {
  ModelConfig config;
  config.image_height = config.image_width = side;
  config.channels = channels;
  config.classes = classes;
  config.processing.height = config.processing.width = side;
  return config;
}

void write(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void write_gzip(const fs::path& path, const std::string& bytes) {
  gzFile file = gzopen(path.c_str(), "wb");
  ASSERT_EQ(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())),
            static_cast<int>(bytes.size()));
  gzclose(file);
}

std::string big_endian(std::uint32_t x) {
  return {static_cast<char>(x >> 24), static_cast<char>(x >> 16), static_cast<char>(x >> 8),
          static_cast<char>(x)};
}

/// `count` images of 2 x 3 whose pixels count upwards, and labels 0, 1, 2, 0, 1 …
std::string idx_images(std::uint32_t count, std::uint32_t claimed) {
  std::string bytes = big_endian(0x803) + big_endian(claimed) + big_endian(2) + big_endian(3);
  for (std::uint32_t i = 0; i < 6 * count; ++i) bytes += static_cast<char>(i);
  return bytes;
}
std::string idx_labels(std::uint32_t count) {
  std::string bytes = big_endian(0x801) + big_endian(count);
  for (std::uint32_t i = 0; i < count; ++i) bytes += static_cast<char>(i % 3);
  return bytes;
}

ModelConfig idx_input() {
  ModelConfig config = input(2, 1, 3);
  config.image_width = 3;
  return config;
}

/// A test split of four images.
fs::path idx_folder(const Scratch& scratch) {
  write(scratch / "t10k-images-idx3-ubyte", idx_images(4, 4));
  write(scratch / "t10k-labels-idx1-ubyte", idx_labels(4));
  return scratch.path();
}

std::string refusal(const fs::path& folder, const std::string& format = "idx",
                    const ModelConfig& config = idx_input()) {
  return error_of([&] { read_dataset({format, folder, "test", 0}, config); });
}

TEST(Idx, ReadsImagesAndLabels) {
  const Scratch scratch;
  const Dataset data = read_dataset({"auto", idx_folder(scratch), "test", 0}, idx_input());
  ASSERT_EQ(data.inputs.sizes().vec(), (std::vector<std::int64_t>{4, 1, 2, 3}));
  EXPECT_TRUE(data.inputs.flatten().equal(at::arange(24, at::kByte)));
  EXPECT_TRUE(data.labels.equal(at::tensor({0, 1, 2, 0}, at::kLong)));
}

TEST(Idx, ReadsGzipAndTheTrainSplit) {
  const Scratch scratch;
  write_gzip(scratch / "train-images-idx3-ubyte.gz", idx_images(5, 5));
  write_gzip(scratch / "train-labels-idx1-ubyte.gz", idx_labels(5));
  const Dataset data = read_dataset({"idx", scratch.path(), "train", 0}, idx_input());
  EXPECT_EQ(data.size(), 5);
  EXPECT_EQ(data.inputs[4][0][1][2].item<int>(), 29);
}

TEST(Idx, TakesSomeOfTheWholeWhereLimited) {
  const Scratch scratch;
  const Dataset data = read_dataset({"idx", idx_folder(scratch), "test", 3}, idx_input());
  ASSERT_EQ(data.size(), 3);
  // Every class, and the images that belong to the labels.
  EXPECT_TRUE(std::get<0>(data.labels.sort()).equal(at::arange(3, at::kLong)));
  for (std::int64_t i = 0; i < 3; ++i)
    EXPECT_EQ(data.inputs[i][0][0][0].item<int>() / 6 % 3, data.labels[i].item<int>());
}

TEST(Idx, ResizesToTheInputAndCopiesGreyToEachChannel) {
  const Scratch scratch;
  const Dataset data = read_dataset({"idx", idx_folder(scratch), "test", 0}, input(4, 3, 3));
  ASSERT_EQ(data.inputs.sizes().vec(), (std::vector<std::int64_t>{4, 3, 4, 4}));
  EXPECT_TRUE(data.inputs.select(1, 0).equal(data.inputs.select(1, 2)));
}

TEST(Idx, NamesLabelsAsTheModelDoes) {
  const Scratch scratch;
  ModelConfig config = idx_input();
  config.labels = {"boat", "car", "dog"};
  EXPECT_EQ(read_dataset({"idx", idx_folder(scratch), "test", 0}, config).label_names,
            config.labels);
}

TEST(Idx, RefusesAWrongMagic) {
  const Scratch scratch;
  write(idx_folder(scratch) / "t10k-images-idx3-ubyte", idx_labels(4));
  expect_contains(refusal(scratch.path()), "magic: saw 2049, needs 2051");
}

TEST(Idx, RefusesAFileThatEndsEarly) {
  const Scratch scratch;
  write(idx_folder(scratch) / "t10k-images-idx3-ubyte", idx_images(3, 4));
  expect_contains(refusal(scratch.path()), "pixels: saw 18 bytes, needs 24");
  write(scratch / "t10k-images-idx3-ubyte", "");
  expect_contains(refusal(scratch.path()), "magic: saw 0 bytes, needs 4");
}

TEST(Idx, RefusesAGzipFileThatEndsEarly) {
  const Scratch scratch;
  write_gzip(idx_folder(scratch) / "t10k-labels-idx1-ubyte.gz", idx_labels(4));
  fs::remove(scratch / "t10k-labels-idx1-ubyte");
  fs::resize_file(scratch / "t10k-labels-idx1-ubyte.gz", 22);
  expect_contains(refusal(scratch.path()), "t10k-labels-idx1-ubyte.gz]");
}

TEST(Idx, RefusesToGoOnAfterItsEnd) {
  const Scratch scratch;
  write(idx_folder(scratch) / "t10k-images-idx3-ubyte", idx_images(5, 4));
  expect_contains(refusal(scratch.path()), "goes on after the last entry");
}

TEST(Idx, RefusesOtherCountsOfImagesAndLabels) {
  const Scratch scratch;
  write(idx_folder(scratch) / "t10k-labels-idx1-ubyte", idx_labels(7));
  expect_contains(refusal(scratch.path()), "count: saw 7 labels, needs 4");
}

TEST(Idx, RefusesACountThatNoMemoryHolds) {
  const Scratch scratch;
  write(idx_folder(scratch) / "t10k-images-idx3-ubyte",
        big_endian(0x803) + big_endian(0xffffffff) + big_endian(16384) + big_endian(16384));
  write(scratch / "t10k-labels-idx1-ubyte", big_endian(0x801) + big_endian(0xffffffff));
  expect_contains(refusal(scratch.path()), "more than 64 GiB");
  write(scratch / "t10k-images-idx3-ubyte",
        big_endian(0x803) + big_endian(0xffffffff) + big_endian(0) + big_endian(3));
  expect_contains(refusal(scratch.path()), "image size: saw 0 x 3");
}

TEST(Idx, DoesNotTakeMemoryThatTheFileDoesNotBack) {
  const Scratch scratch;
  write(idx_folder(scratch) / "t10k-images-idx3-ubyte", idx_images(4, 0x7fffffff));
  write(scratch / "t10k-labels-idx1-ubyte", big_endian(0x801) + big_endian(0x7fffffff));
  expect_contains(refusal(scratch.path()), "pixels: saw 24 bytes, needs 12884901882");
}

TEST(Idx, RefusesALabelOutOfRange) {
  const Scratch scratch;
  expect_contains(refusal(idx_folder(scratch), "idx",
                          [] {
                            ModelConfig config = idx_input();
                            config.classes = 2;
                            return config;
                          }()),
                  "label 2: saw 2, needs 0..1");
}

TEST(Idx, SaysWhichFileIsMissing) {
  const Scratch scratch;
  fs::remove(idx_folder(scratch) / "t10k-labels-idx1-ubyte");
  expect_contains(refusal(scratch.path()), "saw no labels of the split 'test'");
}

/// Two records whose planes are filled with 10, 20, 30 and 11, 21, 31.
std::string cifar(const std::string& first_labels, const std::string& second_labels) {
  std::string bytes;
  for (int i = 0; i < 2; ++i) {
    bytes += i == 0 ? first_labels : second_labels;
    for (int c = 1; c <= 3; ++c) bytes += std::string(1024, static_cast<char>(10 * c + i));
  }
  return bytes;
}

TEST(Cifar, ReadsTheTenClassLayoutInItsOwnFolder) {
  const Scratch scratch;
  write(scratch / "cifar-10-batches-bin" / "test_batch.bin", cifar("\x03", "\x09"));
  write(scratch / "cifar-10-batches-bin" / "batches.meta.txt", "airplane\nautomobile\n\n");
  const Dataset data = read_dataset({"auto", scratch.path(), "test", 0}, input(32, 3, 10));
  ASSERT_EQ(data.size(), 2);
  EXPECT_TRUE(data.labels.equal(at::tensor({3, 9}, at::kLong)));
  EXPECT_EQ(data.inputs[1][2][31][31].item<int>(), 31);
  EXPECT_EQ(data.label_names, (std::vector<std::string>{"airplane", "automobile"}));
}

TEST(Cifar, ReadsTheFineLabelOfTheHundredClassLayout) {
  const Scratch scratch;
  write(scratch / "test.bin", cifar({7, 42}, {1, 99}));
  const Dataset data = read_dataset({"auto", scratch.path(), "test", 1}, input(32, 3, 100));
  EXPECT_TRUE(data.labels.equal(at::tensor({42}, at::kLong)));
}

TEST(Cifar, TurnsColourToGreyAsPillowDoes) {
  const Scratch scratch;
  write(scratch / "test_batch.bin", cifar({0}, {1}));
  const Dataset data = read_dataset({"cifar10", scratch.path(), "test", 0}, input(32, 1, 10));
  // 0.299·10 + 0.587·20 + 0.114·30 = 18.15
  EXPECT_EQ(data.inputs[0][0][0][0].item<int>(), 18);
}

TEST(Cifar, RefusesHalfARecordAndALabelOutOfRange) {
  const Scratch scratch;
  write(scratch / "test_batch.bin", cifar({0}, {1}).substr(0, 5000));
  expect_contains(refusal(scratch.path(), "cifar10", input(32, 3, 10)),
                  "size: saw 5000 bytes, needs a multiple of 3073");
  write(scratch / "test_batch.bin", cifar({0}, {10}));
  expect_contains(refusal(scratch.path(), "cifar10", input(32, 3, 10)),
                  "label 1: saw 10, needs 0..9");
}

/// Two cats and a dog, 6 x 6, in the split's own folder.
fs::path class_folder(const Scratch& scratch) {
  const auto picture = [](std::uint8_t value) {
    return Image{6, 6, 3, std::vector<std::uint8_t>(108, value)};
  };
  for (const char* name : {"test/cat", "test/dog"}) fs::create_directories(scratch / name);
  write_png(picture(10), scratch / "test/cat/a.png");
  write_png(picture(20), scratch / "test/cat/b.PNG");
  write_png(picture(30), scratch / "test/dog/a.png");
  write(scratch / "test/dog/notes.txt", "not an image");
  return scratch.path();
}

TEST(ClassFolder, NumbersClassesInOrderOfTheirNames) {
  const Scratch scratch;
  const Dataset data = read_dataset({"auto", class_folder(scratch), "test", 0}, input(6, 3, 2));
  EXPECT_EQ(data.label_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_TRUE(data.labels.equal(at::tensor({0, 0, 1}, at::kLong)));
  EXPECT_EQ(data.inputs[2][0][3][3].item<int>(), 30);
}

TEST(ClassFolder, ShowsEveryClassWhereLimited) {
  const Scratch scratch;
  class_folder(scratch);
  fs::copy(scratch / "test/dog/a.png", scratch / "test/dog/b.png");
  const Dataset data = read_dataset({"folder", scratch.path(), "test", 2}, input(6, 3, 2));
  EXPECT_TRUE(data.labels.equal(at::tensor({0, 1}, at::kLong)));
  EXPECT_EQ(data.inputs[1][0][3][3].item<int>(), 30);
}

TEST(ClassFolder, NumbersClassesAsTheModelNamesThem) {
  const Scratch scratch;
  ModelConfig config = input(6, 3, 3);
  config.labels = {"dog", "bird", "cat"};
  const Dataset data = read_dataset({"folder", class_folder(scratch), "test", 0}, config);
  // Rows stay where they are, so that a split of them is the same for every model.
  EXPECT_TRUE(data.labels.equal(at::tensor({2, 2, 0}, at::kLong)));
  EXPECT_EQ(data.inputs[2][0][3][3].item<int>(), 30);
}

TEST(ClassFolder, RefusesClassesThatTheModelDoesNotHave) {
  const Scratch scratch;
  ModelConfig config = input(6, 3, 2);
  expect_contains(refusal(class_folder(scratch), "folder", input(6, 3, 5)),
                  "classes: saw 2 sub-directories, needs 5");
  config.labels = {"cat", "cow"};
  expect_contains(refusal(scratch.path(), "folder", config), "class: saw 'dog'");
}

TEST(ClassFolder, RefusesAFolderWithoutClassesOrImages) {
  const Scratch scratch;
  fs::create_directories(scratch / "test");
  expect_contains(refusal(scratch.path(), "folder"), "needs one for each class");
  for (const char* name : {"cat", "dog", "eel"}) fs::create_directories(scratch / "test" / name);
  expect_contains(refusal(scratch.path(), "folder"), "saw no image file");
}

TEST(ClassFolder, RefusesToLearnFromWhatItIsJudgedBy) {
  const Scratch scratch;
  const auto folder = class_folder(scratch);
  expect_contains(error_of([&] {
                    read_dataset({"auto", folder, "train", 0}, input(6, 3, 2));
                  }),
                  "folder: saw no sub-directory 'train', needs train/ and test/");
  for (const char* split : {"train", "test"})
    expect_contains(error_of([&] {
                      read_dataset({"folder", folder / "test", split, 0}, input(6, 3, 2));
                    }),
                    "saw no sub-directory '" + std::string(split) + "'");
}

TEST(Dataset, RefusesAnUnknownFormatSplitOrFolder) {
  const Scratch scratch;
  expect_contains(refusal(scratch.path(), "tfrecord"), "format: saw 'tfrecord', needs idx");
  expect_contains(refusal(scratch / "nowhere"), "there is no such folder");
  expect_contains(error_of([&] {
                    read_dataset({"idx", scratch.path(), "dev", 0}, idx_input());
                  }),
                  "split: saw 'dev', needs train or test");
}

/// What is said of a data set, by kind.
std::map<std::string, std::int64_t> said(const base::Remarks& remarks) {
  std::map<std::string, std::int64_t> found;
  for (const auto& remark : remarks) found[remark.what] = remark.count;
  return found;
}

using Said = std::map<std::string, std::int64_t>;

TEST(ClassFolder, SaysWhatItPassesOver) {
  const Scratch scratch;
  class_folder(scratch);
  const fs::path cat = scratch / "test/cat", picture = cat / "a.png";
  for (const char* name : {".hidden.png", "._a.png"}) fs::copy(picture, cat / name);
  for (const char* folder : {".ipynb_checkpoints", "more/and more"}) {
    fs::create_directories(cat / folder);
    for (const char* name : {"c.png", "d.png"}) fs::copy(picture, cat / folder / name);
  }
  for (const char* name : {"e.tiff", "f.tiff", "README"}) write(cat / name, "no image");
  fs::create_symlink("nowhere.png", cat / "broken.png");
  for (const char* name : {"labels.csv", "g.png", ".DS_Store"}) write(scratch / "test" / name, "");
  fs::create_directories(scratch / "test/.git");
  fs::create_directories(scratch / "test/eel");
  const Dataset data = read_dataset({"folder", scratch.path(), "test", 0}, input(6, 3, 3));
  EXPECT_EQ(data.size(), 5) << "three, and the two in a folder of their own";
  EXPECT_EQ(data.origin, scratch / "test");
  EXPECT_EQ(said(data.remarks), (Said{{"other_files", 5},  // with dog/notes.txt
                                      {"hidden_files", 3},
                                      {"nested_images", 2},
                                      {"stray_files", 2},
                                      {"hidden_beside", 2},
                                      {"empty_classes", 1},
                                      {"unnamed_classes", 3}}));
  std::string all;
  for (const auto& remark : data.remarks) all += remark.text + "\n";
  expect_contains(all,
                  "/test] 5 files are passed over: not of a kind that is read (.png: 1, "
                  ".tiff: 2, .txt: 1, README: 1)");
  expect_contains(all, "1 class folder has no image that is read: eel");
  expect_contains(all, "passed over: g.png, labels.csv");
}

TEST(ClassFolder, SaysNothingOfAFolderThatIsWhollyRead) {
  const Scratch scratch;
  fs::remove(class_folder(scratch) / "test/dog/notes.txt");
  ModelConfig config = input(6, 3, 2);
  config.labels = {"dog", "cat"};
  EXPECT_TRUE(read_dataset({"folder", scratch.path(), "test", 0}, config).remarks.empty());
  config.labels = {"dog", "eel", "cat"};
  config.classes = 3;
  EXPECT_EQ(said(read_dataset({"folder", scratch.path(), "test", 0}, config).remarks),
            (Said{{"absent_classes", 1}}));
}

TEST(ClassFolder, TakesValForTheTestSplitUnlessThereIsOne) {
  for (const char* name : {"val", "valid", "validation", "dev"}) {
    const Scratch scratch;
    fs::remove(class_folder(scratch) / "test/dog/notes.txt");
    fs::rename(scratch / "test", scratch / name);
    DatasetSource source{"auto", scratch.path(), "test", 0};
    source.names_classes = true;
    const Dataset alone = read_dataset(source, input(6, 3, 2));
    EXPECT_EQ(alone.size(), 3);
    EXPECT_EQ(alone.origin, scratch / name);
    EXPECT_TRUE(alone.remarks.empty());
    for (const char* animal : {"cat", "dog"}) {
      fs::create_directories(scratch / "test" / animal);
      fs::copy(scratch / name / "cat/a.png", scratch / "test" / animal / "a.png");
    }
    const Dataset both = read_dataset(source, input(6, 3, 2));
    EXPECT_EQ(both.size(), 2);
    ASSERT_EQ(said(both.remarks), (Said{{"other_splits", 1}}));
    expect_contains(both.remarks[0].text,
                    "test/ is the test split; not read: " + std::string(name));
  }
}

TEST(ClassFolder, RefusesAnUnknownClassByItsOwnKind) {
  const Scratch scratch;
  ModelConfig config = input(6, 3, 2);
  config.labels = {"cat", "bee"};
  EXPECT_THROW(read_dataset({"folder", class_folder(scratch), "test", 0}, config), UnknownClass);
  expect_contains(refusal(scratch.path(), "folder", config),
                  "/test] class: saw 'dog', which is none of the model's labels (cat, bee)");
}

// CIFAR's files number their classes, and a file beside them names the numbers.
TEST(Cifar, MatchesNamesWithThoseOfTheModel) {
  const Scratch scratch;
  write(scratch / "test_batch.bin", cifar({0}, {2}));
  write(scratch / "batches.meta.txt",
        "\xEF\xBB\xBF"
        "bird\r\ncat\r\ndog\r\n");
  ModelConfig config = input(32, 3, 3);
  EXPECT_EQ(read_dataset({"cifar10", scratch.path(), "test", 0}, config).label_names,
            (std::vector<std::string>{"bird", "cat", "dog"}));
  config.labels = {"dog", "bird", "cat"};
  EXPECT_TRUE(read_dataset({"cifar10", scratch.path(), "test", 0}, config)
                  .labels.equal(at::tensor({1, 0}, at::kLong)));
  config.labels = {"dog", "plane", "cat"};
  expect_contains(refusal(scratch.path(), "cifar10", config),
                  "batches.meta.txt] class: saw 'bird', which is none of the model's labels");
  write(scratch / "batches.meta.txt", "dog\ncat\n");
  expect_contains(refusal(scratch.path(), "cifar10", config),
                  "batches.meta.txt] names: saw 2, needs one for label 2");
}

TEST(Dataset, NamesTheFileThatWasRead) {
  const Scratch scratch;
  EXPECT_EQ(read_dataset({"auto", idx_folder(scratch), "test", 0}, idx_input()).origin,
            scratch / "t10k-images-idx3-ubyte");
  const Scratch other;
  write(other / "test_batch.bin", cifar({0}, {1}));
  EXPECT_EQ(read_dataset({"auto", other.path(), "test", 0}, input(32, 3, 10)).origin,
            other / "test_batch.bin");
}

TEST(Dataset, APartOfItIsItsChosenRows) {
  Dataset data;
  data.inputs = at::arange(12, at::kByte).view({4, 3});
  EXPECT_EQ(data.size(), 4);
  EXPECT_TRUE(data.rows(1, 2).equal(data.inputs.narrow(0, 1, 2)));
  data.chosen = at::tensor({3, 0, 2}, at::kLong);
  EXPECT_EQ(data.size(), 3);
  EXPECT_TRUE(data.rows(1, 2).equal(data.inputs.index_select(0, at::tensor({0, 2}, at::kLong))));
  EXPECT_TRUE(data.rows(at::tensor({0}, at::kLong))[0].equal(data.inputs[3]));
}

TEST(ListImages, FindsPicturesInFoldersSorted) {
  const Scratch scratch;
  base::Remarks remarks;
  const auto found = list_images(class_folder(scratch), remarks);
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[1].filename(), "b.PNG");
  EXPECT_EQ(said(remarks), (Said{{"other_files", 1}}));
  EXPECT_EQ(list_images(found[2], remarks), std::vector<fs::path>{found[2]});
  expect_contains(error_of([&] { list_images(scratch / "nothing", remarks); }),
                  "no such file or folder");
}

}  // namespace
}  // namespace cleave::model
