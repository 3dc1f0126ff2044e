# Fails unless what is installed runs: cmake -DBUILD=<build folder> -DSCRATCH=<folder> [-DMODULE=<name>] -P tests/tools/install_test.cmake
# MODULE is where the library around SentencePiece is installed, below the prefix, if there is one.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE ${SCRATCH})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${SCRATCH} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${SCRATCH}/bin/cleave --version COMMAND_ERROR_IS_FATAL ANY)
foreach(program cleave-agent cleave-testbed)
  execute_process(COMMAND ${SCRATCH}/bin/${program} --help OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
endforeach()

# A program finds the module that is installed with it, before the one that was built.
if(MODULE)
  set(golden ${CMAKE_CURRENT_LIST_DIR}/../goldens/tokenizers/sentence_piece)
  execute_process(COMMAND ${SCRATCH}/bin/cleave tokenize ${golden} ${CMAKE_CURRENT_LIST_FILE} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  file(WRITE ${SCRATCH}/${MODULE} "no library")
  execute_process(COMMAND ${SCRATCH}/bin/cleave tokenize ${golden} ${CMAKE_CURRENT_LIST_FILE} OUTPUT_QUIET
    RESULT_VARIABLE code ERROR_VARIABLE said)
  if(NOT code EQUAL 1 OR NOT said MATCHES "${MODULE}\\] cannot open")
    message(FATAL_ERROR "with a broken ${MODULE}: saw exit ${code} and '${said}', needs 1 and that it cannot be opened")
  endif()
endif()
