# How every target is compiled and linked: the language, the compilers that will do, warnings, sanitizers, hardening.

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  message(
    FATAL_ERROR
      "g++ ${CMAKE_CXX_COMPILER_VERSION} cannot build sockbroker: g++ before 13 miscompiles coroutines "
      "(temporaries in co_await expressions are destroyed twice). "
      "Use clang 19, as the presets do: cmake --preset release")
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(THREADS_PREFER_PTHREAD_FLAG ON)

include(CheckPIESupported)
check_pie_supported(LANGUAGES CXX)

if(NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(SOCKBROKER_CCACHE ccache)
  mark_as_advanced(SOCKBROKER_CCACHE)
  if(SOCKBROKER_CCACHE)
    # What one clone has compiled another need not: paths count from the root of the repository.
    set(CMAKE_CXX_COMPILER_LAUNCHER env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1
                                    "${SOCKBROKER_CCACHE}")
  endif()
endif()

# One interface target, so that it is written down once and reaches our own targets only.
add_library(sockbroker_options INTERFACE)

target_compile_options(
  sockbroker_options
  INTERFACE -fno-omit-frame-pointer
            -Wall
            -Wextra
            -Wpedantic
            -Wshadow
            -Wnon-virtual-dtor
            -Woverloaded-virtual
            -Wextra-semi
            -Wformat=2
            -Wcast-qual
            -Wimplicit-fallthrough
            # Designated initialisers leave members at their defaults on purpose.
            -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(
    sockbroker_options
    INTERFACE -Wthread-safety -Wunreachable-code -Wloop-analysis)
  # Debian's Abseil is built by g++ 12; since version 18 clang mangles some templates (the one behind
  # absl::Cord(std::string&&)) in another way, and they would not link.
  target_compile_options(sockbroker_options INTERFACE -fclang-abi-compat=17)
  target_link_options(sockbroker_options INTERFACE -fuse-ld=lld)
endif()
if(SOCKBROKER_WERROR)
  target_compile_options(sockbroker_options INTERFACE -Werror)
endif()

# Dozens of Abseil and gRPC libraries are offered; only those used are recorded.
target_link_options(sockbroker_options INTERFACE -Wl,--as-needed)

if(SOCKBROKER_LTO)
  include(CheckIPOSupported)
  check_ipo_supported(LANGUAGES CXX)
  set(CMAKE_INTERPROCEDURAL_OPTIMIZATION ON)
endif()

if(SOCKBROKER_SANITIZE)
  # Not vptr: it looks at an object through a pipe, so that in a process without a descriptor left, which is what some
  # tests are about, any object of a type it has not met yet is a finding.
  target_compile_options(sockbroker_options INTERFACE -fsanitize=${SOCKBROKER_SANITIZE} -fno-sanitize=vptr
                                                      -fno-sanitize-recover=all)
  target_link_options(sockbroker_options INTERFACE -fsanitize=${SOCKBROKER_SANITIZE})
else()
  target_compile_options(sockbroker_options INTERFACE -fstack-protector-strong)
  target_compile_definitions(
    sockbroker_options INTERFACE $<$<CONFIG:Release>:_FORTIFY_SOURCE=2>)
  target_link_options(sockbroker_options INTERFACE -Wl,-z,relro,-z,now)
endif()
if(SOCKBROKER_FUZZ)
  # Coverage for libFuzzer, whose main() only the fuzzers link.
  target_compile_options(sockbroker_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(sockbroker_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
# Cheap checks inside the standard library (subscripts, empty optionals) wherever assertions are on.
target_compile_definitions(sockbroker_options
                           INTERFACE $<$<NOT:$<CONFIG:Release>>:_GLIBCXX_ASSERTIONS>)

# The sanitizers' run-time options are linked into each program, so that they hold however it is started.
if(SOCKBROKER_SANITIZE)
  find_program(SOCKBROKER_SYMBOLIZER NAMES llvm-symbolizer-19 llvm-symbolizer)
  mark_as_advanced(SOCKBROKER_SYMBOLIZER)
  add_library(sockbroker_sanitizer_options OBJECT "${CMAKE_CURRENT_LIST_DIR}/sanitizer_options.cc")
  target_compile_definitions(
    sockbroker_sanitizer_options
    PRIVATE "SOCKBROKER_SYMBOLIZER=\"$<IF:$<BOOL:${SOCKBROKER_SYMBOLIZER}>,${SOCKBROKER_SYMBOLIZER},>\"")
  target_link_libraries(sockbroker_sanitizer_options PRIVATE sockbroker_options)
endif()
