// NVIDIA's driver as far as an engine asks it before there is work: what it answers stands in the environment.

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

using Handle = unsigned long long;

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

// Contexts, memory, events and captures, as far as the engines ask the driver for them themselves.

constexpr int kInvalid = 1, kOutOfMemory = 2, kNoContext = 201, kCaptured = 900;
constexpr int kGlobal = 0, kRelaxed = 2;

struct Context {
  int device;
};

Context primary[4] = {{0}, {1}, {2}, {3}};
Context foreign = {0};
std::atomic<int> made[4];                         // how often a device's primary context was asked for
std::atomic<long long> room{1LL << 62};           // bytes that are left
std::atomic<int> events{0}, streams{0};           // that are there
std::atomic<int> capture{-1}, spoilt{0};          // the mode of somebody's capture, and whether it is invalid
std::map<Handle, std::pair<size_t, int>> memory;  // that is there: its size and its device
std::mutex lock;
thread_local Context* current = nullptr;
thread_local int mode = kGlobal;

int unsafe() {
  if (!current) return kNoContext;
  if (capture != kGlobal || mode == kRelaxed) return 0;
  spoilt = 1;
  return kCaptured;
}

int allocate(void** address, size_t size) {
  if (const int status = unsafe()) return status;
  if (static_cast<long long>(size) > room) return kOutOfMemory;
  room -= size;
  *address = std::aligned_alloc(256, (size + 255) / 256 * 256);
  std::memset(*address, 0xA5, size);
  const std::lock_guard<std::mutex> guard(lock);
  memory[reinterpret_cast<Handle>(*address)] = {size, current->device};
  return 0;
}

int release(Handle address) {
  if (const int status = unsafe()) return status;
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = memory.find(address);
  if (found == memory.end() || found->second.second != current->device) return kInvalid;
  room += found->second.first;
  std::free(reinterpret_cast<void*>(address));
  memory.erase(found);
  return 0;
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
  *value = attribute == kMajor ? capability / 10 : attribute == kMinor ? capability % 10 : attribute == 16 ? 132 : 0;
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

int cuDevicePrimaryCtxRetain(Context** context, int device) {
  ++made[device];
  *context = &primary[device];
  return 0;
}

int cuCtxGetCurrent(Context** context) {
  *context = current;
  return 0;
}

int cuCtxSetCurrent(Context* context) {
  current = context;
  return 0;
}

int cuCtxGetDevice(int* device) {
  if (!current) return kNoContext;
  *device = current->device;
  return 0;
}

int cuPointerGetAttribute(int* value, int, Handle address) {
  const std::lock_guard<std::mutex> guard(lock);
  for (const auto& one : memory) {
    if (one.first <= address && address < one.first + one.second.first) {
      *value = one.second.second;
      return 0;
    }
  }
  return kInvalid;
}

int cuThreadExchangeStreamCaptureMode(int* other) {
  std::swap(*other, mode);
  return 0;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  *free = *total = room;
  return current ? 0 : kNoContext;
}

int cuMemAlloc_v2(void** address, size_t size) { return allocate(address, size); }
int cuMemFree_v2(Handle address) { return release(address); }
int cuMemHostAlloc(void** address, size_t size, unsigned) { return allocate(address, size); }
int cuMemFreeHost(void* address) { return release(reinterpret_cast<Handle>(address)); }

int cuMemsetD8Async(Handle address, unsigned char value, size_t size, void* stream) {
  if (!current || !stream) return kInvalid;  // the default stream waits for the caller's
  std::memset(reinterpret_cast<void*>(address), value, size);
  return 0;
}

int cuStreamCreate(void** stream, unsigned) {
  *stream = &streams;
  ++streams;
  return current ? 0 : kNoContext;
}

int cuStreamDestroy_v2(void*) {
  --streams;
  return 0;
}

int cuStreamSynchronize(void*) { return current ? 0 : kNoContext; }
int cuStreamWaitEvent(void*, void*, unsigned) { return current ? 0 : kNoContext; }

int cuEventCreate(void** event, unsigned) {
  if (const int status = unsafe()) return status;
  ++events;
  *event = &events;
  return 0;
}

int cuEventDestroy_v2(void*) {
  if (const int status = unsafe()) return status;
  --events;
  return 0;
}

int cuEventRecord(void*, void*) { return current ? 0 : kNoContext; }
int cuEventSynchronize(void*) { return current ? 0 : kNoContext; }

// What a test says and asks beside.

int stub_made(int device) { return made[device]; }
int stub_events() { return events; }
int stub_streams() { return streams; }
int stub_memories() { return static_cast<int>(memory.size()); }
void stub_room(long long bytes) { room = bytes; }
void* stub_foreign() { return &foreign; }
void stub_begin_capture(int how) {
  capture = how;
  spoilt = 0;
}
int stub_end_capture() {  // whether it is spoilt
  capture = -1;
  return spoilt;
}

}  // extern "C"
