#include "streams/resolver.h"

#include <ares.h>
#include <netdb.h>
#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams {
namespace {

absl::StatusOr<uint16_t> PortNumber(const Port& port, int flags) {
  int number = port.number();
  if (port.is_service() && !absl::SimpleAtoi(port.service(), &number)) {
    if ((flags & AI_NUMERICSERV) != 0) {
      return ResolveError(port.service(), "Name or service not known");
    }
    if (port.service().find('\0') != std::string::npos) {
      return absl::InvalidArgumentError("embedded null byte in the service's name");
    }
    servent entry;
    servent* found = nullptr;
    char buffer[2048];
    if (getservbyname_r(port.service().c_str(), "tcp", &entry, buffer, sizeof(buffer), &found) !=
            0 ||
        found == nullptr) {
      return ResolveError(port.service(), "Servname not supported for ai_socktype");
    }
    return ntohs(static_cast<uint16_t>(found->s_port));
  }
  if (number < 0 || number > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "port must be 0-65535, it is ", port.is_service() ? port.service() : absl::StrCat(number)));
  }
  return static_cast<uint16_t>(number);
}

// "127.1", "0177.0.0.1", "2130706433", "0x7f.0x1": old spellings of IPv4 addresses, of which every
// library reads its own address. No domain's last label is a number, so none of them is a name.
bool EndsInANumber(absl::string_view host) {
  absl::ConsumeSuffix(&host, ".");
  absl::string_view last = host.substr(host.rfind('.') + 1);
  const bool hex = absl::ConsumePrefix(&last, "0x") || absl::ConsumePrefix(&last, "0X");
  return (hex || !last.empty()) && std::all_of(last.begin(), last.end(), [&](char c) {
           return hex ? absl::ascii_isxdigit(c) : absl::ascii_isdigit(c);
         });
}

std::vector<SocketAddress> WithoutHost(bool passive, int family, uint16_t port) {
  std::vector<SocketAddress> addresses;
  // glibc's order: loopback prefers IPv6, the wildcard IPv4.
  const auto add = [&](int wanted, const char* host) {
    if (family == AF_UNSPEC || family == wanted) {
      addresses.push_back(*SocketAddress::FromIp(host, port));
    }
  };
  if (passive) {
    add(AF_INET, "0.0.0.0");
    add(AF_INET6, "::");
  } else {
    add(AF_INET6, "::1");
    add(AF_INET, "127.0.0.1");
  }
  return addresses;
}

// The words of getaddrinfo, which is what people know.
absl::string_view Describe(int ares_status) {
  switch (ares_status) {
    case ARES_ENOTFOUND:
    case ARES_EBADNAME:
      return "Name or service not known";
    case ARES_ENODATA:
      return "No address associated with hostname";
    case ARES_ETIMEOUT:
    case ARES_ESERVFAIL:
    case ARES_ECONNREFUSED:
      return "Temporary failure in name resolution";
    default:
      return ares_strerror(ares_status);
  }
}

int AresFlags(int flags) {
  int ares = 0;
  if ((flags & AI_PASSIVE) != 0) ares |= ARES_AI_PASSIVE;
  if ((flags & AI_NUMERICHOST) != 0) ares |= ARES_AI_NUMERICHOST;
  if ((flags & AI_V4MAPPED) != 0) ares |= ARES_AI_V4MAPPED;
  if ((flags & AI_ALL) != 0) ares |= ARES_AI_ALL;
  if ((flags & AI_ADDRCONFIG) != 0) ares |= ARES_AI_ADDRCONFIG;
  return ares;
}

class AresLibrary {
 public:
  AresLibrary() { ares_library_init(ARES_LIB_INIT_ALL); }
};

class CaresResolver final : public Resolver {
 public:
  CaresResolver(EventLoop* loop, const CaresOptions& options)
      : loop_(loop),
        timer_(loop, [this] { Process(ARES_SOCKET_BAD, /*in=*/false, /*out=*/false); }) {
    static AresLibrary library;
    ares_options ares{};
    int mask = ARES_OPT_SOCK_STATE_CB;
    ares.sock_state_cb = [](void* self, ares_socket_t fd, int readable, int writable) {
      static_cast<CaresResolver*>(self)->OnSocketState(fd, readable != 0 || writable != 0);
    };
    ares.sock_state_cb_data = this;
    if (options.timeout.has_value()) {
      mask |= ARES_OPT_TIMEOUTMS;
      ares.timeout = static_cast<int>(absl::ToInt64Milliseconds(*options.timeout));
    }
    if (options.tries.has_value()) {
      mask |= ARES_OPT_TRIES;
      ares.tries = *options.tries;
    }
    init_status_ = ares_init_options(&channel_, &ares, mask);
    if (init_status_ == ARES_SUCCESS && !options.servers.empty()) {
      init_status_ =
          ares_set_servers_ports_csv(channel_, absl::StrJoin(options.servers, ",").c_str());
    }
  }

  ~CaresResolver() override {
    if (channel_ != nullptr) ares_destroy(channel_);
  }

