#include "client/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/exit_status.h"
#include "client/help_formatter.h"
#include "client/starttls.h"
#include "client/suggestion.h"
#include "sockbroker/version.h"
#include "transport/utf8.h"

namespace sockbroker::client {
namespace {

constexpr char kProgramExamples[] =
    R"(HANDLE is what `sockbroker ls` shows; its first digits suffice, 4 or more.
`sockbroker COMMAND --help` explains a command, with examples.

Where the broker is: -b ADDRESS, else $SOCKBROKER_ADDRESS, else
$XDG_RUNTIME_DIR/sockbroker/sockbroker.sock, where /run/user/UID stands for the
variable if it is not set (root: /run/sockbroker/sockbroker.sock).
At HOST:PORT, with --broker-cacert (else $SOCKBROKER_CACERT) it is spoken to through
TLS, as --broker-cert and --broker-key (else $SOCKBROKER_CERT and $SOCKBROKER_KEY) say.

Exit status:
  0    it went well
  1    the broker or the network said no, or stdin or stdout failed; the reason is on stderr
  2    the command line was not understood
  3    the broker cannot be reached
  4    another client has taken the connection over
  130  ended by Ctrl-C (128 + the signal's number)
  141  nobody reads stdout any more

Examples:
  sockbroker connect 127.0.0.1 6379          # talk to a server
  sockbroker listen -k 8080 --exec 'cat'     # an echo server
  sockbroker forward -L 8080:intranet:80     # http://localhost:8080 is the broker's intranet
  sockbroker ls                              # what the broker holds for you
  sockbroker watch --json | jq .kind         # events, for a script)";

constexpr char kConnectExamples[] =
    R"(At the end of stdin our direction is closed (half-close), and the peer is read until its end too. At the peer's
end the rest of stdin is still sent, unless stdin is a terminal. Bytes are acknowledged to the broker only after
they were written to stdout, and after a broken link to the broker it goes on at the exact byte: nothing is lost or
doubled. A client that is killed leaves its connection to the broker, for --lease seconds: see `attach`.

With --tls the end of stdin is not told to the peer, because most would take it for the end of all; -N tells it (TLS
1.3), -q ends the connection. A FILE is read here and sent to the broker; store:NAME in its place is what the broker
has in its --tls-store. With --starttls what is sent in clear before TLS is not shown; see it end with -v.

Examples:
  printf 'PING\r\n' | sockbroker connect 127.0.0.1 6379
  sockbroker connect -C example.org 80             # type HTTP by hand, lines end as HTTP wants them
  sockbroker connect -U /run/app.sock < request
  sockbroker connect -zv localhost 20-25 80        # which ports answer
  sockbroker connect -w 3 db 5432 && echo up       # give up after 3 s
  sockbroker connect host 9000 < backup.tar > reply
  sockbroker connect --detach --lease 600 host 9000   # prints a handle for `sockbroker attach`
  sockbroker connect --tls -C example.org 443      # HTTPS by hand
  sockbroker connect --tls --cacert ca.crt --cert me.crt --key me.key db.internal 6380
  sockbroker connect --starttls smtp -Cv mail.example.org 587)";

constexpr char kAttachExamples[] =
    R"(What was written to stdout or FILE is acknowledged to the broker only then, so it still has whatever a client that
died has not stored. Where a connection stands is an offset: a byte's place in its stream, counted from its begin.

