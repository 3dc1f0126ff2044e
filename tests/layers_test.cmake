# Forges small trees and sees what layers.cmake says of them: cmake -DSCRATCH=<folder> -P tests/layers_test.cmake
cmake_minimum_required(VERSION 3.25)

# Two libraries in net/, one of each standard, and what stands below them.
function(forge)
  file(REMOVE_RECURSE ${SCRATCH})
  file(WRITE ${SCRATCH}/base/CMakeLists.txt "cleave_library(base STANDARD 17\n  SOURCES units.cpp\n  HEADERS units.hpp)\n")
  file(WRITE ${SCRATCH}/base/units.hpp "#pragma once\n")
  file(WRITE ${SCRATCH}/base/units.cpp "#include \"base/units.hpp\"\n#include <openssl/evp.h>\n")
  file(WRITE ${SCRATCH}/net/CMakeLists.txt
    "# cleave_library(ghost STANDARD 17)\ncleave_library(net_bytes STANDARD 17 SOURCES frame.cpp HEADERS frame.hpp)\n"
    "cleave_library(net STANDARD 20 HEADER_STANDARD 17 SOURCES mesh.cpp HEADERS mesh.hpp DEPENDS cleave::net_bytes)\n")
  file(WRITE ${SCRATCH}/net/frame.hpp "#pragma once\n#include \"base/units.hpp\"\n")
  file(WRITE ${SCRATCH}/net/frame.cpp "#include \"net/frame.hpp\"\n")
  file(WRITE ${SCRATCH}/net/mesh.hpp "#pragma once\n#include \"net/frame.hpp\"\n")
  file(WRITE ${SCRATCH}/net/mesh.cpp
    "#include \"net/mesh.hpp\"\n#include <boost/asio/ip/tcp.hpp>\n// std::cout and std::exit(1) are for tools\nvoid f(char* s) { std::snprintf(s, 1, \"\"); }\n")
endfunction()

function(judge result output)
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${SCRATCH} -P ${CMAKE_CURRENT_LIST_DIR}/layers.cmake
    RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text)
  set(${result} ${code} PARENT_SCOPE)
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

# The tree with the line added to the file is refused, and so it is said.
function(expect_refusal file line expected)
  file(APPEND ${SCRATCH}/${file} "${line}\n")
  judge(code text)
  string(FIND "${text}" "${expected}" at)
  if(code EQUAL 0 OR at EQUAL -1)
    message(SEND_ERROR "${file} with '${line}': saw exit ${code} and\n${text}\nneeds: ${expected}")
  endif()
endfunction()

# refuses(<file> <line added to it> <what must be said>)
function(refuses file line expected)
  forge()
  expect_refusal(${file} "${line}" "${expected}")
endfunction()

forge()
judge(code text)
if(NOT code EQUAL 0)
  message(SEND_ERROR "a good tree: saw exit ${code} and\n${text}")
endif()

refuses(base/units.cpp "#include \"net/frame.hpp\"" "[base/units.cpp:3] base includes net/frame.hpp of net_bytes")
refuses(net/frame.cpp "  #  include \"net/mesh.hpp\"" "[net/frame.cpp:2] net_bytes includes net/mesh.hpp of net, may include: base")
refuses(net/mesh.cpp "#include \"frame.hpp\"" "needs a path from the root of the repository")
refuses(net/mesh.cpp "#include \"net/gone.hpp\"" "needs a path from the root of the repository")
refuses(net/mesh.cpp "#include <ATen/core/Tensor.h>" "[net/mesh.cpp:5] net includes <ATen/core/Tensor.h>")
refuses(net/mesh.cpp "#include <torch/csrc/autograd/variable.h>" "net includes <torch/csrc/autograd/variable.h>")
refuses(net/frame.cpp "#include <boost/asio/buffer.hpp>" "net_bytes includes <boost/asio/buffer.hpp>")
refuses(net/mesh.hpp "#include <boost/asio/buffer.hpp>" "[net/mesh.hpp:3] a C++17 file includes <boost/asio/buffer.hpp>")
refuses(base/units.cpp "#include <iostream>" "includes <iostream>, which no room may")
refuses(net/frame.cpp "#include <openssl/ssl.h>" "only these may: base")
refuses(net/mesh.cpp "void g() { std::cout << 1; }" "[net/mesh.cpp:5] prints")
refuses(net/mesh.cpp "void g() { std::printf(\"x\"); }" "prints")
refuses(net/mesh.cpp "void g() { std::fprintf(stderr, \"x\"); }" "prints")
refuses(net/mesh.cpp "void g() { std::exit(1); }" "ends the process")
refuses(net/mesh.cpp "void g() { ::_exit(1); }" "ends the process")
# A table of strategies, and a name of one of them elsewhere.
function(refuses_strategy file line expected)
  forge()
  file(WRITE ${SCRATCH}/optimizer/CMakeLists.txt
    "cleave_library(plan STANDARD 17\n  SOURCES plan/program.cpp plan/strategies/magic.cpp plan/cost.cpp HEADERS plan/program.hpp)\n")
  foreach(other program.hpp cost.cpp)
    file(WRITE ${SCRATCH}/optimizer/plan/${other} "\n")
  endforeach()
  file(WRITE ${SCRATCH}/optimizer/plan/program.cpp "      {\"magic\", \"all on one\",\n       PartKind::share, f},\n")
  file(WRITE ${SCRATCH}/optimizer/plan/strategies/magic.cpp "const char* name = \"magic\";\n")
  judge(code text)
  if(NOT code EQUAL 0)
    message(SEND_ERROR "a strategy in its own source: saw exit ${code} and\n${text}")
  endif()
  expect_refusal(${file} "${line}" "${expected}")
endfunction()
refuses_strategy(optimizer/plan/cost.cpp "bool b = plan.strategy == \"magic\";" "[optimizer/plan/cost.cpp:2] names a strategy")
refuses_strategy(net/frame.cpp "auto s = \"magic\";" "[net/frame.cpp:2] names a strategy")

refuses(net/lost.cpp "int lost = 0;" "[net/lost.cpp] is in no library")
refuses(net/CMakeLists.txt "cleave_library(gossip STANDARD 20 SOURCES gossip.cpp)" "does not say what this library may include")

file(REMOVE_RECURSE ${SCRATCH})
