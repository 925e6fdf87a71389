// Shared by the files of this library.

#pragma once

#include <cstdint>

#if defined(_WIN32)
#define MDQE_EXPORT extern "C" __declspec(dllexport)
#else
#define MDQE_EXPORT extern "C" __attribute__((visibility("default")))
#endif