  -o FILE --continue    FILE holds the bytes from --base (0) on: goes on at its size, like curl -C -
  -i FILE --continue    FILE is what was being sent: goes on where the broker says that it got
  --from OFFSET         reads from there; without, at the first byte that nobody has taken

The end of stdin does not end our direction, the end of -i FILE does (-N, --no-half-close choose). When both directions
have ended the connection is closed; --detach leaves it. Ctrl-C, a stdout that nobody reads and a full disk leave it,
too, for its lease (connect --lease). A client whose connection is taken from it by --steal ends with status 4.

Examples:
  sockbroker attach 9f86                                    # stdin and stdout, where the last client stopped
  h=$(sockbroker connect --detach --lease 3600 host 9000)   # a connection for later
  sockbroker attach $h < request > reply
  sockbroker attach $h -o backup.tar --continue             # after a crash: the rest of the file
  sockbroker attach $h -i upload.tar --continue             # the same for what is sent
  sockbroker attach --steal $h                              # from a client that hangs)";

constexpr char kListenExamples[] =
    R"(Without -k it stops listening after the first connection, and ends with it. Where it listens is said on stderr
with -v, and always when PORT is 0: `Listening on HOST PORT`; with --json as a line of JSON.

A command run by --exec has the connection as stdin and stdout, and in its environment
  SOCKBROKER_PEERADDR, SOCKBROKER_PEERPORT    who connected (of a Unix socket the path)
  SOCKBROKER_SOCKADDR, SOCKBROKER_SOCKPORT    where
  SOCKBROKER_HANDLE, SOCKBROKER_ADDRESS       the connection, and the broker it lives in
and with --tls SOCKBROKER_TLS_VERSION, SOCKBROKER_TLS_SERVERNAME (SNI), SOCKBROKER_TLS_ALPN and
SOCKBROKER_TLS_PEER (the subject of the client's certificate). When it closes its stdout our direction ends; when it
ends, the connection does. --cert, --key and --client-ca take PEM files, which are read here and sent to the broker, or
store:NAME: what the broker has in its --tls-store.

Examples:
  sockbroker listen 8080 > received                 # one file from one client
  sockbroker listen -v 127.0.0.1 0 < page.html      # any free port; which is said on stderr
  sockbroker listen -k 2323 --exec 'while read -r l; do echo "$l, $SOCKBROKER_PEERADDR"; done'
  sockbroker listen -k -U /run/app.sock --exec 'cat' --max-conns 8
  sockbroker listen -k --tls --cert server.crt --key server.key 8443 --exec 'cat'
  sockbroker listen --tls --cert store:www --client-ca clients.crt 8443 > received)";

constexpr char kForwardExamples[] =
    R"(As ssh's -L, -R, -D and -W, with the broker in place of the far end: what -L and -D connect to and where -R listens
is the broker's side; -L and -D listen on this side, where -R connects to. BIND is the interface to listen on: without
`BIND:` it is loopback, `*:` and an empty one (`:8080:...`) are every interface. PORT 0 takes a free one, of IPv4 unless
BIND is an IPv6 address, which is said on stderr. IPv6 addresses stand in brackets; a PATH has a '/' in it or is @NAME.
Each may be given many times; all share one link to the broker.

When the link to the broker breaks, connections go on at the exact byte once it is back; new ones wait for it. Ctrl-C
ends all of them. The listener of a -R that was killed stays for 60 s; the same -R, started again, takes it up together
with who waits in it. With -v a line tells what goes through; -vv tells of every connection.

Examples:
  sockbroker forward -L 8080:intranet:80           # http://localhost:8080 is the broker's intranet
  sockbroker forward -L 5432:/run/postgresql/.s.PGSQL.5432 -L 6379:redis:6379
  sockbroker forward -L ./db.sock:db.internal:5432 # a Unix socket here (no colon in its path, or \:)
  sockbroker forward -L '*:8080:[fd00::5]:80'      # whoever reaches this machine may use it
  sockbroker forward -R 8080:localhost:3000        # the broker's port 8080 is the program on 3000 here
  sockbroker forward -D 1080 -v &                  # a SOCKS 5 proxy; names are the broker's to resolve
  curl --socks5-hostname localhost:1080 http://intranet/
  ssh -o ProxyCommand='sockbroker forward -W %h:%p' host.internal
  sockbroker forward --json -L 0:db:5432 2>&1 >/dev/null | head -1 | jq .port)";

constexpr char kListExamples[] =
    R"(STATE is open, peer-eof (the peer has ended its direction), eof-sent (we have ours), both-eof, closing or closed.
RX and TX are the bytes that came from the peer and that were written for it.

Examples:
  sockbroker ls
  sockbroker ls --label job=42 --json | jq -r .handle
  sockbroker close $(sockbroker ls -q --label job=42))";

