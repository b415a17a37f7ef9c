#include "server/extra_info.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "server/endpoint_codec.h"

namespace sockbroker::server {
namespace {

// 0 where the kernel doesn't know.
int Option(int fd, int level, int option) {
  int value = 0;
  socklen_t size = sizeof(value);
  return getsockopt(fd, level, option, &value, &size) == 0 ? value : 0;
}

uint32_t Queued(int fd, unsigned long request) {
  int value = 0;
  return ioctl(fd, request, &value) == 0 && value > 0 ? static_cast<uint32_t>(value) : 0;
}

void FillSocket(const streams::StreamWriter& writer, v1::SocketInfo* info) {
  const int fd = writer.socket().fileno();
  const int family = writer.sockname().family();
  info->set_fileno(fd);
  info->set_is_unix(family == AF_UNIX);
  if (family == AF_INET) info->set_family(v1::FAMILY_INET);
  if (family == AF_INET6) info->set_family(v1::FAMILY_INET6);
  if (fd < 0) return;
  info->set_receive_buffer(static_cast<uint32_t>(Option(fd, SOL_SOCKET, SO_RCVBUF)));
  info->set_send_buffer(static_cast<uint32_t>(Option(fd, SOL_SOCKET, SO_SNDBUF)));
  info->set_receive_queued(Queued(fd, SIOCINQ));
  info->set_send_queued(Queued(fd, SIOCOUTQ));
  info->set_keepalive(Option(fd, SOL_SOCKET, SO_KEEPALIVE) != 0);
  if (info->is_unix()) {
    ucred peer = {};
    socklen_t size = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
      info->set_peer_pid(peer.pid);
      info->set_peer_uid(peer.uid);
      info->set_peer_gid(peer.gid);
    }
    return;
  }
  info->set_nodelay(Option(fd, IPPROTO_TCP, TCP_NODELAY) != 0);
  tcp_info tcp = {};
  socklen_t size = sizeof(tcp);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &size) == 0) {
    *info->mutable_rtt() = ToProto(absl::Microseconds(tcp.tcpi_rtt));
    info->set_total_retransmits(tcp.tcpi_total_retrans);
    info->set_congestion_window(tcp.tcpi_snd_cwnd);
  }
}

}  // namespace

void FillExtraInfo(const std::string& name, const streams::StreamWriter& writer,
                   v1::GetExtraInfoResponse* response) {
  if (name == "peername" && writer.peername().family() != AF_UNSPEC) {
    *response->mutable_endpoint() = ToProto(writer.peername());
  } else if (name == "sockname" && writer.sockname().family() != AF_UNSPEC) {
    *response->mutable_endpoint() = ToProto(writer.sockname());
  } else if (name == "socket") {
    FillSocket(writer, response->mutable_socket());
  }
}

void FillExtraInfo(const std::string& name, const v1::TlsInfo& tls,
                   v1::GetExtraInfoResponse* response) {
  if (name == "ssl_object") {
    *response->mutable_tls() = tls;
  } else if (name == "cipher") {
    *response->mutable_cipher() = tls.cipher();
  } else if (name == "peercert" && !tls.peer_certificates().empty()) {
    *response->mutable_certificate() = tls.peer_certificates(0);
  }
}

void FillExtraInfo(const std::string& name, const v1::Connection& gone,
                   v1::GetExtraInfoResponse* response) {
  if (name == "peername" && gone.peer().kind_case() != v1::Endpoint::KIND_NOT_SET) {
    *response->mutable_endpoint() = gone.peer();
  } else if (name == "sockname" && gone.local().kind_case() != v1::Endpoint::KIND_NOT_SET) {
    *response->mutable_endpoint() = gone.local();
  } else if (name == "socket") {
    response->mutable_socket()->set_fileno(-1);
    response->mutable_socket()->set_is_unix(gone.local().kind_case() == v1::Endpoint::kUnix);
  } else if (gone.has_tls()) {
    FillExtraInfo(name, gone.tls(), response);
  }
}

}  // namespace sockbroker::server
