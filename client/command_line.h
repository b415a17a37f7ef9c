// CommandLine: what `sockbroker` understands: its words, their options, their help.
//
//   CommandLine line;
//   CommandLine::Outcome outcome = line.Parse({"connect", "-v", "127.0.0.1", "80"});
//   if (outcome.run) ... line.word == "connect", line.connect.verbose
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/attach_command.h"
#include "client/broker_tls.h"
#include "client/close_command.h"
#include "client/connect_command.h"
#include "client/forward_command.h"
#include "client/list_commands.h"
#include "client/listen_command.h"
#include "client/ping_command.h"
#include "client/watch_command.h"

namespace CLI {
class App;
}

namespace sockbroker::client {

class CommandLine {
 public:
  struct Outcome {
    // Whether there is something to do; else these are the last words.
    bool run = false;
    int exit_status = 0;
    std::string out;
    // Without "sockbroker: ".
    std::string error;
  };

  CommandLine();
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  // Once; without the program's name.
  Outcome Parse(const std::vector<std::string>& arguments);

  // What was asked for: the word, and the options of that word.
  std::string word;
  std::string broker;
  BrokerTlsFiles broker_tls;
  AttachFlags attach;
  ConnectOptions connect;
  ListenOptions listen;
  ForwardOptions forward;
  ListOptions list;
  CloseOptions close;
  WatchOptions watch;
  PingOptions ping;
  std::string info_handle;
  bool info_json = false;
  std::string completion_shell;

  // Whether what the word says on stderr is to be JSON.
  bool has_json_notes() const {
    return (word == "attach" && attach.json) || (word == "connect" && connect.json) ||
           (word == "listen" && listen.json) || (word == "forward" && forward.json);
  }

  // For completion and tests: everything there is.
  const CLI::App& app() const { return *app_; }

 private:
  void AddConnect();
  void AddAttach();
  void AddListen();
  void AddForward();
  void AddLists();
  void AddInfo();
  void AddClose();
  void AddWatch();
  void AddPing();
  void AddCompletion();
  void AddHelp();
  CLI::App* AddWord(const std::string& name, const std::string& description,
                    const std::string& usage, const std::string& examples);
  Outcome Misuse(const std::string& text) const;
  // Why the parser would not have it, with what was probably meant.
  std::string Explain(const std::vector<std::string>& arguments,
                      const std::string& parser_text) const;

  std::unique_ptr<CLI::App> app_;
  std::string help_word_;
};

}  // namespace sockbroker::client
