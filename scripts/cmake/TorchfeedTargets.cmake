# What every folder's CMakeLists.txt uses: one spelling of includes, warnings, sanitizers, installation.

# Compiles through ccache where it is there. It has to be told that the precompiled headers of the tests are no harm.
function(torchfeed_use_ccache)
  find_program(TORCHFEED_CCACHE ccache)
  mark_as_advanced(TORCHFEED_CCACHE)
  if(TORCHFEED_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${TORCHFEED_CCACHE}
        PARENT_SCOPE)
  endif()
endfunction()

# Finds LibTorch. From 2.0 on its package file warns of a static libkineto that no Debian package has and no dynamic
# LibTorch needs, so only its errors are shown.
macro(torchfeed_find_torch)
  set(TORCHFEED_LOG_LEVEL "${CMAKE_MESSAGE_LOG_LEVEL}")
  set(CMAKE_MESSAGE_LOG_LEVEL ERROR)
  find_package(Torch REQUIRED)
  set(CMAKE_MESSAGE_LOG_LEVEL "${TORCHFEED_LOG_LEVEL}")
  message(STATUS "LibTorch ${Torch_VERSION}: ${TORCH_LIBRARY}")
endmacro()

# Links build/include/torchfeed/{plugin,samplers,datasets} to the folders, so that the tree and an
# installation are included alike: <torchfeed/plugin/data_loader.h>.
function(torchfeed_link_headers)
  set(root ${PROJECT_BINARY_DIR}/include/torchfeed)
  file(MAKE_DIRECTORY ${root})
  foreach(folder plugin samplers datasets)
    file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${folder} ${root}/${folder} SYMBOLIC)
  endforeach()
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/plugin/torchfeed.h ${root}/torchfeed.h SYMBOLIC)
endfunction()

# Warnings and sanitizers for a target that is built here, and LibTorch's own flags (its ABI), also for those that link
# nothing of it but c10.
function(torchfeed_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra $<TARGET_PROPERTY:torch,INTERFACE_COMPILE_OPTIONS>)
  if(TORCHFEED_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(TORCHFEED_SANITIZE)
    # GCC warns of values that its own instrumentation hides from it, in LibTorch's headers.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_compile_options(${target} PRIVATE -fsanitize=${TORCHFEED_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=undefined)
    target_link_options(${target} PRIVATE -fsanitize=${TORCHFEED_SANITIZE})
  endif()
endfunction()

# torchfeed_library(plugin SOURCES a.cpp ... LINK targets ... PRIVATE_LINK targets ...)
# makes the library torchfeed_plugin with the alias torchfeed::plugin.
function(torchfeed_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  set(target torchfeed_${name})
  add_library(${target} ${arg_SOURCES})
  add_library(torchfeed::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(${target} PUBLIC cxx_std_20)
  # LibTorch's ABI, for those that link nothing else of it than c10.
  target_compile_options(${target} INTERFACE $<TARGET_PROPERTY:torch,INTERFACE_COMPILE_OPTIONS>)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${target} PUBLIC ${arg_LINK} PRIVATE ${arg_PRIVATE_LINK})
  torchfeed_compile_options(${target})
endfunction()

# torchfeed_program(finetune SOURCES a.cpp ... LINK targets ... [WITHOUT_TORCH]) builds bin/finetune. WITHOUT_TORCH leaves
# torchfeed itself out of what it is linked with.
function(torchfeed_program name)
  cmake_parse_arguments(arg "WITHOUT_TORCH" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  if(NOT arg_WITHOUT_TORCH)
    target_link_libraries(${name} PRIVATE torchfeed::torchfeed)
  endif()
  target_link_libraries(${name} PRIVATE ${arg_LINK})
  torchfeed_compile_options(${name})
endfunction()

# Installs libraries, headers and the package files for find_package(torchfeed).
function(torchfeed_install)
  include(CMakePackageConfigHelpers)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/torchfeed)
  install(TARGETS torchfeed_machine torchfeed_plugin torchfeed_samplers torchfeed_bars torchfeed_datasets torchfeed_all
          EXPORT torchfeedTargets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  foreach(folder plugin samplers datasets)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/torchfeed
            FILES_MATCHING PATTERN "*.h" PATTERN "data" EXCLUDE)
  endforeach()
  install(FILES ${PROJECT_SOURCE_DIR}/plugin/torchfeed.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/torchfeed)
  install(EXPORT torchfeedTargets NAMESPACE torchfeed:: DESTINATION ${package_dir})
  configure_package_config_file(${PROJECT_SOURCE_DIR}/scripts/cmake/torchfeedConfig.cmake.in
                                ${PROJECT_BINARY_DIR}/torchfeedConfig.cmake INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/torchfeedConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/torchfeedConfig.cmake ${PROJECT_BINARY_DIR}/torchfeedConfigVersion.cmake
                ${PROJECT_SOURCE_DIR}/scripts/cmake/FindHwloc.cmake ${PROJECT_SOURCE_DIR}/scripts/cmake/FindOnednn.cmake
          DESTINATION ${package_dir})
endfunction()
