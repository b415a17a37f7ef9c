// Text in columns, each as wide as its widest cell.
//
//   TextTable table({"HANDLE", "STATE"});
//   table.AddRow({"9f86d081", "open"});
//   table.Text();                        // two lines, without the last line's end
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace sockbroker::client {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header);
  // As many cells as the header has. Control characters are made visible.
  void AddRow(std::vector<std::string> cells);
  std::string Text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "5s", "3m12s", "2h05m", "4d03h": the two largest units. Negative (clocks differ) is "0s".
std::string AgeText(absl::Duration age);

}  // namespace sockbroker::client