  Task<absl::StatusOr<std::vector<SocketAddress>>> GetAddrInfo(AddrInfoRequest request) override {
    absl::StatusOr<uint16_t> port = PortNumber(request.port, request.flags);
    if (!port.ok()) co_return port.status();
    if (!request.host.has_value()) {
      co_return WithoutHost((request.flags & AI_PASSIVE) != 0, request.family, *port);
    }
    const std::string& host = *request.host;
    if (host.find('\0') != std::string::npos) {
      co_return absl::InvalidArgumentError("embedded null byte in the host's name");
    }
    // An address needs no resolver; one of the wrong family is an error, as with getaddrinfo.
    if (absl::StatusOr<SocketAddress> address = SocketAddress::FromIp(host, *port); address.ok()) {
      if (request.family != AF_UNSPEC && request.family != address->family()) {
        co_return ResolveError(host, "Address family for hostname not supported");
      }
      co_return std::vector<SocketAddress>{*address};
    }
    if (host.empty() || (request.flags & AI_NUMERICHOST) != 0 || EndsInANumber(host)) {
      co_return ResolveError(host, "Name or service not known");
    }
    if (init_status_ != ARES_SUCCESS) co_return ResolveError(host, ares_strerror(init_status_));

    Query query;
    auto* pending = new Pending{&query};
    ares_addrinfo_hints hints{};
    hints.ai_flags = AresFlags(request.flags);
    hints.ai_family = request.family;
    hints.ai_socktype = SOCK_STREAM;
    query.pending = pending;
    ares_getaddrinfo(channel_, host.c_str(), nullptr, &hints, &OnAnswer, pending);
    SetTimer();
    while (!query.done) {
      if (absl::Status status = co_await query.answered.Wait(); !status.ok() && !query.done) {
        // c-ares can't end one query alone: let it go on for nobody.
        query.pending->query = nullptr;
        co_return status;
      }
    }
    if (query.status != ARES_SUCCESS) co_return ResolveError(host, Describe(query.status));
    if (query.addresses.empty()) {
      co_return ErrnoToStatus(EADDRNOTAVAIL, "getaddrinfo() returned empty list");
    }
    for (SocketAddress& address : query.addresses) address.set_port(*port);
    co_return std::move(query.addresses);
  }

 private:
  struct Pending;
  struct Query {
    Pending* pending = nullptr;
    WaitQueue answered;
    bool done = false;
    int status = ARES_SUCCESS;
    std::vector<SocketAddress> addresses;
  };
  // What c-ares holds; the query may have gone.
  struct Pending {
    Query* query;
  };

  // A descriptor of c-ares'.
  class Watched final : private internal::PollHandler {
   public:
    Watched(CaresResolver* resolver, int fd)
        : resolver_(resolver),
          fd_(fd),
          read_again_(resolver->loop_,
                      [this] { resolver_->Process(fd_, /*in=*/true, /*out=*/false); }),
          registration_(resolver->loop_->Register(fd, this)) {}
    ~Watched() {
      if (registration_.ok()) resolver_->loop_->Deregister(fd_, *registration_);
    }
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;

    void ReadAgainLater() { read_again_.SetAfter(absl::ZeroDuration()); }

   private:
    void OnPollEvents(uint32_t events) override {
      const bool in = (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
      const bool out = (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
      // This may go with the call.
      resolver_->Process(fd_, in, out);
    }

    CaresResolver* const resolver_;
    const int fd_;
    Timer read_again_;
    absl::StatusOr<internal::PollRegistration*> registration_;
  };

  static void OnAnswer(void* argument, int status, int /*timeouts*/, ares_addrinfo* answer) {
    const std::unique_ptr<Pending> pending(static_cast<Pending*>(argument));
    if (Query* query = pending->query; query != nullptr) {
      query->pending = nullptr;
      query->done = true;
      query->status = status;
      for (const ares_addrinfo_node* node = answer != nullptr ? answer->nodes : nullptr;
           node != nullptr; node = node->ai_next) {
        SocketAddress address = SocketAddress::FromSockaddr(node->ai_addr, node->ai_addrlen);
        if (std::find(query->addresses.begin(), query->addresses.end(), address) ==
            query->addresses.end()) {
          query->addresses.push_back(address);
        }
      }
      query->answered.WakeAll();
    }
    if (answer != nullptr) ares_freeaddrinfo(answer);
  }

  void OnSocketState(int fd, bool wanted) {
    if (!wanted) {
      watched_.erase(fd);
    } else if (watched_.find(fd) == watched_.end()) {
      watched_.emplace(fd, std::make_unique<Watched>(this, fd));
    }
  }

  // Gives c-ares an edge of `fd`. Of an answer over TCP it reads the length in one call and the
  // rest in another, and no second edge tells of what it left.
  void Process(int fd, bool in, bool out) {
    ares_process_fd(channel_, in ? fd : ARES_SOCKET_BAD, out ? fd : ARES_SOCKET_BAD);
    SetTimer();
    if (!in) return;
    pollfd left{fd, POLLIN, 0};
    const auto watched = watched_.find(fd);
    if (watched != watched_.end() && poll(&left, 1, 0) == 1) watched->second->ReadAgainLater();
  }

  void SetTimer() {
    timeval next;
    if (ares_timeout(channel_, nullptr, &next) == nullptr) {
      timer_.Cancel();
    } else {
      timer_.SetAfter(absl::DurationFromTimeval(next));
    }
  }

  EventLoop* const loop_;
  Timer timer_;
  int init_status_ = ARES_SUCCESS;
  ares_channel channel_ = nullptr;
  std::map<int, std::unique_ptr<Watched>> watched_;
};

}  // namespace

std::unique_ptr<Resolver> MakeCaresResolver(EventLoop* loop, CaresOptions options) {
  return std::make_unique<CaresResolver>(loop, options);
}

}  // namespace sockbroker::streams
