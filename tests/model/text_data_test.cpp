#include "model/text_data.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "model/tokenizer/segment.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using namespace std::string_literals;

using at::Tensor;
using testing::error_of;
using testing::Scratch;
using testing::tiny_text_config;

/// A folder with data, and a tokenizer whose tokens are the bytes.
struct Data {
  Data() {
    std::filesystem::create_directory(scratch / "tokenizer");
    write_byte_tokenizer(scratch / "tokenizer");
    tokenizer.emplace(read_tokenizer(scratch / "tokenizer"));
  }
  void write(const std::string& name, const std::string& text) const {
    base::write_whole(scratch / name, text);
  }
  Dataset read(const ModelConfig& config, const std::string& split = "test",
               const std::string& format = "auto", std::int64_t length = 0,
               bool lossy = false) const {
    DatasetSource source;
    source.path = scratch.path();
    source.split = split;
    source.format = format;
    source.tokenizer = &*tokenizer;
    source.length = length;
    source.lossy = lossy;
    return read_dataset(source, config);
  }
  std::string error(const ModelConfig& config, const std::string& format = "auto") const {
    const std::string text = error_of([&] { read(config, "test", format); });
    const std::string folder = scratch.path().string();
    const auto at = text.find(folder);
    return at == std::string::npos ? text : text.substr(0, at) + text.substr(at + folder.size());
  }
  Scratch scratch;
  std::optional<Tokenizer> tokenizer;
};

ModelConfig bytes_config(Family family, Task task) {
  ModelConfig config = tiny_text_config(family);
  config.vocabulary = 256;
  config.task = task;
  config.classes = task == Task::classification ? 2 : task == Task::causal_lm ? 256 : 0;
  return config;
}

std::vector<std::int64_t> row(const Tensor& rows, std::int64_t i) {
  const Tensor ids = rows[i].to(at::kLong).contiguous();
  return {ids.data_ptr<std::int64_t>(), ids.data_ptr<std::int64_t>() + ids.numel()};
}

TEST(TextData, ReadsTextsAndLabels) {
  const Data data;
  data.write("train.tsv", "good\t1\r\n\nbad\t0\n");
  data.write("dev.tsv", "so\t1\n");
  const ModelConfig config = bytes_config(Family::bert, Task::classification);
  const Dataset train = data.read(config, "train");
  ASSERT_EQ(train.size(), 2);
  EXPECT_EQ(row(train.inputs, 0), (std::vector<std::int64_t>{'g', 'o', 'o', 'd'}));
  EXPECT_EQ(row(train.inputs, 1), (std::vector<std::int64_t>{'b', 'a', 'd', -1}));
  EXPECT_EQ(row(train.labels.unsqueeze(0), 0), (std::vector<std::int64_t>{1, 0}));
  EXPECT_EQ(data.read(config).size(), 1);
  EXPECT_EQ(train.shortened, 0);
  EXPECT_EQ(data.read(config, "train", "tsv", 3).inputs.size(1), 3);
  EXPECT_EQ(data.read(config, "train", "tsv", 3).shortened, 1) << "bad has three tokens";
  EXPECT_EQ(inputs_of(config, train.inputs.narrow(0, 1, 1)).size(1), 3);
}

// Of a classifier a file with a third column has two texts in each line, which become one row.
TEST(TextData, ReadsLabelledPairsAsOneRow) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::classification);
  const std::int64_t c = 'c' + second_text, d = 'd' + second_text;
  const std::vector<std::int64_t> first = {'a', 'b', c}, second = {'b', d, d};
  data.write("train.tsv", "ab\tc\t1\r\nb\tdd\t0\n");
  const Dataset tsv = data.read(config, "train");
  ASSERT_EQ(tsv.size(), 2);
  EXPECT_EQ(row(tsv.inputs, 0), first);
  EXPECT_EQ(row(tsv.inputs, 1), second);
  EXPECT_EQ(row(tsv.labels.unsqueeze(0), 0), (std::vector<std::int64_t>{1, 0}));
  EXPECT_FALSE(tsv.scores.defined());
  data.write("train.jsonl",
             "{\"text_b\": \"c\", \"text_a\": \"ab\", \"label\": 1}\n"
             "{\"text_a\": \"b\", \"text_b\": \"dd\", \"label\": 0}\n");
  const Dataset jsonl = data.read(config, "train", "jsonl");
  EXPECT_TRUE(jsonl.inputs.equal(tsv.inputs));
  EXPECT_TRUE(jsonl.labels.equal(tsv.labels));
  // The longer text is cut first.
  const Dataset cut = data.read(config, "train", "tsv", 2);
  EXPECT_EQ(row(cut.inputs, 0), (std::vector<std::int64_t>{'a', c}));
  EXPECT_EQ(cut.shortened, 2);
}

