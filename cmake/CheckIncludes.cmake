# Run with cmake -P: fails when a C++ file below ROOT/DIRECTORY includes a header whose path matches INCLUDES.

file(
  GLOB_RECURSE files
  RELATIVE "${ROOT}"
  "${ROOT}/${DIRECTORY}/*.h"
  "${ROOT}/${DIRECTORY}/*.cc"
  "${ROOT}/${DIRECTORY}/*.inc")
set(offences "")
foreach(file IN LISTS files)
  file(STRINGS "${ROOT}/${file}" lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"](${INCLUDES})")
  foreach(line IN LISTS lines)
    string(STRIP "${line}" line)
    string(APPEND offences "\n  ${file}: ${line}")
  endforeach()
endforeach()
if(offences)
  message(FATAL_ERROR "${DIRECTORY}/ includes what it must not (${BECAUSE}):${offences}")
endif()
