#include "client/text_table.h"

#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

TEST(TextTable, ColumnsAreAsWideAsTheirWidestCell) {
  TextTable table({"A", "LONG", "C"});
  table.AddRow({"wide", "x", "1"});
  table.AddRow({"é", "y", "2"});
  EXPECT_EQ(table.Text(),
            "A     LONG  C\n"
            "wide  x     1\n"
            "é     y     2");
}

TEST(TextTable, ACellCannotCommandTheTerminal) {
  TextTable table({"A"});
  table.AddRow({"\x1b[31m\n"});
  EXPECT_EQ(table.Text(), "A\n\\x1b[31m ");
}

TEST(TextTable, AnAgeShowsItsTwoLargestUnits) {
  EXPECT_EQ(AgeText(absl::Seconds(-5)), "0s");
  EXPECT_EQ(AgeText(absl::Seconds(59)), "59s");
  EXPECT_EQ(AgeText(absl::Seconds(192)), "3m12s");
  EXPECT_EQ(AgeText(absl::Hours(2) + absl::Minutes(5)), "2h05m");
  EXPECT_EQ(AgeText(absl::Hours(99)), "4d03h");
}

}  // namespace
}  // namespace sockbroker::client
