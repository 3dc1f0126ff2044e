#include "tools/commands/drawing.hpp"

#include <gtest/gtest.h>

#include "tests/optimizer/examples.hpp"

namespace cleave::tools {
namespace {

TEST(Bar, HasACellForEachPartOfAnAxis) {
  EXPECT_EQ(bar({{0, 12}}, 12, 4), "████");
  EXPECT_EQ(bar({{3, 6}}, 12, 4), "·█··");
  EXPECT_EQ(bar({{0, 1}}, 2, 5), "██▒··");
  EXPECT_EQ(bar({{0, 5}}, 12, 4), "█▒··");
  EXPECT_EQ(bar({{11, 12}}, 12, 4), "···░");
  EXPECT_EQ(bar({{0, 11}}, 12, 4), "███▒");
  EXPECT_EQ(bar({{0, 23}}, 24, 4), "███▓");
  EXPECT_EQ(bar({}, 12, 4), "····");
  EXPECT_EQ(bar({{2, 2}}, 0, 4), "····") << "of nothing";
}

TEST(Bar, ShowsTheMeanOfRangesThatDiffer) { EXPECT_EQ(bar({{0, 2}, {0, 4}}, 4, 4), "██▒▒"); }

TEST(Strip, HasNoMoreCellsThanUnits) {
  EXPECT_EQ(strip({0, 1}, 3, 8), "██·");
  EXPECT_EQ(strip({0, 1, 2, 5}, 8, 2), "▓░");
}

TEST(Drawing, ShowsRanges) {
  const auto teacher = examples::llama(4, 32, 4, 1, 40, 100, 64);
  plan::Plan galaxy = examples::galaxy_plan(teacher, 3);  // heads 8 : 1 : 2, rows 1 : 3 : 1
  galaxy.shape = {1, 50, 0};
  EXPECT_EQ(drawing(galaxy, 49),
            "  d0  layers       ██████████  0:4 of 4\n"
            "      heads        ███████▒··  0:3 of 4\n"
            "      MLP columns  ████░·····  0:17 of 40\n"
            "      vocabulary   ██········  0:20 of 100\n"
            "      rows         ██········  0:10 of 50\n"
            "  d1  layers       ██████████  0:4 of 4\n"
            "      heads        ··········  none\n"
            "      MLP columns  ····▓██░··  17:29 of 40\n"
            "      vocabulary   ··██████··  20:80 of 100\n"
            "      rows         ··██████··  10:40 of 50\n"
            "  d2  layers       ██████████  0:4 of 4\n"
            "      heads        ·······▒██  3:4 of 4\n"
            "      MLP columns  ·······▓██  29:40 of 40\n"
            "      vocabulary   ········██  80:100 of 100\n"
            "      rows         ········██  40:50 of 50\n");
}

TEST(Drawing, ShowsLayers) {
  plan::Plan line = examples::pipeline_plan(examples::llama(4, 32, 4, 1, 40, 100, 64), 2);
  for (auto& part : line.parts) part.share()->vocabulary = {0, 100};
  EXPECT_EQ(drawing(line, 20),
            "  d0  layers       ██████··  0:3 of 4\n"
            "      heads        ████████  0:4 of 4\n"
            "      MLP columns  ████████  0:40 of 40\n"
            "      vocabulary   ████████  0:100 of 100\n"
            "  d1  layers       ······██  3:4 of 4\n"
            "      heads        ████████  0:4 of 4\n"
            "      MLP columns  ████████  0:40 of 40\n"
            "      vocabulary   ████████  0:100 of 100\n");
}

TEST(Drawing, SaysWhereLayersDiffer) {
  plan::Plan plan = examples::galaxy_plan(examples::vit(2, 32, 4, 28, 4, 1, 10), 2);
  plan.parts[0].share()->layers[1].heads.end -= 1;
  plan.parts[1].share()->layers[1].heads.begin -= 1;
  const std::string text = drawing(plan, 80);
  EXPECT_NE(text.find("differ by layer\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("vocabulary"), std::string::npos) << "of images";
}

}  // namespace
}  // namespace cleave::tools
