# How every library and test of this project is declared.

# Warnings and sanitizers ride on one interface target, so nothing global changes.
add_library(cleave_flags INTERFACE)
target_compile_options(cleave_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor)
if(CLEAVE_SANITIZE)
  # g++ sees uninitialised values in libtorch's headers once a sanitizer has rewritten them; there are none.
  target_compile_options(cleave_flags INTERFACE -fsanitize=${CLEAVE_SANITIZE} -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(cleave_flags INTERFACE -fsanitize=${CLEAVE_SANITIZE})
  if(CLEAVE_SANITIZE MATCHES undefined)
    # What g++ checks at every access doubles the time to compile. AddressSanitizer reports a null pointer anyway; clang checks all of
    # them in the preset `fuzz`.
    target_compile_options(cleave_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-fno-sanitize=null,alignment,vptr,object-size>)
  endif()
endif()
if(CLEAVE_BUILD_FUZZERS)
  target_compile_options(cleave_flags INTERFACE -fsanitize=fuzzer-no-link) # the fuzzer sees which branches run
endif()

# Most sources that need libtorch's headers (7 s each) take them as cleave_model has parsed them.
function(cleave_precompile target)
  if(NOT CLEAVE_PRECOMPILE OR BUILD_SHARED_LIBS OR CMAKE_POSITION_INDEPENDENT_CODE) # g++ refuses a parse with other flags
    return()
  endif()
  if(target STREQUAL cleave_model)
    target_precompile_headers(cleave_model PRIVATE <ATen/ATen.h> <nlohmann/json.hpp>)
  else()
    target_precompile_headers(${target} REUSE_FROM cleave_model)
  endif()
endfunction()

# cleave_library(name STANDARD 17|20 [HEADER_STANDARD 17|20] SOURCES … HEADERS … [DEPENDS …] [PRIVATE_DEPENDS …])
# HEADER_STANDARD is what includers need, where that is less than what the sources need.
# One library; headers are included from the repository root: "optimizer/search.hpp".
function(cleave_library name)
  cmake_parse_arguments(arg "" "STANDARD;HEADER_STANDARD" "SOURCES;HEADERS;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(cleave_${name})
  add_library(cleave::${name} ALIAS cleave_${name})
  target_sources(cleave_${name} PRIVATE ${arg_SOURCES}
    PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${arg_HEADERS})
  target_link_libraries(cleave_${name} PUBLIC ${arg_DEPENDS} PRIVATE cleave_flags ${arg_PRIVATE_DEPENDS})
  if(NOT arg_HEADER_STANDARD)
    set(arg_HEADER_STANDARD ${arg_STANDARD})
  endif()
  target_compile_features(cleave_${name} PRIVATE cxx_std_${arg_STANDARD} INTERFACE cxx_std_${arg_HEADER_STANDARD})
  set_target_properties(cleave_${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()

# cleave_module(name STANDARD 17|20 SOURCES … [PRIVATE_DEPENDS …])
# One library that is opened while running, by who needs it: what it links stays out of the others' sight.
function(cleave_module name)
  cmake_parse_arguments(arg "" "STANDARD" "SOURCES;PRIVATE_DEPENDS" ${ARGN})
  add_library(cleave_${name} MODULE ${arg_SOURCES})
  target_link_libraries(cleave_${name} PRIVATE cleave_flags ${arg_PRIVATE_DEPENDS})
  target_include_directories(cleave_${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_features(cleave_${name} PRIVATE cxx_std_${arg_STANDARD})
  set_target_properties(cleave_${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  install(TARGETS cleave_${name} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/cleave)
endfunction()

# cleave_test(name [STANDARD 17|20] [LABELS …] [SOURCES …] DEPENDS …) builds <name>_test.cpp and registers each TEST; one that
# links libtorch and has no label is registered whole as <room>.<name>, since each start of libtorch takes half a second.
function(cleave_test name)
  cmake_parse_arguments(arg "" "STANDARD" "LABELS;SOURCES;DEPENDS" ${ARGN})
  if(NOT arg_STANDARD)
    set(arg_STANDARD 17)
  endif()
  add_executable(${name}_test ${name}_test.cpp ${arg_SOURCES})
  target_link_libraries(${name}_test PRIVATE ${arg_DEPENDS} cleave_flags GTest::gtest_main)
  target_compile_features(${name}_test PRIVATE cxx_std_${arg_STANDARD})
  target_compile_definitions(${name}_test PRIVATE CLEAVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_include_directories(${name}_test PRIVATE ${PROJECT_SOURCE_DIR})
  if(CLEAVE_SANITIZE MATCHES undefined)
    # It is half of a test's time to compile, and checks nothing of ours but the test's own lines.
    target_compile_options(${name}_test PRIVATE -fno-sanitize=undefined)
  endif()
  set(links_libtorch OFF)
  foreach(library IN ITEMS cleave::model cleave::decompose cleave::calibrate cleave::engine cleave_tools)
    if(library IN_LIST arg_DEPENDS)
      set(links_libtorch ON)
    endif()
  endforeach()
  set(timeout_s 300)
  if(CLEAVE_SANITIZE)
    set(timeout_s 1200)
  endif()
  if(links_libtorch AND arg_STANDARD EQUAL 17)
    cleave_precompile(${name}_test)
  endif()
  if(links_libtorch AND NOT arg_LABELS)
    get_filename_component(room ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    add_test(NAME ${room}.${name} COMMAND ${name}_test)
    math(EXPR timeout_s "2 * ${timeout_s}")
    set_tests_properties(${room}.${name} PROPERTIES TIMEOUT ${timeout_s})
  else()
    gtest_discover_tests(${name}_test DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${timeout_s})
    # Not among the properties above: on that way an empty value swallows the next word, and a list its tail.
    set(labels_file ${CMAKE_CURRENT_BINARY_DIR}/${name}_labels.cmake)
    file(WRITE ${labels_file}
      "if(${name}_test_TESTS)\n  set_tests_properties(\${${name}_test_TESTS} PROPERTIES LABELS \"${arg_LABELS}\")\nendif()\n")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${labels_file})
  endif()
endfunction()
