// NVIDIA's driver as far as an engine asks it before there is work: what it answers stands in the environment.

#include <cstdlib>
#include <cstring>

namespace {

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

}  // namespace

extern "C" {

int cuDriverGetVersion(int* version) {
  const int status = number("STUB_VERSION", 0);
  if (status == 0) *version = number("STUB_CUDA", 13000);
  return status;
}

int cuInit(unsigned) { return number("STUB_INIT", 0); }

int cuDeviceGetCount(int* count) {
  *count = number("STUB_COUNT", 1);
  return 0;
}

int cuDeviceGet(int* device, int index) {
  *device = index;
  return 0;
}

int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "Stub GPU", size);
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  const int capability = number("STUB_CAPABILITY", 90);
  *value = attribute == kMajor ? capability / 10 : attribute == kMinor ? capability % 10 : 0;
  return 0;
}

int cuGetErrorName(int, const char** name) {
  *name = "CUDA_ERROR_OF_THE_STUB";
  return 0;
}

// The runtime and the bindings get functions here; all but those above answer "not initialised".
int other() { return 3; }

int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* status) {
  const struct {
    const char* name;
    void* function;
  } known[] = {
      {"cuDriverGetVersion", reinterpret_cast<void*>(cuDriverGetVersion)},
      {"cuInit", reinterpret_cast<void*>(cuInit)},
      {"cuDeviceGetCount", reinterpret_cast<void*>(cuDeviceGetCount)},
      {"cuDeviceGet", reinterpret_cast<void*>(cuDeviceGet)},
      {"cuDeviceGetName", reinterpret_cast<void*>(cuDeviceGetName)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(cuDeviceGetAttribute)},
      {"cuGetErrorName", reinterpret_cast<void*>(cuGetErrorName)},
      {"cuGetProcAddress", reinterpret_cast<void*>(cuGetProcAddress_v2)},
  };
  *function = reinterpret_cast<void*>(other);
  for (const auto& one : known) {
    if (!std::strcmp(name, one.name)) *function = one.function;
  }
  if (status) *status = 0;
  return 0;
}

}  // extern "C"
