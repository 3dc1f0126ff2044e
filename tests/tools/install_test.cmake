# Fails unless what is installed runs: cmake -DBUILD=<build folder> -DSCRATCH=<folder> -P tests/tools/install_test.cmake
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE ${SCRATCH})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${SCRATCH} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${SCRATCH}/bin/cleave --version COMMAND_ERROR_IS_FATAL ANY)
foreach(program cleave-agent cleave-testbed)
  execute_process(COMMAND ${SCRATCH}/bin/${program} --help OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
endforeach()