constexpr char kServersExamples[] =
    R"(Examples:
  sockbroker servers
  sockbroker servers --json | jq -r '.sockets[].tcp.port'
  sockbroker ls --server 9f86                       # what one of them accepted)";

constexpr char kInfoExamples[] =
    R"(Examples:
  sockbroker info 9f86d081                          # over TLS: also what was agreed, and whose certificate
  sockbroker info 9f86 --json | jq .offsets
  sockbroker info 9f86 --json | jq -r '.tls.peer_certificates[0].not_after')";

constexpr char kCloseExamples[] =
    R"(A connection is flushed, then closed; with --abort it is reset and what was not sent is dropped. A server stops
listening; what it accepted lives on, unless --clients.

Examples:
  sockbroker close 9f86d081
  sockbroker close --abort 9f86 4c2a
  sockbroker close --clients 77d0                   # a server, and all it accepted)";

constexpr char kWatchExamples[] =
    R"(It begins with what exists, then goes on until Ctrl-C. When the broker cannot be reached it waits for it, and goes
on behind the last event; what could not be caught up with is said as `gap`.

Examples:
  sockbroker watch
  sockbroker watch --json | jq -r 'select(.kind == "closed") | .connection.close_reason')";

constexpr char kPingExamples[] =
    R"(It asks the broker's health service (grpc.health.v1). Status 0: it serves; 1: it is ending; 3: nobody answers.

Examples:
  sockbroker ping
  sockbroker ping -w 30 && ./start-the-clients      # as soon as there is a broker
  HEALTHCHECK CMD ["sockbroker", "ping"]            # in a Dockerfile)";

constexpr char kCompletionExamples[] =
    R"(Installed by `cmake --install` where bash, zsh and fish look for it. By hand:
  source <(sockbroker completion bash)
  sockbroker completion zsh > "${fpath[1]}/_sockbroker"
  sockbroker completion fish > ~/.config/fish/completions/sockbroker.fish)";

CLI::Validator NotNegative() {
  return {[](const std::string& text) {
            return absl::StartsWith(text, "-") ? "it must not be negative" : std::string();
          },
          ""};
}

// For what goes to the broker as a string: others would make messages that cannot be read.
CLI::Validator Text() {
  return {[](const std::string& text) {
            return IsUtf8(text) ? std::string() : "it must be text in UTF-8";
          },
          ""};
}

// CLI11 takes -1, and what has too many digits, for the largest number there is.
CLI::Validator Offset() {
  return NotNegative() & CLI::Validator(
                             [](const std::string& text) {
                               errno = 0;
                               (void)std::strtoull(text.c_str(), nullptr, 0);
                               return errno == ERANGE ? absl::StrCat("no stream has a byte ", text)
                                                      : "";
                             },
                             "");
}

// CLI11 would take nan and inf, too.
CLI::Validator Seconds() {
  return {[](const std::string& text) {
            double seconds = 0;
            return absl::SimpleAtod(text, &seconds) && std::isfinite(seconds)
                       ? std::string()
                       : absl::StrCat("'", text, "' is no number of seconds");
          },
          ""};
}

CLI::Validator NotEmpty() {
  return {[](const std::string& text) { return text.empty() ? "it must not be empty" : ""; }, ""};
}

// Of what is made; lists can be asked for a KEY alone.
CLI::Validator KeyAndValue() {
  return {[](const std::string& text) {
            return absl::StrContains(text, '=')
                       ? std::string()
                       : absl::StrCat("'", text, "' has no value: KEY=VALUE, which may be empty");
          },
          ""};
}

// The second argument of options that connect and listen share.
constexpr char kHalfClose[] =
    "End our direction at the end of stdin. It is the default (unlike nc's) but for TLS; "
    "--no-half-close leaves it open, for peers that take a half-close for the end";

