# Everything the project does not write itself, under one name per library however a distribution ships it:
#
#   absl::*  OpenSSL::SSL  OpenSSL::Crypto  c-ares::cares  Threads::Threads     always
#   gRPC::grpc++  gRPC::grpc++_reflection  gRPC::grpc++_error_details
#   protobuf::libprotobuf  spdlog::spdlog  yaml-cpp::yaml-cpp  CLI11::CLI11     SOCKBROKER_BUILD_BROKER
#   GTest::gtest_main  GTest::gmock                                             SOCKBROKER_BUILD_TESTS
#   benchmark::benchmark  Boost::headers                                        SOCKBROKER_BUILD_BENCH

find_package(Threads REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)

# Newer c-ares ships a CMake package, Debian 12 only a pkg-config file.
find_package(c-ares CONFIG QUIET)
if(NOT TARGET c-ares::cares)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(CARES REQUIRED IMPORTED_TARGET GLOBAL libcares>=1.18)
  add_library(c-ares::cares ALIAS PkgConfig::CARES)
  set(c-ares_FOUND TRUE) # keeps gRPC's package from defining the target a second time
endif()

if(SOCKBROKER_BUILD_BROKER)
  # Newer Protobuf ships a CMake package with what it links to; Debian 12's is found by CMake's own module.
  find_package(Protobuf 3.21 QUIET CONFIG)
  if(NOT Protobuf_FOUND)
    find_package(Protobuf 3.21 REQUIRED MODULE)
  endif()
  find_package(gRPC 1.51 CONFIG REQUIRED)
  find_package(spdlog CONFIG REQUIRED)
  find_package(CLI11 CONFIG REQUIRED)
  find_package(yaml-cpp CONFIG REQUIRED)
  if(NOT TARGET yaml-cpp::yaml-cpp) # before 0.8 the target had no namespace
    add_library(yaml-cpp::yaml-cpp INTERFACE IMPORTED GLOBAL)
    set_target_properties(yaml-cpp::yaml-cpp PROPERTIES INTERFACE_LINK_LIBRARIES yaml-cpp)
  endif()
  # The plug-ins are asked for by path: not every distribution's imported target points at its file.
  find_program(SOCKBROKER_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
  find_program(SOCKBROKER_GRPC_PYTHON_PLUGIN grpc_python_plugin)
  mark_as_advanced(SOCKBROKER_GRPC_CPP_PLUGIN SOCKBROKER_GRPC_PYTHON_PLUGIN)
endif()

if(SOCKBROKER_BUILD_TESTS)
  find_package(GTest CONFIG REQUIRED)
  include(GoogleTest)
endif()

if(SOCKBROKER_BUILD_BENCH)
  find_package(benchmark CONFIG REQUIRED)
  find_package(Boost 1.74) # a peer in the benchmarks: Asio; they do without when it is missing
endif()

# The distribution's interpreter is the one its gRPC module is installed for.
set(SOCKBROKER_PYTHON
    /usr/bin/python3
    CACHE FILEPATH "Python with grpcio, for tests and scripts")
