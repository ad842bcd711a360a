# The CUDA plugin: liboverproof_cuda.so next to the program, opened at run time. Left out where there is no toolkit.
# No function: CMake requires languages to be enabled at the top level.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "CUDA: no nvcc; the GPU plugin is left out")
  return()
endif()
# CMake 3.25 knows neither "90a" nor C++20 for nvcc: architectures and standard are given by hand.
set(CMAKE_CUDA_ARCHITECTURES OFF)
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
enable_language(CUDA)
find_package(CUDAToolkit)
if(NOT TARGET CUDA::cublasLt OR CUDAToolkit_VERSION VERSION_LESS 12.9)
  message(STATUS "CUDA: the plugin needs cuBLASLt 12.9 or later (found ${CUDAToolkit_VERSION}); the GPU plugin is left out")
  return()
endif()

file(GLOB cuda_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/quantize/cuda/*.cc" "${CMAKE_SOURCE_DIR}/quantize/cuda/*.cu")
add_library(overproof_cuda MODULE ${cuda_sources})
# 8.x, 9.0 and 10.x as machine code, PTX for what comes after. Arithmetic as the CPU does it, which is what makes codes equal:
# no fused multiply-add, no flushing of subnormals, exact division. Replaces the directory's options: nvcc knows no -Wall.
set(cuda_options -std=c++20 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true -Xcompiler=-Wall,-Wextra,-ffp-contract=off
    -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_100,code=[sm_100,compute_100])
get_target_property(cxx_options overproof_cuda COMPILE_OPTIONS)
set_target_properties(overproof_cuda PROPERTIES
  COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>;$<$<COMPILE_LANGUAGE:CUDA>:${cuda_options}>"
  CUDA_ARCHITECTURES OFF CUDA_STANDARD_REQUIRED OFF CUDA_RUNTIME_LIBRARY Static
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}"
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden)
target_include_directories(overproof_cuda PRIVATE "${CMAKE_SOURCE_DIR}")
target_include_directories(overproof_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(overproof_cuda PRIVATE CUDA::cublasLt CUDA::cudart_static)
target_link_options(overproof_cuda PRIVATE LINKER:--exclude-libs,ALL LINKER:-z,defs)
message(STATUS "CUDA ${CUDAToolkit_VERSION}: plugin for sm_80, sm_90a, sm_100 and PTX")