std::shared_ptr<HelpFormatter> FormatterOf(const CLI::App& app) {
  return std::static_pointer_cast<HelpFormatter>(app.get_formatter());
}

// Null when there is no such command.
const CLI::App* FindWord(const CLI::App& app, const std::string& name) {
  const std::vector<const CLI::App*> found =
      app.get_subcommands([&](const CLI::App* word) { return word->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

// The names of an option as they are typed.
std::vector<std::string> LongNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

}  // namespace

CommandLine::CommandLine()
    : app_(std::make_unique<CLI::App>(
          "Drives the sockets that a broker owns: TCP, Unix and TLS connections and servers.",
          "sockbroker")) {
  app_->formatter(std::make_shared<HelpFormatter>());
  FormatterOf(*app_)->SetUsage("", "sockbroker [-b ADDRESS] COMMAND ...");
  app_->set_help_flag("-h,--help", "Show this help");
  app_->set_version_flag("-V,--version", absl::StrCat("sockbroker ", kVersion));
  app_->footer(kProgramExamples);
  app_->require_subcommand(1);
  // -b may stand behind the word, too.
  app_->fallthrough();
  app_->add_option("-b,--broker", broker, "Where the broker is: unix:PATH or HOST:PORT")
      ->type_name("ADDRESS");
  app_->add_option("--broker-cacert", broker_tls.ca,
                   "Speak TLS to HOST:PORT: who vouches for the broker, PEM")
      ->type_name("FILE");
  app_->add_option("--broker-cert", broker_tls.certificate,
                   "Who you are to the broker, with intermediates, PEM")
      ->type_name("FILE");
  app_->add_option("--broker-key", broker_tls.key, "The private key of --broker-cert, PEM")
      ->type_name("FILE");
  AddConnect();
  AddAttach();
  AddListen();
  AddForward();
  AddLists();
  AddInfo();
  AddClose();
  AddWatch();
  AddPing();
  AddCompletion();
  AddHelp();
}

CommandLine::~CommandLine() = default;

CLI::App* CommandLine::AddWord(const std::string& name, const std::string& description,
                               const std::string& usage, const std::string& examples) {
  CLI::App* app = app_->add_subcommand(name, description);
  app->footer(examples);
  app->fallthrough();
  FormatterOf(*app_)->SetUsage(name, usage);
  return app;
}

void CommandLine::AddConnect() {
  CLI::App* app = AddWord("connect", "Connect, and join the connection to stdin and stdout",
                          "sockbroker connect [OPTIONS] HOST PORT\n"
                          "sockbroker connect [OPTIONS] -U PATH\n"
                          "sockbroker connect -z [OPTIONS] HOST PORT|FIRST-LAST...",
                          kConnectExamples);
  app->add_option("target", connect.target)->type_name("HOST PORT");
  app->add_flag("-U,--unix", connect.unix_socket,
                "The target is the path of a Unix socket; @NAME is one in the abstract namespace");
  app->add_flag_function(
      "-N,--half-close,!--no-half-close", [this](int64_t count) { connect.half_close = count > 0; },
      kHalfClose);
  app->add_option("-q,--quit-after", connect.quit_after_input,
                  "Quit so long after the end of stdin, whatever the peer does; negative: never")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_option("-w,--timeout", connect.timeout,
                  "Give up when connecting, by way of the broker, takes longer; quit (status 0) "
                  "when nothing comes or "
                  "goes for so long")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_flag("-z,--scan", connect.scan,
                "Only see whether it can be connected to; status 0 if one port can");
  app->add_flag("-v,--verbose", connect.verbose, "Say on stderr how it goes");
  app->add_flag("-4,--ipv4", connect.ipv4, "IPv4 only");
  app->add_flag("-6,--ipv6", connect.ipv6, "IPv6 only");
  app->add_option("-s,--source", connect.source_address, "The broker's address to connect from")
      ->type_name("ADDRESS")
      ->check(Text());
  app->add_option("-p,--source-port", connect.source_port,
                  "The broker's port to connect from; without -s at any of its addresses")
      ->type_name("PORT");
  app->add_flag("-C,--crlf", connect.crlf, "Send each line feed as CR LF");
  app->add_flag("-n,--numeric", connect.numeric, "Look no name up: HOST and PORT are numbers");
  app->add_flag("-D,--detach", connect.detach,
                "Print the handle, and leave the connection open for `attach`");
  app->add_option("--lease", connect.lease,
                  "How long the broker keeps the connection when nobody has it; 60 by default")
      ->type_name("SECONDS")
      ->check(Seconds() & NotNegative());
  app->add_option("-l,--label", connect.labels, "A label for `ls` to find it by; up to 16")
      ->type_name("KEY=VALUE")
      ->check(Text())
      ->check(KeyAndValue())
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_flag("-j,--json", connect.json,
                "Say how it goes in JSON: on stderr; with -z on stdout, a line per port; with "
                "--detach on stdout, the connection");
  ClientTlsFlags& tls = connect.tls;
  app->add_flag("-t,--tls", tls.tls, "Speak TLS; the certificate must be HOST's, and good");
  app->add_option("--starttls", tls.starttls,
                  absl::StrCat("Begin in clear, ask for TLS as this protocol does, then speak it: ",
                               absl::StrJoin(StartTlsProtocols(), ", ")))
      ->type_name("PROTOCOL");
  app->add_option("--cacert", tls.ca, "Who vouches for the peer, PEM; else the system's roots")
      ->type_name("FILE");
  app->add_option("--cert", tls.certificate,
                  "Our certificate, with intermediates, PEM; the key may stand in it too")
      ->type_name("FILE");
  app->add_option("--key", tls.key, "The private key of --cert, PEM")->type_name("FILE");
  app->add_option("--servername", tls.server_name,
                  "Whom to ask for (SNI), and whom the certificate must be for, instead of HOST; "
                  "'': neither")
      ->type_name("NAME")
      ->check(Text());
  app->add_option("--alpn", tls.alpn, "Protocols to offer, the preferred first: h2,http/1.1")
      ->type_name("LIST")
      ->check(Text());
  app->add_flag("-k,--insecure", tls.insecure,
                "Take any certificate: whoever answers is believed to be HOST");
}

void CommandLine::AddAttach() {
  CLI::App* app = AddWord("attach", "Go on with a connection that the broker holds",
                          "sockbroker attach [OPTIONS] HANDLE\n"
                          "sockbroker attach [OPTIONS] HANDLE -o FILE --continue [--base OFFSET]\n"
                          "sockbroker attach [OPTIONS] HANDLE -i FILE --continue",
                          kAttachExamples);
  app->add_option("handle", attach.handle)->type_name("HANDLE")->required();
  app->add_flag("-S,--steal", attach.steal, "Take it from the client that has it");
  app->add_option("-W,--wait", attach.wait,
                  "How long to wait for another client to leave it (2): one that has just died may "
                  "seem to have it still")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_option("-o,--output", attach.output, "Write to this, instead of stdout")
      ->type_name("FILE");
  app->add_option("-i,--input", attach.input, "Send this, instead of stdin")->type_name("FILE");
  app->add_flag("-c,--continue", attach.go_on,
                "Go on where the files stand: behind what -o has, behind what was sent of -i");
  app->add_option("--base", attach.base, "The offset of the first byte in -o FILE; 0")
      ->type_name("OFFSET")
      ->check(Offset());
  app->add_option("--input-base", attach.input_base, "The offset of the first byte in -i FILE; 0")
      ->type_name("OFFSET")
      ->check(Offset());
  app->add_option("--from", attach.from, "Read from this offset on")
      ->type_name("OFFSET")
      ->check(Offset());
  app->add_flag("-D,--detach", attach.detach, "Leave the connection open at the end");
  app->add_flag_function(
      "-N,--half-close,!--no-half-close", [this](int64_t count) { attach.half_close = count > 0; },
      "End our direction at the end of what is sent. It is the default with -i, but for TLS");
  app->add_option("-q,--quit-after", attach.quit_after_input,
                  "Quit so long after the end of what is sent, whatever the peer does; negative: "
                  "never")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_option("-w,--timeout", attach.timeout,
                  "Quit (status 0) when nothing comes or goes for so long")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_flag("-C,--crlf", attach.crlf, "Send each line feed as CR LF");
  app->add_flag("-v,--verbose", attach.verbose, "Say on stderr how it goes");
  app->add_flag("-j,--json", attach.json, "Say on stderr how it goes, in JSON");
}

void CommandLine::AddListen() {
  CLI::App* app = AddWord("listen", "Accept connections, for stdin and stdout or a command",
                          "sockbroker listen [OPTIONS] [HOST] PORT\n"
                          "sockbroker listen [OPTIONS] -U PATH\n"
                          "sockbroker listen -k [OPTIONS] [HOST] PORT --exec COMMAND",
                          kListenExamples);
  app->add_option("target", listen.target)->type_name("[HOST] PORT");
  app->add_flag("-U,--unix", listen.unix_socket,
                "The target is the path of a Unix socket; @NAME is one in the abstract namespace");
  app->add_flag("-k,--keep-open", listen.keep,
                "Serve more than one: one after another, or with --exec at the same time");
  app->add_option("-e,--exec", listen.exec,
                  "Run this by sh for each connection, joined to its stdin and stdout")
      ->type_name("COMMAND")
      ->check(NotEmpty());
  app->add_option(
         "-m,--max-conns", listen.max_connections,
         "With -k --exec: how many at the same time (64); others wait in the kernel's backlog")
      ->type_name("N");
  app->add_flag_function(
      "-N,--half-close,!--no-half-close", [this](int64_t count) { listen.half_close = count > 0; },
      kHalfClose);
  app->add_option("-q,--quit-after", listen.quit_after_input,
                  "End a connection so long after the end of stdin; negative: never")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_option("-w,--timeout", listen.timeout,
                  "End a connection when nothing comes or goes for so long")
      ->type_name("SECONDS")
      ->check(Seconds());
  app->add_flag("-v,--verbose", listen.verbose, "Say on stderr how it goes");
  app->add_flag("-4,--ipv4", listen.ipv4, "IPv4 only");
  app->add_flag("-6,--ipv6", listen.ipv6, "IPv6 only");
  app->add_flag("-C,--crlf", listen.crlf, "Send each line feed as CR LF");
  app->add_flag("-n,--numeric", listen.numeric, "Look no name up: HOST and PORT are numbers");
  app->add_option("--lease", listen.lease,
                  "How long the broker keeps a connection when nobody has it; 60 by default")
      ->type_name("SECONDS")
      ->check(Seconds() & NotNegative());
  app->add_option("--name", listen.name, "A name for the server, shown by `servers`")
      ->type_name("NAME")
      ->check(Text());
  app->add_option("-l,--label", listen.labels,
                  "A label for `servers` and `ls` to find it by; up to 16")
      ->type_name("KEY=VALUE")
      ->check(Text())
      ->check(KeyAndValue())
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_flag("-j,--json", listen.json, "Say on stderr how it goes, in JSON");
  app->add_flag("-t,--tls", listen.tls.tls, "Speak TLS; needs --cert");
  app->add_option("--cert", listen.tls.certificate,
                  "Our certificate, with intermediates, PEM; the key may stand in it too")
      ->type_name("FILE");
  app->add_option("--key", listen.tls.key, "The private key of --cert, PEM")->type_name("FILE");
  app->add_option("--client-ca", listen.tls.client_ca,
                  "Demand a certificate of each client that this vouches for, PEM")
      ->type_name("FILE");
  app->add_option("--alpn", listen.tls.alpn, "Protocols to take, the preferred first: h2,http/1.1")
      ->type_name("LIST")
      ->check(Text());
}

void CommandLine::AddForward() {
  CLI::App* app = AddWord("forward", "Lead ports through the broker, as ssh -L, -R, -D and -W do",
                          "sockbroker forward [OPTIONS] -L|-R|-D|-W SPEC...", kForwardExamples);
  const auto add = [app](const std::string& names, std::vector<std::string>* to,
                         const std::string& text, const std::string& type) {
    app->add_option(names, *to, text)
        ->type_name(type)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  add("-L,--local", &forward.local,
      "Listen here; the broker connects each to HOST:HOSTPORT. A PATH of a Unix socket may stand "
      "for either end",
      "[BIND:]PORT:HOST:HOSTPORT");
  add("-R,--remote", &forward.remote,
      "The broker listens; each is connected to HOST:HOSTPORT from here. Likewise with PATHs",
      "[BIND:]PORT:HOST:HOSTPORT");
  add("-D,--dynamic", &forward.dynamic,
      "A SOCKS 5 proxy here: the broker connects to whatever its clients ask for", "[BIND:]PORT");
  app->add_option(
         "-W,--stdio", forward.stdio,
         "The broker connects; stdin and stdout are joined to it, until both ends are done")
      ->type_name("HOST:PORT");
  app->add_flag_function(
      "-v,--verbose", [this](int64_t count) { forward.verbose = static_cast<int>(count); },
      "Say on stderr where it listens and what goes through; -vv: every connection");
  app->add_option("-l,--label", forward.labels, "A label for `ls` to find them by; up to 16")
      ->type_name("KEY=VALUE")
      ->check(Text())
      ->check(KeyAndValue())
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_flag(
      "-j,--json", forward.json,
      "Say on stderr how it goes, in JSON: first where each listens, all -L, all -R, all -D");
}

void CommandLine::AddLists() {
  const auto add_common = [this](CLI::App* app) {
    app->add_option("-l,--label", list.labels,
                    "Only those with this label; KEY alone: with any value")
        ->type_name("KEY[=VALUE]")
        ->check(Text())
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app->add_flag("-a,--all", list.all, "Also closed ones that the broker remembers");
    app->add_flag("-q,--quiet", list.quiet, "Whole handles alone, one a line");
    app->add_flag("-j,--json", list.json, "One JSON object a line");
  };
  CLI::App* connections =
      AddWord("ls", "List your connections", "sockbroker ls [OPTIONS]", kListExamples);
  add_common(connections);
  connections->add_option("-s,--server", list.server, "Only what this server accepted")
      ->type_name("HANDLE");
  add_common(
      AddWord("servers", "List your servers", "sockbroker servers [OPTIONS]", kServersExamples));
}

void CommandLine::AddInfo() {
  CLI::App* app = AddWord("info", "Tell everything about one connection or server",
                          "sockbroker info [OPTIONS] HANDLE", kInfoExamples);
  app->add_option("handle", info_handle)->type_name("HANDLE")->required();
  app->add_flag("-j,--json", info_json, "One JSON object");
}

void CommandLine::AddClose() {
  CLI::App* app = AddWord("close", "Close connections and servers",
                          "sockbroker close [OPTIONS] HANDLE...", kCloseExamples);
  app->add_option("handle", close.handles)->type_name("HANDLE")->required();
  app->add_flag("-a,--abort", close.abort,
                "Reset instead of flushing (with --clients, what the server accepted)");
  app->add_flag("-c,--clients", close.clients, "With a server, also what it accepted");
}

void CommandLine::AddWatch() {
  CLI::App* app = AddWord("watch", "Tell what happens to your connections, as it happens",
                          "sockbroker watch [OPTIONS]", kWatchExamples);
  app->add_option("-l,--label", watch.labels,
                  "Only those with this label; KEY alone: with any value")
      ->type_name("KEY[=VALUE]")
      ->check(Text())
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_option("-s,--server", watch.server, "Only what this server accepted")
      ->type_name("HANDLE");
  app->add_flag("-j,--json", watch.json, "One JSON object a line");
}

void CommandLine::AddPing() {
  CLI::App* app = AddWord("ping", "Ask whether the broker serves, or wait until it does",
                          "sockbroker ping [OPTIONS]", kPingExamples);
  app->add_option("-w,--wait", ping.wait, "Wait so long for a broker that is not there yet")
      ->type_name("SECONDS")
      ->check(Seconds() & NotNegative());
}

void CommandLine::AddCompletion() {
  CLI::App* app = AddWord("completion", "Print a script that completes commands in a shell",
                          "sockbroker completion bash|zsh|fish", kCompletionExamples);
  app->add_option("shell", completion_shell)
      ->type_name("SHELL")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

void CommandLine::AddHelp() {
  CLI::App* app = AddWord("help", "Explain a command", "sockbroker help [COMMAND]",
                          "Example:\n  sockbroker help connect");
  app->add_option("command", help_word_)->type_name("COMMAND");
}

CommandLine::Outcome CommandLine::Misuse(const std::string& text) const {
  Outcome outcome;
  outcome.exit_status = kExitUsage;
  outcome.error = text;
  return outcome;
}

CommandLine::Outcome CommandLine::Parse(const std::vector<std::string>& arguments) {
  Outcome outcome;
  if (arguments.empty()) {
    outcome = Misuse("a command is missing; `sockbroker --help` lists them");
    return outcome;
  }
  try {
    // CLI11 takes them from the back.
    app_->parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    const std::vector<CLI::App*> words = app_->get_subcommands();
    outcome.out = (words.empty() ? app_.get() : words.front())->help();
    return outcome;
  } catch (const CLI::CallForVersion& version) {
    outcome.out = absl::StrCat(version.what(), "\n");
    return outcome;
  } catch (const CLI::ParseError& error) {
    return Misuse(Explain(arguments, error.what()));
  }
  word = app_->get_subcommands().front()->get_name();
  if (word == "help") {
    const CLI::App* topic = help_word_.empty() ? app_.get() : FindWord(*app_, help_word_);
    if (topic == nullptr) return Misuse(Explain({help_word_}, "no such command"));
    outcome.out = topic->help();
    return outcome;
  }
  outcome.run = true;
  return outcome;
}

std::string CommandLine::Explain(const std::vector<std::string>& arguments,
                                 const std::string& parser_text) const {
  // The first word that is no option, nor the value of one that stands before it.
  const CLI::App* known = nullptr;
  std::string first;
  for (std::size_t i = 0; i < arguments.size() && first.empty(); ++i) {
    if (arguments[i] == "-b" || arguments[i] == "--broker" || arguments[i] == "--broker-cacert" ||
        arguments[i] == "--broker-cert" || arguments[i] == "--broker-key") {
      ++i;
    } else if (!absl::StartsWith(arguments[i], "-")) {
      first = arguments[i];
      known = FindWord(*app_, first);
    }
  }
  const auto meant = [](const std::string& word, const std::vector<std::string>& candidates) {
    const std::string near = Suggest(word, candidates);
    return near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?");
  };
  if (first.empty()) return "a command is missing; `sockbroker --help` lists them";
  if (known == nullptr) {
    std::vector<std::string> words;
    for (const CLI::App* app : app_->get_subcommands([](const CLI::App*) { return true; })) {
      words.push_back(app->get_name());
    }
    const std::string hint = meant(first, words);
    return absl::StrCat("unknown command '", first, "'",
                        hint.empty() ? "; `sockbroker --help` lists them" : hint);
  }
  std::vector<std::string> options = LongNames(*known);
  for (const std::string& name : LongNames(*app_)) options.push_back(name);
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    const std::string name = argument.substr(0, argument.find('='));
    if (!absl::StartsWith(name, "--") || std::count(options.begin(), options.end(), name) > 0)
      continue;
    const std::string hint = meant(name, options);
    return absl::StrCat(
        "unknown option '", name, "'",
        hint.empty() ? absl::StrCat("; see `sockbroker ", first, " --help`") : hint);
  }
  return absl::StrCat(parser_text, "; see `sockbroker ", first, " --help`");
}

}  // namespace sockbroker::client
