# Stands in for Slicer's own SlicerConfig.cmake, so that configuring and installing can be tested without Slicer: the
# macros that the extension calls, with the arguments and places that Slicer gives them.
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
