#include "tools/print.hpp"

#include <cmath>

#include <gtest/gtest.h>

namespace cleave::tools {
namespace {

TEST(Table, AlignsNumbersToTheRightAndTextToTheLeft) {
  Table table({"device", "latency"});
  table.row({"hub", "12 ms"}).row({"cam", "7 ms"});
  EXPECT_EQ(table.text(),
            "device  latency\n"
            "------  -------\n"
            "hub       12 ms\n"
            "cam        7 ms\n");
}

TEST(Table, CountsLettersNotBytes) {
  Table table({"a", "b"});
  table.row({"größe", "x"}).row({"klein", "y"});
  EXPECT_EQ(table.text(), "a      b\n-----  -\ngröße  x\nklein  y\n");
}

TEST(Table, QuotesCsvCellsThatNeedIt) {
  Table table({"what", "why"});
  table.row({"a,b", "says \"no\""});
  EXPECT_EQ(table.csv(), "what,why\n\"a,b\",\"says \"\"no\"\"\"\n");
}

TEST(Table, FillsShortRows) {
  Table table({"a", "b"});
  table.row({"x"});
  EXPECT_EQ(table.csv(), "a,b\nx,\n");
}

TEST(ProgressBar, IsSilentWhenNotOnATerminal) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar;
    EXPECT_TRUE(bar.callback()({"work", 1, 2, ""}));
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressBar, SaysRemarksAnywhereButNotForThoseWhoAreSilent) {
  base::Remarks remarks = {{"other_files", 3, "[data] 3 files", false}, {"lost", 1, "it is", true}};
  for (const bool shown : {true, false}) {
    testing::internal::CaptureStderr();
    {
      ProgressBar bar(shown);
      base::say(remarks, bar.callback());
    }
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              shown ? "[data] 3 files\nwarning: it is\n" : "");
  }
  EXPECT_EQ(to_json(remarks).at(1).dump(),
            R"({"count":1,"text":"it is","warning":true,"what":"lost"})");
}

TEST(Percent, ShowsWhatIsNotKnownAsADash) {
  EXPECT_EQ(percent(0.91234), "91.23 %");
  EXPECT_EQ(percent(std::nan("")), "–");
}

}  // namespace
}  // namespace cleave::tools
