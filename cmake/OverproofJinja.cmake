# overproof_jinja: llama.cpp's Jinja engine, from where tools/setup.sh unpacked it.
set(OVERPROOF_JINJA_ROOT "" CACHE PATH "the folder that tools/unpack_jinja.py wrote; empty: jinja in OVERPROOF_CACHE or .cache")
set(jinja_root "${OVERPROOF_JINJA_ROOT}")
if(NOT jinja_root)
  set(jinja_root "${CMAKE_SOURCE_DIR}/.cache/jinja")
  if(DEFINED ENV{OVERPROOF_CACHE})
    set(jinja_root "$ENV{OVERPROOF_CACHE}/jinja")
  endif()
endif()
if(NOT EXISTS "${jinja_root}/jinja/value.cpp")
  message(FATAL_ERROR "the Jinja engine is not in ${jinja_root}: run 'tools/setup.sh build', or set OVERPROOF_JINJA_ROOT")
endif()
add_library(overproof_jinja STATIC cmake/jinja/python_float.cc "${jinja_root}/unicode.cpp" "${jinja_root}/jinja/lexer.cpp"
            "${jinja_root}/jinja/parser.cpp" "${jinja_root}/jinja/runtime.cpp" "${jinja_root}/jinja/string.cpp" "${jinja_root}/jinja/value.cpp")
# Not jinja_root/jinja itself: its string.h is not that of C.
set(jinja_options "SHELL:-isystem ${CMAKE_SOURCE_DIR}/cmake/jinja -isystem ${jinja_root} -include ${CMAKE_SOURCE_DIR}/cmake/jinja/python_float.h")
# Its assertions are about templates, which may be hostile: they stay on, and end the process that renders (data/chat_template.h).
target_compile_options(overproof_jinja PRIVATE ${jinja_options} -O1 -w -UNDEBUG)
target_link_libraries(overproof_jinja PUBLIC nlohmann_json::nlohmann_json fmt::fmt)
# The one file that includes its headers.
set_source_files_properties(data/jinja_engine.cc PROPERTIES COMPILE_OPTIONS
                            "-isystem;${CMAKE_SOURCE_DIR}/cmake/jinja;-isystem;${jinja_root};-include;${CMAKE_SOURCE_DIR}/cmake/jinja/python_float.h")