TEST(TextData, MarksNoTokenForAModelWithoutTokenTypes) {
  const Data data;
  data.write("test.tsv", "a\tb\t1\n");
  ModelConfig config = bytes_config(Family::bert, Task::classification);
  config.token_types = 1;
  EXPECT_EQ(row(data.read(config).inputs, 0), (std::vector<std::int64_t>{'a', 'b'}));
}

// MRPC, RTE and QNLI as GLUE has them.
TEST(TextData, ReadsTheColumnsThatAHeaderNames) {
  const Data data;
  ModelConfig config = bytes_config(Family::bert, Task::classification);
  const std::vector<std::int64_t> pair = {'a', 'b' + second_text};
  const auto expect = [&](const std::string& text) {
    data.write("dev.tsv", text);
    const Dataset read = data.read(config);
    ASSERT_EQ(read.size(), 1) << text;
    EXPECT_EQ(row(read.inputs, 0), pair) << text;
    EXPECT_EQ(read.labels[0].item<std::int64_t>(), 1) << text;
  };
  expect("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n");
  expect("text_a\ttext_b\tlabel\na\tb\t1\n");
  config.labels = {"entailment", "not_entailment"};
  expect("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n");
  expect("index\tquestion\tsentence\tlabel\n0\ta\tb\tnot_entailment\n");
  data.write("dev.tsv", "sentence\tlabel\na\t1\n");
  EXPECT_EQ(row(data.read(config).inputs, 0), (std::vector<std::int64_t>{'a'}));
  data.write("dev.tsv", "sentence1\tsentence2\tscore\na\tb\t2.5\n");
  EXPECT_EQ(data.read(bytes_config(Family::bert, Task::embedding)).scores[0].item<float>(), 2.5F);
  // A text that is a column's name is a text.
  data.write("dev.tsv", "question\t1\n");
  EXPECT_EQ(data.read(config).size(), 1);
}

TEST(TextData, TakesTheAnswerThatTheModelGives) {
  const Data data;
  const ModelConfig classes = bytes_config(Family::bert, Task::classification),
                    scores = bytes_config(Family::bert, Task::embedding);
  for (const std::string header : {"label\ttext_a\ttext_b\tscore\n1\ta\tb\t0\n",
                                   "score\ttext_a\ttext_b\tlabel\n0\ta\tb\t1\n"}) {
    data.write("test.tsv", header);
    EXPECT_EQ(data.read(classes).labels[0].item<std::int64_t>(), 1) << header;
    EXPECT_EQ(data.read(scores).scores[0].item<float>(), 0) << header;
  }
  data.write("test.tsv", "text_a\ttext_b\tlabel\na\tb\t1\n");
  EXPECT_EQ(data.read(scores).scores[0].item<float>(), 1) << "the only one";
  data.write("test.tsv", "text_a\tlabel\ttext_b\tgold_label\na\t1\tb\t0\n");
  EXPECT_EQ(data.error(classes),
            "[/test.tsv] line 1: gold_label: saw it beside 'label', needs one of them");
}

// Which text is the first says its name, not its place.
TEST(TextData, ReadsTheTwoTextsInTheOrderOfTheirNames) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::classification);
  const std::vector<std::int64_t> pair = {'a', 'b' + second_text};
  using Pair = std::pair<std::string, std::string>;
  for (const auto& [first, second] :
       {Pair{"text_a", "text_b"}, Pair{"sentence1", "sentence2"}, Pair{"sentence_A", "sentence_B"},
        Pair{"question", "sentence"}, Pair{"question", "passage"}, Pair{"question1", "question2"},
        Pair{"#1 String", "#2 String"}, Pair{"premise", "hypothesis"}}) {
    data.write("test.tsv", second + "\tlabel\t" + first + "\nb\t1\ta\n");
    EXPECT_EQ(row(data.read(config, "test", "tsv").inputs, 0), pair) << first;
    data.write("test.tsv", first + "\t" + second + "\tlabel\na\tb\t1\n");
    EXPECT_EQ(row(data.read(config, "test", "tsv").inputs, 0), pair) << first;
    data.write("test.jsonl",
               "{\"" + second + "\": \"b\", \"" + first + "\": \"a\", \"label\": 1}\n");
    EXPECT_EQ(row(data.read(config, "test", "jsonl").inputs, 0), pair) << first;
  }
  data.write("test.jsonl", R"({"sentence": "a", "idx": 7, "label": 1})");
  EXPECT_EQ(row(data.read(config, "test", "jsonl").inputs, 0), (std::vector<std::int64_t>{'a'}));
  data.write("test.jsonl", R"({"sentence1": "a", "sentence2": "b", "score": 2.5})");
  EXPECT_EQ(data.read(bytes_config(Family::bert, Task::embedding), "test", "jsonl").size(), 2);
}

