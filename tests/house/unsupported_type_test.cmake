# A type that torchfeed cannot send does not compile, and the compiler says what to write.
string(REPLACE "|" ";" includes "${includes}")
list(TRANSFORM includes PREPEND "-I")  # and not -isystem, which would move /usr/include
execute_process(COMMAND ${cxx_compiler} -std=c++20 -fsyntax-only ${includes} ${source}
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "${source} compiled")
endif()
string(FIND "${output}" "specialise torchfeed::BatchCodec<T>" at)
if(at EQUAL -1)
  message(FATAL_ERROR "the compiler did not say what to write (${result}):\n${output}")
endif()
message(STATUS "the compiler refused the type and said what to write")
