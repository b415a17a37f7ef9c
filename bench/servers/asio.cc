// Boost.Asio as a contestant: C++20 coroutines on one thread, at its best: the executor's own type
// instead of the type-erased any_io_executor, a concurrency hint that drops the scheduler's locks,
// one buffer per connection.
// Usage: bench_asio_server echo|discard|source tcp|unix:PATH
// clang-format off: Boost 1.74's awaitable.hpp uses std::exchange and does not include it
#include <utility>
// clang-format on

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using asio::local::stream_protocol;
using boost::system::error_code;

using Executor = asio::io_context::executor_type;
using Void = asio::awaitable<void, Executor>;
template <typename Protocol>
using Socket = asio::basic_stream_socket<Protocol, Executor>;
template <typename Protocol>
using Acceptor = asio::basic_socket_acceptor<Protocol, Executor>;
constexpr asio::use_awaitable_t<Executor> use_awaitable;

constexpr std::size_t kBlock = 64 * 1024;

template <typename Protocol>
Void Echo(Socket<Protocol> socket) {
  std::vector<char> data(kBlock);
  error_code error;
  while (true) {
    const std::size_t size = co_await socket.async_read_some(
        asio::buffer(data), asio::redirect_error(use_awaitable, error));
    if (error) break;
    co_await asio::async_write(socket, asio::buffer(data.data(), size),
                               asio::redirect_error(use_awaitable, error));
    if (error) break;
  }
}

template <typename Protocol>
Void Discard(Socket<Protocol> socket) {
  std::vector<char> data(kBlock);
  error_code error;
  while (!error) {
    co_await socket.async_read_some(asio::buffer(data), asio::redirect_error(use_awaitable, error));
  }
}

template <typename Protocol>
Void Source(Socket<Protocol> socket) {
  const std::vector<char> data(kBlock, 'x');
  error_code error;
  while (!error) {
    co_await asio::async_write(socket, asio::buffer(data),
                               asio::redirect_error(use_awaitable, error));
  }
}

template <typename Protocol>
Void Serve(Acceptor<Protocol> acceptor, std::string mode) {
  while (true) {
    Socket<Protocol> socket = co_await acceptor.async_accept(use_awaitable);
    if constexpr (std::is_same_v<Protocol, tcp>) socket.set_option(tcp::no_delay(true));
    const Executor executor = acceptor.get_executor();
    if (mode == "echo") {
      asio::co_spawn(executor, Echo<Protocol>(std::move(socket)), asio::detached);
    } else if (mode == "discard") {
      asio::co_spawn(executor, Discard<Protocol>(std::move(socket)), asio::detached);
    } else {
      asio::co_spawn(executor, Source<Protocol>(std::move(socket)), asio::detached);
    }
  }
}

template <typename Protocol>
void Run(const typename Protocol::endpoint& endpoint, const std::string& mode, const char* prefix) {
  asio::io_context context(BOOST_ASIO_CONCURRENCY_HINT_UNSAFE);
  Acceptor<Protocol> acceptor(context.get_executor(), endpoint);
  std::cout << "listening on " << prefix << acceptor.local_endpoint() << std::endl;
  asio::co_spawn(context, Serve<Protocol>(std::move(acceptor), mode), asio::detached);
  context.run();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc == 3 ? argv[1] : "";
  const std::string address = argc == 3 ? argv[2] : "";
  if ((mode != "echo" && mode != "discard" && mode != "source") ||
      (address != "tcp" && !address.starts_with("unix:"))) {
    std::fprintf(stderr, "usage: %s echo|discard|source tcp|unix:PATH\n", argv[0]);
    return 2;
  }
  if (address == "tcp") {
    Run<tcp>(tcp::endpoint(asio::ip::address_v4::loopback(), 0), mode, "");
  } else {
    Run<stream_protocol>(stream_protocol::endpoint(address.substr(5)), mode, "unix:");
  }
}