TEST(TextData, RefusesATextThatWouldNotBeRead) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::classification);
  const std::string line = "{\"text\": \"a\", \"label\": 1}\n";
  for (const std::string key :
       {"text_a", "text_b", "text_pair", "sentence", "sentence1", "sentence2", "question",
        "question2", "premise", "hypothesis", "passage"}) {
    const std::string says = key + ": saw a second text beside 'text', needs text_a and text_b",
                      both = "{\"text\": \"a\", \"" + key + "\": \"b\", \"label\": 1}\n";
    data.write("test.jsonl", both);
    EXPECT_EQ(data.error(config, "jsonl"), "[/test.jsonl] line 1: " + says);
    data.write("test.jsonl", line + line + both);
    EXPECT_EQ(data.error(config, "jsonl"), "[/test.jsonl] line 3: " + says);
    data.write("test.tsv", "text\t" + key + "\tlabel\na\tb\t1\n");
    EXPECT_EQ(data.error(config, "tsv"), "[/test.tsv] line 1: " + says);
  }
  data.write("test.jsonl", R"({"text": "a", "text_pair": null, "label": 1})");
  EXPECT_EQ(data.read(config, "test", "jsonl").size(), 1) << "null is no text";
  data.write("test.jsonl", R"({"text": "a", "text_a": "b", "text_b": "c", "label": 1})");
  EXPECT_EQ(
      data.error(config, "jsonl"),
      "[/test.jsonl] line 1: text: saw a third text beside 'text_a', needs text_a and text_b");
  data.write("test.tsv", "sentence\tsentence\tlabel\na\tb\t1\n");
  EXPECT_EQ(data.error(config, "tsv"),
            "[/test.tsv] line 1: sentence: saw a second text beside 'sentence', needs text_a and "
            "text_b");
  data.write("test.tsv", "sentence1\tlabel\na\t1\n");
  EXPECT_EQ(data.error(config, "tsv"), "[/test.tsv] line 1: sentence2: saw no column, needs one");
}

TEST(TextData, TakesNoIdOfALineForItsFirstText) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::classification);
  const std::string says =
      "[/test.tsv] line 1: saw '7' in the first column, which looks like an id, as in all lines; "
      "needs text";
  data.write("test.tsv", "7\tgood\t1\n8\tbad\t0\n");
  EXPECT_EQ(data.error(config), says +
                                    " and label, or text, text and label, or a header that names "
                                    "the columns");
  EXPECT_EQ(data.error(bytes_config(Family::bert, Task::embedding)),
            says + ", text and score, or a header that names the columns");
  for (const std::string id : {"id-17", "31193n", "train_3", "550e8400-e29b-41d4", "0.5"}) {
    data.write("test.tsv", id + "\tgood\t1\nx9\tbad\t0\n");
    EXPECT_EQ(data.error(config).rfind("[/test.tsv] line 1: saw '" + id + "' in the first", 0), 0U)
        << data.error(config);
  }
  data.write("test.tsv", "7\tgood\t1\nten\tbad\t0\n");
  EXPECT_EQ(data.read(config).size(), 2) << "a text may be a number";
  for (const std::string text : {"Windows 98", "\xc3\xa9t\xc3\xa9 1",
                                 "\xe7\xac\xac"
                                 "7",
                                 ""}) {
    data.write("test.tsv", "id-17\tgood\t1\n" + text + "\tbad\t0\n");
    EXPECT_EQ(data.read(config).size(), 2) << text << " is no id";
  }
  data.write("test.tsv", "text_a\ttext_b\tlabel\n7\tgood\t1\n");
  EXPECT_EQ(data.read(config).size(), 1) << "named a text";
  data.write("test.tsv", "id\ttext\tlabel\n7\tg\t1\n");
  EXPECT_EQ(row(data.read(config).inputs, 0), (std::vector<std::int64_t>{'g'}));
  data.write("test.tsv", "7\t1\n8\t0\n");
  EXPECT_EQ(data.read(config).size(), 2) << "the only text";
}

