#include "client/completion.h"

#include <CLI/CLI.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/starttls.h"

namespace sockbroker::client {
namespace {

struct OptionModel {
  std::vector<std::string> names;
  std::string description;
  // What its value is called; empty for a flag.
  std::string value;
};

struct WordModel {
  std::string name;
  std::string description;
  std::vector<OptionModel> options;
  // What stands without an option, as in its help: "HOST PORT", "HANDLE".
  std::string positional;
};

// Long descriptions are for --help: up to the first clause's end.
std::string Brief(const std::string& text) {
  return text.substr(
      0, std::min({text.find(": "), text.find("; "), text.find(". "), text.find(" (")}));
}

std::vector<OptionModel> OptionsOf(const CLI::App& app) {
  std::vector<OptionModel> options;
  for (const CLI::Option* option :
       app.get_options([](const CLI::Option* o) { return o->nonpositional(); })) {
    OptionModel model;
    for (const std::string& name : option->get_snames()) model.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) model.names.push_back("--" + name);
    model.description = Brief(option->get_description());
    if (option->get_items_expected_max() > 0) model.value = option->get_type_name();
    options.push_back(std::move(model));
  }
  return options;
}

std::vector<WordModel> WordsOf(const CLI::App& app) {
  std::vector<WordModel> words;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    WordModel word;
    word.name = sub->get_name();
    word.description = sub->get_description();
    word.options = OptionsOf(*sub);
    for (const CLI::Option* option :
         sub->get_options([](const CLI::Option* o) { return o->get_positional(); })) {
      // A check adds its own behind a colon.
      word.positional = option->get_type_name().substr(0, option->get_type_name().find(':'));
    }
    words.push_back(std::move(word));
  }
  return words;
}

std::string AllNames(const std::vector<OptionModel>& options) {
  std::vector<std::string> names;
  for (const OptionModel& option : options)
    names.insert(names.end(), option.names.begin(), option.names.end());
  return absl::StrJoin(names, " ");
}

std::string WordNames(const std::vector<WordModel>& words) {
  return absl::StrJoin(words, " ",
                       [](std::string* out, const WordModel& word) { out->append(word.name); });
}

// What a value can be.
enum class Kind { kFlag, kHandle, kFile, kProtocol, kOther };

Kind KindOf(const OptionModel& option) {
  if (option.value.empty()) return Kind::kFlag;
  if (option.value == "HANDLE") return Kind::kHandle;
  if (option.value == "FILE") return Kind::kFile;
  if (option.value == "PROTOCOL") return Kind::kProtocol;
  return Kind::kOther;
}

std::string Protocols() { return absl::StrJoin(StartTlsProtocols(), " "); }

// The options whose values are of one kind, as a pattern of `case`; empty if none.
std::string WithValue(const WordModel& word, const std::vector<OptionModel>& global, Kind kind) {
  std::vector<std::string> names;
  for (const std::vector<OptionModel>* options : {&word.options, &global}) {
    for (const OptionModel& option : *options) {
      if (KindOf(option) != kind) continue;
      names.insert(names.end(), option.names.begin(), option.names.end());
    }
  }
  return absl::StrJoin(names, "|");
}

