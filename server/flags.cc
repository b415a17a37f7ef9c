#include "server/flags.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/listen_address.h"
#include "sockbroker/version.h"

namespace sockbroker::server {
namespace {

constexpr char kHelp[] =
    R"(Usage: sockbrokerd [OPTION]...

Owns sockets for other programs. They open, accept, read and write them over gRPC (sockbroker.v1) in
the words of Python's asyncio streams, and may crash, restart and carry on: the sockets stay.

When it is ready it prints one line per listener on stdout, with the port that 0 became:
  sockbrokerd listening on unix:/run/user/1000/sockbroker/sockbroker.sock

Where to be reached:
  -l, --listen ADDRESS      May be given several times.
                              unix:PATH       a Unix socket: for the broker's own user and root only.
                                              The directory is made if it is missing (0700).
                              HOST:PORT       TCP; HOST is an IP address ([::1] for IPv6), or localhost,
                                              which is 127.0.0.1. PORT 0: a free one. It speaks mutual
                                              TLS, or on loopback plain TCP (--insecure-loopback).
                              fd:NAME         a listening socket of systemd's, by its name in
                                              LISTEN_FDNAMES (FileDescriptorName=).
                            Without mutual TLS it refuses to listen beyond loopback.
                            Default: unix:$XDG_RUNTIME_DIR/sockbroker/sockbroker.sock; for root
                            unix:/run/sockbroker/sockbroker.sock.
      --insecure-loopback   Allow plain TCP on loopback. Every user of this machine can then use the
                            broker's rights; such callers get no Unix sockets and no inherited ones.
                            Default: off.
      --tls-cert FILE       Mutual TLS (mTLS) for TCP listeners, but for those on loopback when
                            --insecure-loopback is given too; Unix sockets stay as they are. The broker's
                            certificate with its intermediates, PEM.
      --tls-key FILE        Its private key, PEM.
      --tls-client-ca FILE  Who vouches for clients, PEM: without a certificate of theirs nobody gets in.
                            A client is who the first URI in its certificate's subject alternative names
                            says, else the first DNS name. The three go together, and are read again when
                            they change, for new connections.
      --allow-all           Let clients with a certificate open and serve whatever the broker's own user
                            could, Unix sockets and inherited ones too. Default: off, they may open
                            nothing.

What clients get:
      --lease DURATION      How long an untouched connection or server is kept when its client did not
                            say; 1s to 24h. Default: 60s.
      --max-connections N   Connections of all clients together. Default: 0, what descriptors allow:
                            the hard limit (ulimit -Hn) less a tenth, at least 256, which stay reserved
                            for the way in to the broker.
      --max-servers N       Likewise, servers. Default: 0.
      --buffer-memory SIZE  What is held for sessions, in each direction: bytes read and not taken by the
                            client, and what clients may send. 64KiB to 1TiB; a number alone is bytes.
                            Every bound connection has 8 KiB of it, the rest goes to the busy ones.
                            Default: an eighth of the machine's memory, at least 256MiB.
      --buffer-memory-per-principal SIZE
                            Of that, for one principal. Default: half.
      --buffer-memory-per-connection SIZE
                            Of that, for one connection. Default: 16MiB.
      --broker-id TEXT      The same text gives handles the same broker id, so that a client can tell a
                            restarted broker (LOST) from another one (WRONG_BROKER). Default: made of
                            the machine's id, its host name and the listeners' addresses.
      --tls-store DIR       Key material that clients may name instead of sending it: NAME.crt (with
                            intermediates), NAME.key, NAME.ca. Default: none.
      --tls-key-log FILE    Append the secrets of every TLS connection the broker makes or takes for its
                            clients, for Wireshark. For debugging: whoever has the file reads everything.
      --loops N             Event loops, one thread each; 1 to 1024. Default: one per core.

How it ends:
      --drain-timeout DURATION
                            SIGTERM and SIGINT drain: nothing new is opened, health says NOT_SERVING,
                            what is written is flushed and everything is closed; what is not flushed in
                            this time is reset. A second signal ends the broker at once. Default: 8s.

What it says:
      --log-level LEVEL     trace, debug, info, warn, error or off, on stderr. At info and below there is
                            an audit line (JSON) per open, refusal and close; never payload.
                            Default: info.
      --log-format FORMAT   text, or json: one object per line. Default: text.
  -V, --version             Print the version.
  -h, --help                Print this.

DURATION is a number with a unit (500ms, 8s, 2m, 1h) or seconds (8).

Examples:
  sockbrokerd
      For yourself, on the default Unix socket. `sockbroker ls` finds it there.
  sockbrokerd --listen unix:/srv/broker/b.sock --listen 127.0.0.1:0 --insecure-loopback
      On two addresses; the second with a free port, printed when ready.
  sockbrokerd --listen 0.0.0.0:7400 --tls-cert b.crt --tls-key b.key --tls-client-ca ca.crt --allow-all
      For other machines. `sockbroker -b HOST:7400 --broker-cacert ca.crt --broker-cert me.crt
      --broker-key me.key ls` gets in.
  sockbrokerd --lease 10m --drain-timeout 30s --log-format json
      Clients may be away for ten minutes; the end may take half a minute.
  systemd-socket-activate -l 8080 --fdname=web sockbrokerd
      Offers the listening socket "web" to clients: StartServer(sock="web").
  grpcurl -plaintext -unix $XDG_RUNTIME_DIR/sockbroker/sockbroker.sock list
      What it serves; reflection and grpc.health.v1 are on.

Environment:
  XDG_RUNTIME_DIR           Where the default socket is (not for root); if not set, /run/user/UID.
  LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES
                            Sockets handed over at the start, sd_listen_fds(3).
  NOTIFY_SOCKET             Who is told READY=1 when all listeners serve, and when a drain begins
                            STOPPING=1 and how long it may take: systemd's Type=notify, sd_notify(3).

Exit status:
  0      drained after a signal
  1      it could not start, or could not end in time
  2      a mistake on the command line
  128+N  ended at once by a second signal, number N (SIGINT 130, SIGTERM 143)
)";

bool ParseDuration(const std::string& text, absl::Duration* out) {
  double seconds;
  if (absl::SimpleAtod(text, &seconds)) {
    *out = absl::Seconds(seconds);
    return true;
  }
  return absl::ParseDuration(text, out);
}

// An option whose text `take` turns into a value; false: it is not `what`. CLI11's own checks would
// not do: numbers that are too large become the largest there is, and their sentences are long.
void Add(CLI::App* app, const std::string& name, const std::string& what,
         std::function<bool(std::string text)> take) {
  app->add_option_function<std::string>(
      name, [name, what, take = std::move(take)](const std::string& text) {
        if (!take(text)) {
          throw CLI::ValidationError(name, absl::StrCat("'", text, "' is not ", what));
        }
      });
}

void AddDuration(CLI::App* app, const std::string& name, absl::Duration least, absl::Duration most,
                 absl::Duration* out) {
  Add(app, name,
      absl::StrCat("a duration from ", absl::FormatDuration(least), " to ",
                   absl::FormatDuration(most), ", such as 500ms, 8s or 2m"),
      [=](const std::string& text) {
        // Not so written that NaN passes.
        return ParseDuration(text, out) && *out >= least && *out <= most;
      });
}

template <typename T>
void AddNumber(CLI::App* app, const std::string& name, T least, T most, T* out) {
  Add(app, name, absl::StrCat("a number from ", least, " to ", most), [=](const std::string& text) {
    return absl::SimpleAtoi(text, out) && *out >= least && *out <= most;
  });
}

// Bytes.
void AddSize(CLI::App* app, const std::string& name, std::size_t* out) {
  Add(app, name, "a size from 64KiB to 1TiB, such as 16MiB", [=](std::string text) {
    try {
      CLI::AsSizeValue(/*kb_is_1000=*/false)(text);  // makes it a number without a unit
    } catch (const CLI::ParseError&) {
      return false;
    }
    return absl::SimpleAtoi(text, out) && *out >= std::size_t{64} << 10 &&
           *out <= std::size_t{1} << 40;
  });
}

template <typename T>
void AddChoice(CLI::App* app, const std::string& name,
               std::vector<std::pair<std::string, T>> choices, T* out) {
  const auto text_of = [](std::string* list, const auto& choice) { list->append(choice.first); };
  Add(app, name, absl::StrCat("one of ", absl::StrJoin(choices, ", ", text_of)),
      [choices, out](const std::string& text) {
        for (const auto& [choice, value] : choices) {
          if (choice == text) *out = value;
          if (choice == text) return true;
        }
        return false;
      });
}

// Into `flags->listen`. All are looked at before one is opened: a mistake in the last must not
// disturb what is there.
absl::Status TakeListenAddresses(const std::vector<std::string>& texts, Flags* flags) {
  for (const std::string& text : texts) {
    absl::StatusOr<ListenAddress> address = ParseListenAddress(text, flags->listen_policy());
    if (!address.ok()) return address.status();
    const bool any_port = address->address.is_ip() && address->address.port() == 0;
    const auto same = [&](const ListenAddress& other) {
      return ToString(other) == ToString(*address);
    };
    if (!any_port && absl::c_any_of(flags->listen, same)) {
      return absl::InvalidArgumentError(absl::StrCat("--listen ", text, " is there twice"));
    }
    flags->listen.push_back(*std::move(address));
  }
  return absl::OkStatus();
}

// What a start with some of the flags for mutual TLS lacks: "" with all or none.
std::string MissingTlsFlags(const Flags& flags) {
  std::vector<std::string> missing;
  if (flags.tls_cert.empty()) missing.emplace_back("--tls-cert");
  if (flags.tls_key.empty()) missing.emplace_back("--tls-key");
  if (flags.tls_client_ca.empty()) missing.emplace_back("--tls-client-ca");
  return missing.size() == 3 ? "" : absl::StrJoin(missing, ", ");
}

}  // namespace