TEST(TextData, RefusesAFileWhoseLinesDoNotAgree) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::classification);
  data.write("test.tsv", "\na\tb\t1\na\t1\n");
  EXPECT_EQ(data.error(config), "[/test.tsv] line 3: saw 2 columns, needs 3 as in line 2");
  data.write("test.tsv", "a\t1\na\tb\t1\n");
  EXPECT_EQ(data.error(config), "[/test.tsv] line 2: saw 3 columns, needs 2 as in line 1");
  data.write("test.tsv", "index\tsentence1\tsentence2\tlabel\na\tb\t1\n");
  EXPECT_EQ(data.error(config), "[/test.tsv] line 2: saw 3 columns, needs 4 as in line 1");
  data.write("test.tsv", "a\tb\tc\t1\n");
  EXPECT_EQ(data.error(config),
            "[/test.tsv] line 1: saw 4 columns, needs text and label, or text, text and label");
  data.write("test.tsv", "sentence\tscore\na\t1\n");
  EXPECT_EQ(data.error(bytes_config(Family::bert, Task::embedding)),
            "[/test.tsv] line 1: saw one text a line, needs text, text and score");
  data.write("test.jsonl",
             "{\"text_a\": \"a\", \"text_b\": \"b\", \"label\": 1}\n"
             "{\"text\": \"a\", \"label\": 1}\n");
  EXPECT_EQ(data.error(config, "jsonl"),
            "[/test.jsonl] line 2: text_a: saw no text, needs one as in line 1");
  data.write("test.jsonl", "{\"text_a\": \"a\", \"label\": 1}\n");
  EXPECT_EQ(data.error(config, "jsonl"), "[/test.jsonl] line 1: text_b: saw no text, needs one");
}

TEST(TextData, ReadsPairsAndScores) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::embedding);
  data.write("test.tsv", "a\tb\t4.5\nc\td\t0\n");
  const Dataset tsv = data.read(config);
  ASSERT_EQ(tsv.size(), 4);
  EXPECT_EQ(row(tsv.inputs, 2), (std::vector<std::int64_t>{'c'}));
  EXPECT_EQ(tsv.scores[0].item<float>(), 4.5F);
  data.write("test.jsonl", R"({"text_a": "a", "text_b": "b", "score": 4.5})");
  EXPECT_EQ(data.read(config, "test", "jsonl").scores.numel(), 1);
  std::filesystem::remove(data.scratch / "test.tsv");
  data.write("sts-dev.tsv", "main\tMSR\t2012\t1\t2.5\tA.\tB.\tsource\tsource\n");
  EXPECT_EQ(data.read(config).scores[0].item<float>(), 2.5F);
}

std::vector<std::string> said(const Dataset& data) {
  std::vector<std::string> found;
  for (const auto& remark : data.remarks) found.push_back(remark.what);
  return found;
}

// A second text under a name that is not known, it may be.
TEST(TextData, SaysWhichTextsAreNotRead) {
  const Data data;
  ModelConfig config = bytes_config(Family::bert, Task::classification);
  config.labels = {"no", "yes"};
  const auto expect = [&](const std::string& format, const std::string& not_read) {
    const Dataset read = data.read(config, "test", format);
    if (not_read.empty()) {
      EXPECT_EQ(said(read), std::vector<std::string>());
      return;
    }
    ASSERT_EQ(said(read), std::vector<std::string>{"unread_fields"});
    testing::expect_contains(read.remarks[0].text, "] not read: " + not_read);
    EXPECT_EQ(read.remarks[0].text.substr(read.remarks[0].text.size() - not_read.size()), not_read);
  };
  const std::string line = "{\"text\": \"a\", \"label\": \"yes\", \"idx\": 7, \"pair\": null}\n";
  data.write("test.jsonl", line);
  expect("jsonl", "");
  data.write("test.jsonl", line + R"({"text": "a", "reply": "b", "label": 1})" + "\n" +
                               R"({"text": "a", "context": ["b"], "label": "1", "reply": "c"})");
  expect("jsonl", "context, reply");
  std::filesystem::remove(data.scratch / "test.jsonl");
  data.write("test.tsv", "idx\ttext\tlabel\n7\ta\tyes\n8\tb\tno\n");
  expect("tsv", "");
  data.write("test.tsv", "idx\ttext\treply\tlabel\n7\ta\t\t1\n8\tb\tc\t0\n");
  expect("tsv", "reply");
}