std::string Bash(const std::vector<WordModel>& words, const std::vector<OptionModel>& global) {
  std::string out = absl::StrCat(
      R"(# bash completion for sockbroker; made by `sockbroker completion bash`.
_sockbroker_handles() {
  "${COMP_WORDS[0]}" ls -q 2>/dev/null
  "${COMP_WORDS[0]}" servers -q 2>/dev/null
}

_sockbroker() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} word= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      -b | --broker | --broker-cacert | --broker-cert | --broker-key) ((i++)) ;;
      -*) ;;
      *)
        word=${COMP_WORDS[i]}
        break
        ;;
    esac
  done
  COMPREPLY=()
  if [[ $prev == --broker-cacert || $prev == --broker-cert || $prev == --broker-key ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
    return
  fi
  case $word in
    '')
      [[ $prev == -b || $prev == --broker ]] && return
      COMPREPLY=($(compgen -W ')",
      WordNames(words), " ", AllNames(global), R"(' -- "$cur"))
      ;;
)");
  for (const WordModel& word : words) {
    absl::StrAppend(&out, "    ", word.name, ")\n");
    std::string cases;
    for (const auto& [kind, offers] :
         {std::pair{Kind::kHandle, std::string("-W \"$(_sockbroker_handles)\"")},
          std::pair{Kind::kFile, std::string("-f")},
          std::pair{Kind::kProtocol, absl::StrCat("-W '", Protocols(), "'")}}) {
      const std::string names = WithValue(word, global, kind);
      if (names.empty()) continue;
      absl::StrAppend(&cases, "        ", names, ")\n          COMPREPLY=($(compgen ", offers,
                      " -- \"$cur\"))\n          return\n          ;;\n");
    }
    if (const std::string names = WithValue(word, global, Kind::kOther); !names.empty()) {
      absl::StrAppend(&cases, "        ", names, ") return ;;\n");
    }
    if (!cases.empty()) absl::StrAppend(&out, "      case $prev in\n", cases, "      esac\n");
    absl::StrAppend(&out, "      if [[ $cur == -* ]]; then\n        COMPREPLY=($(compgen -W '",
                    AllNames(word.options), " ", AllNames(global), "' -- \"$cur\"))\n");
    if (word.positional == "HANDLE") {
      out +=
          "      else\n        COMPREPLY=($(compgen -W \"$(_sockbroker_handles)\" -- \"$cur\"))\n";
    } else if (word.positional == "SHELL") {
      out += "      else\n        COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$cur\"))\n";
    } else if (word.positional == "COMMAND") {
      absl::StrAppend(&out, "      else\n        COMPREPLY=($(compgen -W '", WordNames(words),
                      "' -- \"$cur\"))\n");
    } else if (!word.positional.empty()) {
      // A path behind -U, however the flag is written; else a host's name.
      out +=
          "      elif [[ \" ${COMP_WORDS[*]} \" =~ \\ (-[a-zA-Z46]*U[a-zA-Z46]*|--unix)\\  ]]; "
          "then\n"
          "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
          "      else\n        COMPREPLY=($(compgen -A hostname -- \"$cur\"))\n";
    }
    out += "      fi\n      ;;\n";
  }
  out += "  esac\n}\ncomplete -F _sockbroker sockbroker\n";
  return out;
}

// For zsh's _arguments: inside single quotes, where brackets and colons mean something.
std::string ZshText(const std::string& text) {
  return absl::StrReplaceAll(text, {{"'", "'\\''"}, {"[", "("}, {"]", ")"}, {":", "\\:"}});
}

std::string ZshOptions(const std::vector<OptionModel>& options, absl::string_view indent) {
  std::string out;
  for (const OptionModel& option : options) {
    std::string value;
    switch (KindOf(option)) {
      case Kind::kFlag:
        break;
      case Kind::kHandle:
        value = ":handle:_sockbroker_handles";
        break;
      case Kind::kFile:
        value = ":file:_files";
        break;
      case Kind::kProtocol:
        value = absl::StrCat(":protocol:(", Protocols(), ")");
        break;
      case Kind::kOther:
        value = absl::StrCat(":", ZshText(option.value), ":");
        break;
    }
    for (const std::string& name : option.names) {
      absl::StrAppend(&out, indent, "'*", name, "[", ZshText(option.description), "]", value,
                      "' \\\n");
    }
  }
  return out;
}

std::string Zsh(const std::vector<WordModel>& words, const std::vector<OptionModel>& global) {
  std::string out =
      R"zsh(#compdef sockbroker
# zsh completion for sockbroker; made by `sockbroker completion zsh`.
_sockbroker_handles() {
  local -a handles
  handles=(${(f)"$(sockbroker ls -q 2>/dev/null; sockbroker servers -q 2>/dev/null)"})
  compadd -a handles
}

_sockbroker_targets() {
  _alternative 'hosts:host:_hosts' 'files:path:_files'
}

_sockbroker_words() {
  local -a words_
  words_=(
)zsh";
  for (const WordModel& word : words) {
    absl::StrAppend(&out, "    '", word.name, ":", ZshText(word.description), "'\n");
  }
  absl::StrAppend(
      &out,
      "  )\n  _describe -t commands command words_\n}\n\n"
      "_sockbroker() {\n  local curcontext=$curcontext state line\n  _arguments -C \\\n",
      ZshOptions(global, "    "),
      "    '1:command:_sockbroker_words' '*::argument:->argument'\n"
      "  [[ $state == argument ]] || return\n  case $line[1] in\n");
  for (const WordModel& word : words) {
    std::string positional;
    if (word.positional == "HANDLE") {
      positional = "'*:handle:_sockbroker_handles'";
    } else if (word.positional == "SHELL") {
      positional = "'1:shell:(bash zsh fish)'";
    } else if (word.positional == "COMMAND") {
      positional = "'1:command:_sockbroker_words'";
    } else if (!word.positional.empty()) {
      positional = "'*:target:_sockbroker_targets'";
    }
    absl::StrAppend(&out, "    ", word.name, ")\n      _arguments \\\n",
                    ZshOptions(word.options, "        "), ZshOptions(global, "        "),
                    "        ", positional, "\n      ;;\n");
  }
  out +=
      "  esac\n}\n\nif [[ $funcstack[1] == _sockbroker ]]; then\n  _sockbroker \"$@\"\nelse\n"
      "  compdef _sockbroker sockbroker\nfi\n";
  return out;
}

std::string FishText(const std::string& text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}});
}