std::string HelpText() { return kHelp; }

std::variant<Flags, int> ParseFlags(int argc, const char* const* argv) {
  Flags flags;
  bool help = false;
  bool version = false;
  CLI::App app;
  app.set_help_flag("");
  app.add_flag("-h,--help", help);
  app.add_flag("-V,--version", version);
  std::vector<std::string> listen;
  app.add_option("-l,--listen", listen)->expected(1)->take_all();
  app.add_flag("--insecure-loopback", flags.insecure_loopback);
  app.add_option("--tls-cert", flags.tls_cert);
  app.add_option("--tls-key", flags.tls_key);
  app.add_option("--tls-client-ca", flags.tls_client_ca);
  app.add_flag("--allow-all", flags.allow_all);
  AddDuration(&app, "--drain-timeout", absl::ZeroDuration(), absl::Hours(24), &flags.drain_timeout);
  AddDuration(&app, "--lease", absl::Seconds(1), absl::Hours(24), &flags.lease);
  AddNumber(&app, "--loops", 1, 1024, &flags.loops);
  app.add_option("--broker-id", flags.broker_id);
  app.add_option("--tls-store", flags.tls_store)->check(CLI::ExistingDirectory);
  app.add_option("--tls-key-log", flags.tls_key_log);
  // No system has more descriptors than int has values.
  constexpr std::size_t kMostDescriptors = std::numeric_limits<int>::max();
  AddNumber(&app, "--max-connections", std::size_t{0}, kMostDescriptors, &flags.max_connections);
  AddNumber(&app, "--max-servers", std::size_t{0}, kMostDescriptors, &flags.max_servers);
  AddSize(&app, "--buffer-memory", &flags.buffer_memory);
  AddSize(&app, "--buffer-memory-per-principal", &flags.buffer_memory_per_principal);
  AddSize(&app, "--buffer-memory-per-connection", &flags.buffer_memory_per_connection);
  AddChoice(&app, "--log-level",
            {{"trace", spdlog::level::trace},
             {"debug", spdlog::level::debug},
             {"info", spdlog::level::info},
             {"warn", spdlog::level::warn},
             {"error", spdlog::level::err},
             {"off", spdlog::level::off}},
            &flags.log_level);
  AddChoice(&app, "--log-format", {{"text", LogFormat::kText}, {"json", LogFormat::kJson}},
            &flags.log_format);
  const auto mistake = [](absl::string_view what) {
    std::cerr << "sockbrokerd: " << what << "\nsockbrokerd --help says what there is.\n";
    return kExitUsage;
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return mistake(error.what());
  }
  if (help) {
    std::cout << HelpText() << std::flush;
    return 0;
  }
  if (version) {
    std::cout << "sockbrokerd " << kVersion << "\n" << std::flush;
    return 0;
  }
  if (const std::string missing = MissingTlsFlags(flags); !missing.empty()) {
    return mistake(
        absl::StrCat("--tls-cert, --tls-key and --tls-client-ca go together; missing: ", missing));
  }
  if (listen.empty()) {
    const absl::StatusOr<std::string> path = DefaultListenPath();
    if (!path.ok()) {
      std::cerr << "sockbrokerd: " << path.status().message() << "\n";
      return kExitFailure;
    }
    listen.push_back(absl::StrCat("unix:", *path));
  }
  if (absl::Status status = TakeListenAddresses(listen, &flags); !status.ok()) {
    return mistake(status.message());
  }
  return flags;
}

}  // namespace sockbroker::server