TEST(TextData, WarnsAClassifierOfOtherTextsThanItLearnedFrom) {
  const Data data;
  ModelConfig config = bytes_config(Family::bert, Task::classification);
  const auto expect = [&](const std::string& what) {
    const Dataset read = data.read(config);
    EXPECT_EQ(said(read),
              what.empty() ? std::vector<std::string>() : std::vector<std::string>{"other_texts"});
    if (what.empty() || read.remarks.empty()) return;
    EXPECT_TRUE(read.remarks[0].warning);
    testing::expect_contains(read.remarks[0].text, "test.tsv] the model learned from " + what);
  };
  data.write("test.tsv", "a\tb\t1\n");
  EXPECT_EQ(data.read(config).texts_per_row, 2);
  expect("");
  config.texts_per_row = 2;
  expect("");
  config.texts_per_row = 1;
  expect("single texts, and is asked about pairs");
  data.write("test.tsv", "a\t1\n");
  EXPECT_EQ(data.read(config).texts_per_row, 1);
  expect("");
  config.texts_per_row = 2;
  expect("pairs of texts, and is asked about single ones");
}

TEST(TextData, SaysWhichFileItJudgesWhereThereAreTwo) {
  const Data data;
  const ModelConfig config = bytes_config(Family::bert, Task::embedding);
  const std::string line = "main\tMSR\t2012\t1\t2.5\tA.\tB.\n";
  data.write("sts-dev.tsv", line);
  const Dataset alone = data.read(config);
  EXPECT_EQ(alone.origin, data.scratch / "sts-dev.tsv");
  EXPECT_TRUE(alone.remarks.empty());
  data.write("sts-test.tsv", line + line);
  const Dataset both = data.read(config);
  EXPECT_EQ(both.origin, data.scratch / "sts-test.tsv");
  ASSERT_EQ(said(both), std::vector<std::string>{"other_splits"});
  testing::expect_contains(both.remarks[0].text,
                           "] sts-test.tsv is the test split; not read: sts-dev.tsv");
  data.write("test.jsonl", R"({"text_a": "a", "text_b": "b", "score": 1})");
  data.write("dev.tsv", line);
  const Dataset many = data.read(config);
  EXPECT_EQ(many.origin, data.scratch / "sts-test.tsv");
  ASSERT_EQ(said(many), std::vector<std::string>{"other_splits"});
  testing::expect_contains(many.remarks[0].text, "not read: sts-dev.tsv, dev.tsv, test.jsonl");
  const Dataset objects = data.read(config, "test", "jsonl");
  EXPECT_EQ(objects.origin, data.scratch / "test.jsonl");
  testing::expect_contains(objects.remarks[0].text, "not read: sts-test.tsv, sts-dev.tsv, dev.tsv");
  const Data running;
  running.write("val.txt", std::string(50, 'a'));
  EXPECT_EQ(running.read(bytes_config(Family::gpt2, Task::causal_lm)).origin,
            running.scratch / "val.txt");
}

// A byte order mark belongs to the file, not to its text.
TEST(TextData, DropsAByteOrderMarkAtEveryDoor) {
  const std::string mark = "\xEF\xBB\xBF";
  const Data data;
  const ModelConfig classes = bytes_config(Family::bert, Task::classification),
                    pairs = bytes_config(Family::bert, Task::embedding),
                    running = bytes_config(Family::gpt2, Task::causal_lm);
  data.write("test.tsv", mark + "a\t1\n");
  EXPECT_EQ(row(data.read(classes).inputs, 0), (std::vector<std::int64_t>{'a'}));
  data.write("test.jsonl", mark + R"({"text": "a", "label": 1})");
  EXPECT_EQ(row(data.read(classes, "test", "jsonl").inputs, 0), (std::vector<std::int64_t>{'a'}));
  data.write("sts-test.tsv", mark + "main\tMSR\t2012\t1\t2.5\tA\tB\n");
  EXPECT_EQ(data.read(pairs).size(), 2);
  data.write("test.txt", mark + "abcdef");
  EXPECT_EQ(row(data.read(running, "test", "auto", 4).inputs, 0),
            (std::vector<std::int64_t>{'a', 'b', 'c', 'd', 'e'}));
  data.write("test.txt", mark +
                             "ab\xFF"
                             "def");
  EXPECT_EQ(data.error(running), "[/test.txt] byte 5: is no valid UTF-8; --lossy replaces it")
      << "bytes are counted as they lie in the file";
}