std::string FishOptions(const std::vector<OptionModel>& options, const std::string& condition) {
  std::string out;
  for (const OptionModel& option : options) {
    absl::StrAppend(&out, "complete -c sockbroker", condition);
    for (const std::string& name : option.names) {
      if (absl::StartsWith(name, "--")) {
        absl::StrAppend(&out, " -l ", name.substr(2));
      } else {
        absl::StrAppend(&out, " -s ", name.substr(1));
      }
    }
    switch (KindOf(option)) {
      case Kind::kFlag:
        break;
      case Kind::kHandle:
        absl::StrAppend(&out, " -x -a '(__sockbroker_handles)'");
        break;
      case Kind::kFile:
        absl::StrAppend(&out, " -r -F");
        break;
      case Kind::kProtocol:
        absl::StrAppend(&out, " -x -a '", Protocols(), "'");
        break;
      case Kind::kOther:
        absl::StrAppend(&out, " -x");
        break;
    }
    absl::StrAppend(&out, " -d '", FishText(option.description), "'\n");
  }
  return out;
}

std::string Fish(const std::vector<WordModel>& words, const std::vector<OptionModel>& global) {
  std::string out =
      R"(# fish completion for sockbroker; made by `sockbroker completion fish`.
function __sockbroker_handles
  sockbroker ls -q 2>/dev/null
  sockbroker servers -q 2>/dev/null
end

complete -c sockbroker -f
)";
  out += FishOptions(global, "");
  const std::string none = absl::StrCat("not __fish_seen_subcommand_from ", WordNames(words));
  for (const WordModel& word : words) {
    absl::StrAppend(&out, "complete -c sockbroker -n '", none, "' -a ", word.name, " -d '",
                    FishText(word.description), "'\n");
    const std::string condition = absl::StrCat(" -n '__fish_seen_subcommand_from ", word.name, "'");
    out += FishOptions(word.options, condition);
    if (word.positional == "HANDLE") {
      absl::StrAppend(&out, "complete -c sockbroker", condition, " -a '(__sockbroker_handles)'\n");
    } else if (word.positional == "SHELL") {
      absl::StrAppend(&out, "complete -c sockbroker", condition, " -a 'bash zsh fish'\n");
    } else if (word.positional == "COMMAND") {
      absl::StrAppend(&out, "complete -c sockbroker", condition, " -a '", WordNames(words), "'\n");
    } else if (!word.positional.empty()) {
      absl::StrAppend(&out, "complete -c sockbroker", condition, " -F\n");
    }
  }
  return out;
}

}  // namespace

std::string CompletionScript(const CLI::App& app, absl::string_view shell) {
  const std::vector<WordModel> words = WordsOf(app);
  const std::vector<OptionModel> global = OptionsOf(app);
  if (shell == "bash") return Bash(words, global);
  if (shell == "zsh") return Zsh(words, global);
  if (shell == "fish") return Fish(words, global);
  return "";
}

}  // namespace sockbroker::client
