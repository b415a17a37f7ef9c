// HelpFormatter: how `--help` looks: usage, what the word does, options in two columns, examples.
//
//   auto formatter = std::make_shared<HelpFormatter>();
//   formatter->SetUsage("connect", "sockbroker connect [OPTIONS] HOST PORT");
//   app.formatter(formatter);
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

namespace sockbroker::client {

class HelpFormatter : public CLI::FormatterBase {
 public:
  // `word` is the command's name, "" the program's own. One line per way to use it.
  void SetUsage(const std::string& word, const std::string& lines) { usage_[word] = lines; }

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override;

 private:
  std::map<std::string, std::string> usage_;
};

// "-w, --timeout SECONDS".
std::string OptionNames(const CLI::Option* option);

}  // namespace sockbroker::client