TEST(TextData, TakesTheNamesOfClassesWhereTheModelHasNone) {
  const Data data;
  data.write("train.tsv", "good\tyes\nbad\tno\nso\tyes\n");
  ModelConfig config = bytes_config(Family::bert, Task::classification);
  testing::expect_contains(error_of([&] { data.read(config, "train"); }),
                           "line 1: label: saw 'yes', needs 0..1");
  DatasetSource source;
  source.path = data.scratch.path();
  source.split = "train";
  source.tokenizer = &*data.tokenizer;
  source.names_classes = true;
  const Dataset named = read_dataset(source, config);
  EXPECT_EQ(named.label_names, (std::vector<std::string>{"no", "yes"}));
  EXPECT_EQ(row(named.labels.unsqueeze(0), 0), (std::vector<std::int64_t>{1, 0, 1}));
  config.labels = {"yes", "no"};
  EXPECT_EQ(row(read_dataset(source, config).labels.unsqueeze(0), 0),
            (std::vector<std::int64_t>{0, 1, 0}));
  config.labels = {"yes", "maybe"};
  EXPECT_THROW(read_dataset(source, config), UnknownClass);
  config.labels.clear();
  data.write("train.tsv", "good\tyes\nbad\tno\nso\tperhaps\n");
  testing::expect_contains(error_of([&] { read_dataset(source, config); }),
                           "labels: saw 3 names (no, perhaps, yes), needs 2, as the model has");
  data.write("train.tsv", "good\t1\nbad\t0\n");
  EXPECT_TRUE(read_dataset(source, config).label_names.empty()) << "numbers are no names";
}

TEST(TextData, ShowsEveryClassWhereLimited) {
  const Data data;
  std::string lines;
  for (int i = 0; i < 90; ++i) lines += "a" + std::to_string(i) + "\t0\n";
  for (int i = 0; i < 10; ++i) lines += "b" + std::to_string(i) + "\t1\n";
  data.write("test.tsv", lines);
  DatasetSource source;
  source.path = data.scratch.path();
  source.tokenizer = &*data.tokenizer;
  source.limit = 20;
  const Dataset read = read_dataset(source, bytes_config(Family::bert, Task::classification));
  ASSERT_EQ(read.size(), 20);
  EXPECT_EQ(read.labels.sum().item<int>(), 2);
  for (std::int64_t i = 0; i < 20; ++i)
    EXPECT_EQ(read.inputs[i][0].item<int>(), read.labels[i].item<int>() == 0 ? 'a' : 'b');
}

TEST(TextData, CutsARunningTextIntoWindowsThatShareAToken) {
  const Data data;
  data.write("story.txt", "0123456789abcdefghij");
  const ModelConfig config = bytes_config(Family::gpt2, Task::causal_lm);
  const Dataset train = data.read(config, "train", "auto", 4);
  ASSERT_EQ(train.size(), 4);  // 18 of 20 tokens: four windows of 4, each with the token after it
  EXPECT_EQ(row(train.inputs, 1), (std::vector<std::int64_t>{'4', '5', '6', '7', '8'}));
  EXPECT_EQ(train.stream.size(0), 18);
  EXPECT_EQ(inputs_of(config, train.inputs).size(1), 4);
  EXPECT_EQ(data.read(config, "test", "auto", 1).size(), 1);
}

// Twelve tokens, of which the first is judged by nobody and each other by one window.
TEST(TextData, SlidesWindowsSoThatEveryTokenIsJudgedOnce) {
  const Data data;
  data.write("test.txt", "0123456789ab");
  DatasetSource source;
  source.path = data.scratch.path();
  source.tokenizer = &*data.tokenizer;
  source.length = 4;
  source.stride = 2;
  const Dataset read = read_dataset(source, bytes_config(Family::gpt2, Task::causal_lm));
  ASSERT_EQ(read.size(), 5);
  EXPECT_EQ(row(read.inputs, 1), (std::vector<std::int64_t>{'2', '3', '4', '5', '6'}));
  EXPECT_EQ(row(read.inputs, 4), (std::vector<std::int64_t>{'7', '8', '9', 'a', 'b'}));
  EXPECT_EQ(row(read.judged.unsqueeze(0), 0), (std::vector<std::int64_t>{4, 2, 2, 2, 1}));
}

