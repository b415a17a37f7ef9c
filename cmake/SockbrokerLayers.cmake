# Keeps the layers apart, so that "streams/ knows nothing of gRPC" is a fact and not a wish.
#
# sockbroker_forbid_in_layer(<directory> INCLUDES <regex> LIBRARIES <regex> BECAUSE <reason>)
#     Fails the configuration when a library or program declared in <directory> links, however indirectly, something
#     that matches LIBRARIES, or when a file there includes a header that matches INCLUDES. The includes are
#     looked at again by ctest (layers.<directory>), since they change without CMake running.

function(sockbroker_forbid_in_layer directory)
  cmake_parse_arguments(ARG "" "INCLUDES;LIBRARIES;BECAUSE" "" ${ARGN})
  set(check
      "${CMAKE_COMMAND}"
      "-DROOT=${PROJECT_SOURCE_DIR}"
      "-DDIRECTORY=${directory}"
      "-DINCLUDES=${ARG_INCLUDES}"
      "-DBECAUSE=${ARG_BECAUSE}"
      -P
      "${PROJECT_SOURCE_DIR}/cmake/CheckIncludes.cmake")
  execute_process(COMMAND ${check} RESULT_VARIABLE failed OUTPUT_QUIET ERROR_VARIABLE complaint)
  if(failed)
    message(FATAL_ERROR "${complaint}")
  endif()
  if(SOCKBROKER_BUILD_TESTS)
    add_test(NAME layers.${directory} COMMAND ${check})
  endif()
  if(EXISTS "${PROJECT_SOURCE_DIR}/${directory}/CMakeLists.txt")
    _sockbroker_targets_below("${PROJECT_SOURCE_DIR}/${directory}" targets)
    foreach(target IN LISTS targets)
      _sockbroker_check_links(${target} "${target}" "${ARG_LIBRARIES}" "${ARG_BECAUSE}" "")
    endforeach()
  endif()
endfunction()

function(_sockbroker_targets_below directory out)
  get_property(found DIRECTORY "${directory}" PROPERTY BUILDSYSTEM_TARGETS)
  get_property(children DIRECTORY "${directory}" PROPERTY SUBDIRECTORIES)
  foreach(child IN LISTS children)
    _sockbroker_targets_below("${child}" below)
    list(APPEND found ${below})
  endforeach()
  set(${out}
      "${found}"
      PARENT_SCOPE)
endfunction()

# Walks what a target links to; the global property remembers what has been walked for this target.
function(_sockbroker_check_links origin chain forbidden because depth)
  string(REGEX REPLACE ".* -> " "" target "${chain}")
  if(depth STREQUAL "")
    set_property(GLOBAL PROPERTY _sockbroker_walked "")
  endif()
  get_property(walked GLOBAL PROPERTY _sockbroker_walked)
  if(target IN_LIST walked)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY _sockbroker_walked "${target}")
  set(links)
  foreach(property LINK_LIBRARIES INTERFACE_LINK_LIBRARIES)
    get_target_property(more ${target} ${property})
    if(more)
      list(APPEND links ${more})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES links)
  foreach(link IN LISTS links)
    string(REGEX REPLACE "^[$]<LINK_ONLY:(.*)>$" "\\1" link "${link}")
    if(link MATCHES "${forbidden}")
      message(FATAL_ERROR "${chain} -> ${link}: not allowed, ${because}")
    endif()
    if(TARGET "${link}")
      get_target_property(aliased "${link}" ALIASED_TARGET)
      if(aliased)
        set(link "${aliased}")
      endif()
      _sockbroker_check_links(${origin} "${chain} -> ${link}" "${forbidden}" "${because}" "x${depth}")
    endif()
  endforeach()
endfunction()
