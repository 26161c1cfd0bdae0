// A cuBLASLt for tests: computes on the CPU from its descriptors, records calls, and fails where it is told to.
//
// It has the functions of cublasLt.h that csrc/cublaslt_cuda.cpp calls, with the values of that header written out once
// more. What begins with stub_ is for tests alone.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15;

struct Desc {
    int compute_type, scale_type;
    int32_t transa = 0, transb = 0;
    uint32_t epilogue = 1;
    const void* bias = nullptr;
};
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reduction_mask = 7, alignments[4] = {256, 256, 256, 256};
};
struct Algo {
    int32_t id, split_k;
    uint32_t reduction, workspace, most_rows, alignments[4];
    uint32_t unused[7];
};
struct Result {
    Algo algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Algo) == 64 && sizeof(Result) == 96);

std::vector<Result> offers;
std::string failing, record;
int failure = SUCCESS, objects = 0;
bool relu_keeps_nan = true, depends_on_rows = false;

int outcome(const char* function) { return failing == function ? failure : SUCCESS; }

template <typename T, typename... Fields>
int make(const char* function, T** made, Fields... fields) {
    const int status = outcome(function);
    if (status == SUCCESS) *made = new T{fields...}, ++objects;
    return status;
}

template <typename T>
int drop(T* object) {
    --objects;
    delete object;
    return SUCCESS;
}

template <typename T>
int assign(T& field, const void* value, size_t size) {
    if (size != sizeof(T)) return INVALID_VALUE;
    std::memcpy(&field, value, size);
    return SUCCESS;
}

std::string number(const char* name, int64_t value) {
    return (name[0] ? "\"" + std::string(name) + "\": " : std::string()) + std::to_string(value);
}
std::string number(const char* name, const void* value) { return number(name, reinterpret_cast<int64_t>(value)); }

std::string text(const Layout& layout) {
    return "[" + number("", layout.type) + ", " + number("", static_cast<int64_t>(layout.rows)) + ", " +
           number("", static_cast<int64_t>(layout.cols)) + ", " + number("", layout.ld) + "]";
}

// One call as an element of a JSON list.
void note(const char* call, const Desc& desc, std::initializer_list<const Layout*> layouts,
          std::initializer_list<std::string> fields) {
    record += std::string(record.empty() ? "" : ", ") + "{\"call\": \"" + call + "\", ";
    record += number("compute_type", desc.compute_type) + ", " + number("scale_type", desc.scale_type) + ", " +
              number("transa", desc.transa) + ", " + number("transb", desc.transb) + ", " +
              number("epilogue", desc.epilogue) + ", " + number("bias", desc.bias) + ", \"layouts\": [";
    for (const auto* layout : layouts) record += (layout == *layouts.begin() ? "" : ", ") + text(*layout);
    record += "]";
    for (const auto& field : fields) record += ", " + field;
    record += "}";
}

float at(const void* data, int type, int64_t i) {
    if (type == 0) return static_cast<const float*>(data)[i];
    if (type == 2) return static_cast<float>(static_cast<const _Float16*>(data)[i]);
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

void put(void* data, int type, int64_t i, float value) {
    if (type == 0) {
        static_cast<float*>(data)[i] = value;
    } else if (type == 2) {
        static_cast<_Float16*>(data)[i] = static_cast<_Float16>(value);
    } else {
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const uint32_t even = (bits >> 16) & 1;
        static_cast<uint16_t*>(data)[i] = std::isnan(value) ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + even) >> 16);
    }
}

}  // namespace

EXPORT void stub_reset() {
    offers.clear();
    failing.clear();
    record.clear();
    relu_keeps_nan = true, depends_on_rows = false;
}
EXPORT void stub_offer(int id, int split_k, uint32_t reduction, uint32_t workspace, uint32_t most_rows, int state) {
    Result offer{};
    offer.algo.id = id, offer.algo.split_k = split_k, offer.algo.reduction = reduction;
    offer.algo.workspace = workspace, offer.algo.most_rows = most_rows;
    offer.workspace = workspace, offer.state = state;
    offers.push_back(offer);
}
EXPORT void stub_fail(const char* function, int status) { failing = function, failure = status; }
EXPORT void stub_relu_drops_nan() { relu_keeps_nan = false; }
EXPORT void stub_depend_on_rows() { depends_on_rows = true; }
EXPORT int stub_objects() { return objects; }
EXPORT const char* stub_record() { return record.c_str(); }

EXPORT size_t cublasLtGetVersion() { return 130101; }
EXPORT const char* cublasLtGetStatusName(int status) { return status == 13 ? "EXECUTION_FAILED" : "ANOTHER_STATUS"; }
EXPORT const char* cublasLtGetStatusString(int status) { return status == 13 ? "execution failed" : "another failure"; }

EXPORT int cublasLtCreate(int** context) { return make("cublasLtCreate", context); }
EXPORT int cublasLtDestroy(int* context) { return drop(context); }

EXPORT int cublasLtMatmulDescCreate(Desc** desc, int compute_type, int scale_type) {
    return make("cublasLtMatmulDescCreate", desc, compute_type, scale_type);
}
EXPORT int cublasLtMatmulDescDestroy(Desc* desc) { return drop(desc); }
EXPORT int cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t size) {
    if (const int status = outcome("cublasLtMatmulDescSetAttribute")) return status;
    switch (attribute) {
        case 3: return assign(desc->transa, value, size);
        case 4: return assign(desc->transb, value, size);
        case 7: return assign(desc->epilogue, value, size);
        case 8: return assign(desc->bias, value, size);
        default: return INVALID_VALUE;
    }
}