TEST(TextData, RefusesWindowsThatTheModelCannotReadOrThatLeaveTokensOut) {
  const Data data;
  data.write("test.txt", std::string(200, 'a'));
  const ModelConfig config = bytes_config(Family::gpt2, Task::causal_lm);
  EXPECT_EQ(error_of([&] { data.read(config, "test", "auto", 17); }),
            "[data] length: saw 17, needs at most the model's context of 16 tokens");
  DatasetSource source;
  source.path = data.scratch.path();
  source.tokenizer = &*data.tokenizer;
  source.length = 8;
  source.stride = 9;
  EXPECT_EQ(error_of([&] { read_dataset(source, config); }),
            "[data] stride: saw 9, needs at most the length of 8 tokens: those between two windows "
            "would be left out");
}

// What learns from lines must not be judged by them.
TEST(TextData, DoesNotTakeOneFileForBothSplits) {
  const Data data;
  data.write("all.tsv", "good\t1\nbad\t0\n");
  const ModelConfig classes = bytes_config(Family::bert, Task::classification);
  DatasetSource source;
  source.path = data.scratch / "all.tsv";
  source.tokenizer = &*data.tokenizer;
  EXPECT_EQ(read_dataset(source, classes).size(), 2);
  source.split = "train";
  EXPECT_EQ(error_of([&] { read_dataset(source, classes); }),
            "[" + source.path.string() +
                "] data: saw one file, needs a folder with the files of both splits: what learns "
                "from it would be judged by the same lines");
  const Data running;
  running.write("train.txt", std::string(200, 'a'));
  EXPECT_EQ(running.error(bytes_config(Family::gpt2, Task::causal_lm)),
            "[] data: saw no file of the test split, needs test.txt");
}

TEST(TextData, RefusesATokenizerOfAnotherModel) {
  const Data data;
  data.write("test.tsv", "good\t1\n");
  ModelConfig config = bytes_config(Family::bert, Task::classification);
  config.vocabulary = 300;  // filled up
  EXPECT_NO_THROW(data.read(config));
  config.vocabulary = 30522;
  EXPECT_EQ(data.error(config),
            "[data] tokenizer: saw 256 tokens, needs about the model's vocabulary of 30522");
}

TEST(TextData, MasksTokensOfARunningTextAndKeepsWhatStoodThere) {
  const Data data;
  std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", text;
  for (int i = 0; i < 200; ++i) vocabulary += "word" + std::to_string(i) + "\n";
  for (int i = 0; i < 2000; ++i) text += "word" + std::to_string(i % 200) + " ";
  std::filesystem::create_directory(data.scratch / "bert");
  data.write("bert/vocab.txt", vocabulary);
  std::filesystem::create_directory(data.scratch / "data");
  data.write("data/test.txt", text);
  const Tokenizer tokenizer = read_tokenizer(data.scratch / "bert");
  ModelConfig config = bytes_config(Family::bert, Task::masked_lm);
  config.vocabulary = 205;
  DatasetSource source;
  source.path = data.scratch / "data";
  source.tokenizer = &tokenizer;
  source.length = 12;
  const Dataset read = read_dataset(source, config);
  ASSERT_EQ(read.size(), 200) << "windows of ten tokens between [CLS] and [SEP]";
  std::int64_t masked = 0;
  for (std::int64_t r = 0; r < read.size(); ++r) {
    const auto ids = row(read.inputs, r), labels = row(read.labels, r);
    EXPECT_EQ(ids.front(), 2);
    EXPECT_EQ(ids.back(), 3);
    std::int64_t here = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const bool asked = labels[i] != Dataset::no_label;
      EXPECT_EQ(ids[i] == 4, asked);
      const auto word =
          static_cast<std::int64_t>(5 + (10 * static_cast<std::size_t>(r) + i - 1) % 200);
      if (i > 0 && i + 1 < ids.size()) {
        EXPECT_EQ(asked ? labels[i] : ids[i], word);
      }
      here += asked;
    }
    EXPECT_GT(here, 0);
    masked += here;
  }
  EXPECT_NEAR(static_cast<double>(masked) / 2000, 0.15 + 0.85 * 0.1, 0.03);  // one at least in ten
  EXPECT_TRUE(read_dataset(source, config).inputs.equal(read.inputs));
  source.stride = 4;
  EXPECT_EQ(error_of([&] { read_dataset(source, config); }),
            "[data] stride: saw 4, needs 0: a masked language model reads both ways");
  source.stride = 0;
  source.tokenizer = &*data.tokenizer;
  config.vocabulary = 256;
  EXPECT_EQ(error_of([&] { read_dataset(source, config); }),
            "[data] tokenizer: saw no mask ([MASK], <mask>), needs one");
}

