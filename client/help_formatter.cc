#include "client/help_formatter.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace sockbroker::client {
namespace {

constexpr std::size_t kColumn = 28;
constexpr std::size_t kWidth = 96;

// "  left   right", the right side wrapped in its column.
std::string Row(const std::string& left, const std::string& right) {
  std::string out = absl::StrCat("  ", left);
  if (out.size() + 2 > kColumn) {
    out += "\n";
    out.append(kColumn, ' ');
  } else {
    out.append(kColumn - out.size(), ' ');
  }
  std::size_t column = kColumn;
  bool first = true;
  for (const absl::string_view word : absl::StrSplit(right, ' ')) {
    if (!first && column + 1 + word.size() > kWidth) {
      out += "\n";
      out.append(kColumn, ' ');
      column = kColumn;
      first = true;
    }
    if (!first) {
      out += ' ';
      ++column;
    }
    out.append(word.data(), word.size());
    column += word.size();
    first = false;
  }
  return out + "\n";
}

std::string Options(const CLI::App* app, const std::string& title) {
  std::string out;
  for (const CLI::Option* option : app->get_options(
           [](const CLI::Option* o) { return o->nonpositional() && !o->get_group().empty(); })) {
    out += Row(OptionNames(option), option->get_description());
  }
  return out.empty() ? out : absl::StrCat("\n", title, ":\n", out);
}

}  // namespace

std::string OptionNames(const CLI::Option* option) {
  std::vector<std::string> names;
  for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  std::string text = absl::StrJoin(names, ", ");
  // Without a short name, the long ones stand in line with the others.
  if (option->get_snames().empty()) text = "    " + text;
  if (option->get_items_expected_max() > 0) absl::StrAppend(&text, " ", option->get_type_name());
  return text;
}

std::string HelpFormatter::make_help(const CLI::App* app, std::string /*name*/,
                                     CLI::AppFormatMode /*mode*/) const {
  const bool whole = app->get_parent() == nullptr;
  std::string out;
  if (const auto usage = usage_.find(whole ? "" : app->get_name()); usage != usage_.end()) {
    absl::string_view lead = "Usage: ";
    for (const absl::string_view line : absl::StrSplit(usage->second, '\n')) {
      absl::StrAppend(&out, lead, line, "\n");
      lead = "       ";
    }
    out += "\n";
  }
  absl::StrAppend(&out, app->get_description(), "\n");
  const std::vector<const CLI::App*> words =
      app->get_subcommands([](const CLI::App*) { return true; });
  if (!words.empty()) {
    out += "\nCommands:\n";
    for (const CLI::App* word : words) {
      // The first sentence.
      const std::string description = word->get_description();
      out += Row(word->get_name(), description.substr(0, description.find(". ")));
    }
  }
  out += Options(app, "Options");
  if (!app->get_footer().empty()) absl::StrAppend(&out, "\n", app->get_footer(), "\n");
  return out;
}

}  // namespace sockbroker::client