EXPORT int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    return make("cublasLtMatrixLayoutCreate", layout, type, rows, cols, ld);
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) { return drop(layout); }
EXPORT int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t size) {
    if (const int status = outcome("cublasLtMatrixLayoutSetAttribute")) return status;
    switch (attribute) {
        case 3: return assign(layout->cols, value, size);
        case 4: return assign(layout->ld, value, size);
        default: return INVALID_VALUE;
    }
}

EXPORT int cublasLtMatmulPreferenceCreate(Preference** preference) {
    return make("cublasLtMatmulPreferenceCreate", preference);
}
EXPORT int cublasLtMatmulPreferenceDestroy(Preference* preference) { return drop(preference); }
EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t size) {
    if (attribute == 1) return assign(preference->workspace, value, size);
    if (attribute == 3) return assign(preference->reduction_mask, value, size);
    if (attribute >= 5 && attribute <= 8) return assign(preference->alignments[attribute - 5], value, size);
    return INVALID_VALUE;
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(int*, Desc* desc, Layout* a, Layout* b, Layout* c, Layout* d,
                                          Preference* preference, int requested, Result* results, int* returned) {
    const uint32_t* alignments = preference->alignments;
    std::string listed = "\"alignments\": [";
    for (int i = 0; i < 4; ++i) listed += (i ? ", " : "") + std::to_string(alignments[i]);
    note("heuristic", *desc, {a, b, c, d},
         {listed + "]", number("workspace", static_cast<int64_t>(preference->workspace)),
          number("reduction_mask", preference->reduction_mask)});
    if (const int status = outcome("cublasLtMatmulAlgoGetHeuristic")) return status;
    *returned = std::min<int>(requested, static_cast<int>(offers.size()));
    for (int i = 0; i < *returned; ++i) {
        results[i] = offers[i];
        std::copy(alignments, alignments + 4, results[i].algo.alignments);
    }
    return SUCCESS;
}

EXPORT int cublasLtMatmulAlgoCheck(int*, Desc*, Layout* a, Layout* b, Layout* c, Layout* d, const Algo* algo,
                                   Result* result) {
    result->workspace = algo->workspace;
    const bool fits = a->rows == b->rows && d->rows == a->cols && d->cols == b->cols && c->cols == d->cols;
    return !fits ? INVALID_VALUE : d->cols > algo->most_rows ? NOT_SUPPORTED : SUCCESS;
}

EXPORT int cublasLtMatmulAlgoConfigGetAttribute(const Algo* algo, int attribute, void* value, size_t size, size_t*) {
    if (size != (attribute >= 7 ? 2 : 4)) return INVALID_VALUE;
    const int32_t known[] = {algo->id, 0, algo->split_k, static_cast<int32_t>(algo->reduction)};
    const int32_t found = attribute < 4 ? known[attribute] : 0;
    std::memcpy(value, &found, size);
    return SUCCESS;
}

EXPORT int cublasLtMatmul(int*, Desc* desc, const float* alpha, const void* a, Layout* la, const void* b, Layout* lb,
                          const float* beta, const void* c, Layout* lc, void* d, Layout* ld, const Algo* algo,
                          void* workspace, size_t workspace_bytes, void* stream) {
    note("matmul", *desc, {la, lb, lc, ld},
         {number("a", a), number("b", b), number("c", c), number("d", d), number("algo", algo->id),
          number("workspace", workspace), number("workspace_bytes", static_cast<int64_t>(workspace_bytes)),
          number("stream", stream)});
    if (const int status = outcome("cublasLtMatmul")) return status;
    const void* pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i)
        if (reinterpret_cast<uintptr_t>(pointers[i]) % algo->alignments[i]) return INVALID_VALUE;
    Result result{};
    if (const int status = cublasLtMatmulAlgoCheck(nullptr, desc, la, lb, lc, ld, algo, &result)) return status;
    if (result.workspace > workspace_bytes || desc->transa != 1 || desc->transb != 0) return INVALID_VALUE;

    const int64_t rows = static_cast<int64_t>(ld->rows), cols = static_cast<int64_t>(ld->cols);
    const int64_t inner = static_cast<int64_t>(la->rows);
    std::vector<float> left(static_cast<size_t>(inner * rows)), sums(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < inner; ++k) left[k * rows + i] = at(a, la->type, i * la->ld + k);
    const bool descending = depends_on_rows && cols > 40;
    for (int64_t j = 0; j < cols; ++j) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t step = 0; step < inner; ++step) {
            const int64_t k = descending ? inner - 1 - step : step;
            const float right = at(b, lb->type, j * lb->ld + k);
            for (int64_t i = 0; i < rows; ++i) sums[i] += left[k * rows + i] * right;
        }
        for (int64_t i = 0; i < rows; ++i) {
            float value = *alpha * sums[i];
            if (*beta != 0.0f) value += *beta * at(c, lc->type, j * lc->ld + i);
            if (desc->epilogue & 4) value += at(desc->bias, ld->type, i);
            if ((desc->epilogue & 2) && !(value > 0.0f) && !(std::isnan(value) && relu_keeps_nan)) value = 0.0f;
            put(d, ld->type, j * ld->ld + i, value);
        }
    }
    return SUCCESS;
}