TEST(TextData, ReplacesWhatIsNoTextWhereThatIsWanted) {
  const Data data;
  const std::vector<std::int64_t> repaired = {'g', 0xef, 0xbf, 0xbd, 'd'};  // U+FFFD between
  const ModelConfig classes = bytes_config(Family::bert, Task::classification);
  data.write("train.tsv",
             "g\xff"
             "d\t1\n");
  EXPECT_EQ(row(data.read(classes, "train", "tsv", 0, true).inputs, 0), repaired);
  data.write("train.jsonl",
             "{\"text\": \"g\xff"
             "d\", \"label\": 1}\n");
  EXPECT_EQ(row(data.read(classes, "train", "jsonl", 0, true).inputs, 0), repaired);
  data.write("train.txt",
             "g\xff"
             "d");
  const ModelConfig causal = bytes_config(Family::gpt2, Task::causal_lm);
  EXPECT_EQ(row(data.read(causal, "train", "text", 4, true).inputs, 0), repaired);
}

TEST(TextData, SaysWhatIsWrongAndWhere) {
  const Data data;
  const ModelConfig classes = bytes_config(Family::bert, Task::classification);
  EXPECT_EQ(data.error(classes), "[] data: saw no file of the test split, needs test.tsv");
  data.write("test.tsv", "good\t1\nbad\t\n");
  EXPECT_EQ(data.error(classes), "[/test.tsv] line 2: label: saw nothing, needs 0..1");
  data.write("test.tsv", "good\t2\n");
  EXPECT_EQ(data.error(classes), "[/test.tsv] line 1: label: saw '2', needs 0..1");
  data.write("test.tsv", "good\n");
  EXPECT_EQ(data.error(classes),
            "[/test.tsv] line 1: saw 1 columns, needs text and label, or text, text and label");
  data.write("test.tsv", "g\xff\t1\n");
  EXPECT_EQ(data.error(classes), "[/test.tsv] byte 1: is no valid UTF-8; --lossy replaces it");
  data.write("test.tsv", "\xFF\xFEg\0\t\0001\0\n\0"s);
  EXPECT_EQ(data.error(classes),
            "[/test.tsv] saw a byte order mark of UTF-16, needs UTF-8 (iconv -f UTF-16 -t UTF-8)");
  data.write("test.tsv", "\t1\n");
  EXPECT_EQ(data.error(classes), "[/test.tsv] line 1: text: saw none, needs some");
  data.write("test.jsonl", "{\"text\": \"a\"}\n");
  EXPECT_EQ(data.error(classes, "jsonl"), "[/test.jsonl] line 1: label: saw nothing, needs 0..1");
  data.write("test.jsonl", "{\"label\": 1}\n");
  EXPECT_EQ(data.error(classes, "jsonl"), "[/test.jsonl] line 1: text: saw no text, needs one");
  data.write("test.jsonl", "[1]\n");
  EXPECT_EQ(data.error(classes, "jsonl"),
            "[/test.jsonl] line 1: saw no JSON object, needs one a line");
  const ModelConfig pairs = bytes_config(Family::bert, Task::embedding);
  data.write("test.tsv", "a\tb\tmuch\n");
  EXPECT_EQ(data.error(pairs, "tsv"), "[/test.tsv] line 1: score: saw 'much', needs a number");
  EXPECT_EQ(data.error(classes, "idx"),
            "[data] format: saw 'idx', needs tsv, jsonl, stsb, text or auto");
  const ModelConfig causal = bytes_config(Family::gpt2, Task::causal_lm);
  data.write("test.txt", "short");
  EXPECT_EQ(data.error(causal),
            "[] data: saw 5 tokens in the test split, needs more than one window of 16");
  ModelConfig small = causal;
  small.vocabulary = small.classes = 100;
  EXPECT_EQ(data.error(small),
            "[data] tokenizer: saw 256 tokens, needs at most the model's vocabulary of 100");
}

}  // namespace
}  // namespace cleave::model
