/* A program that knows nothing of the simulator: CANN's headers, CANN's libraries, one copy to a device and back. */
#include <stdio.h>
#include <string.h>

#include "acl/acl.h"
#include "aclnn/acl_meta.h"

#define CHECK(call)                                             \
    do {                                                        \
        int code = (call);                                      \
        if (code != 0) {                                        \
            const char *text = aclGetRecentErrMsg();            \
            printf("%s: %d %s\n", #call, code, text ? text : ""); \
            return 1;                                           \
        }                                                       \
    } while (0)

int main(void) {
    int64_t dims[2] = {4, 8};
    int64_t strides[2] = {8, 1};
    float sent[32], received[32];
    uint32_t devices = 0;
    void *memory = NULL;
    aclrtStream stream = NULL;
    for (int i = 0; i < 32; ++i) {
        sent[i] = (float)i / 4;
        received[i] = -1;
    }
    CHECK(aclInit(NULL));
    CHECK(aclrtGetDeviceCount(&devices));
    CHECK(aclrtSetDevice(0));
    CHECK(aclrtCreateStream(&stream));
    CHECK(aclrtMalloc(&memory, sizeof(sent), ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMemcpy(memory, sizeof(sent), sent, sizeof(sent), ACL_MEMCPY_HOST_TO_DEVICE));
    aclTensor *tensor = aclCreateTensor(dims, 2, ACL_FLOAT, strides, 0, ACL_FORMAT_ND, dims, 2, memory);
    if (tensor == NULL) {
        printf("no tensor\n");
        return 1;
    }
    CHECK(aclDestroyTensor(tensor));
    CHECK(aclrtMemcpy(received, sizeof(received), memory, sizeof(sent), ACL_MEMCPY_DEVICE_TO_HOST));
    CHECK(aclrtFree(memory));
    CHECK(aclrtDestroyStream(stream));
    CHECK(aclrtResetDevice(0));
    printf("%s, %u devices, copy %s\n", aclrtGetSocName(), devices,
           memcmp(sent, received, sizeof(sent)) == 0 ? "equal" : "different");
    CHECK(aclFinalize());
    return 0;
}
