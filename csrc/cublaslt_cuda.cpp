// Products y = residual + scale · act(x · Wᵀ + b) by cuBLASLt, each with one algorithm for any number of rows.
//
// The library is loaded at run time, and nothing of CUDA's is linked or included for it. Its interface is declared here
// as far as it is used, with the names of cublasLt.h without their prefixes; values and layouts are the same in CUDA 12
// and 13: https://docs.nvidia.com/cuda/cublas/#cublaslt-datatypes-reference
//
// cuBLASLt's matrices have contiguous columns, ours contiguous rows: it computes yᵀ = W · xᵀ, with x and y as they are
// and W transposed. What is a row to us, is a column to cuBLASLt.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace seamless {

namespace {

using Status = int;
constexpr Status NOT_SUPPORTED = 15;

constexpr int R_32F = 0, R_16F = 2, R_16BF = 14;  // cudaDataType_t
constexpr int COMPUTE_32F = 68;                   // sums in float32; float32 operands are not rounded to TF32
constexpr int32_t OP_T = 1;
enum MatmulDescAttribute { TRANSA = 3, EPILOGUE = 7, BIAS_POINTER = 8 };
enum LayoutAttribute { COLS = 3, LD = 4 };
enum PreferenceAttribute { MAX_WORKSPACE_BYTES = 1, REDUCTION_SCHEME_MASK = 3, MIN_ALIGNMENT_A = 5 };  // B, C, D follow
enum AlgoAttribute {
    ID,
    TILE,
    SPLITK_NUM,
    REDUCTION_SCHEME,
    CTA_SWIZZLING,
    CUSTOM_OPTION,
    STAGES,
    INNER_SHAPE,
    CLUSTER_SHAPE,
};
constexpr uint32_t EPILOGUE_DEFAULT = 1, EPILOGUE_RELU = 2, EPILOGUE_BIAS = 4;
constexpr uint32_t REDUCTION_SCHEME_NONE = 0;

struct Context;
struct MatmulDesc;
struct Layout;
struct Preference;
struct Algo {
    uint64_t data[8];
};
struct HeuristicResult {
    Algo algo;
    size_t workspace_bytes;
    Status state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96);

constexpr int OFFERED = 32;         // algorithms that the heuristic is asked for, best first
constexpr uint64_t ALIGNMENT = 16;  // bytes of the widest load; pointers need not be aligned to more
// Numbers of rows that an algorithm must take before it is chosen.
constexpr uint64_t PROBED_ROWS[] = {1, 2, 3, 5, 8, 13, 31, 64, 127, 320, 1280, 2000, 16'001};

struct Type {
    int code;
    uint64_t bytes;
};

Type type_of(const std::string& name) {
    if (name == "float32") return {R_32F, 4};
    if (name == "float16") return {R_16F, 2};
    if (name == "bfloat16") return {R_16BF, 2};
    throw py::value_error("there is no product of " + name);
}

[[noreturn]] void not_implemented(const std::string& what) {
    PyErr_SetString(PyExc_NotImplementedError, what.c_str());
    throw py::error_already_set();
}

// The largest alignment, of those that matter, of every row of a matrix whose first row has it.
uint64_t alignment_of(uint64_t row_bytes) { return std::min(ALIGNMENT, row_bytes & (~row_bytes + 1)); }

class Library {
   public:
    explicit Library(const std::string& path) : object_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), dlclose) {
        if (!object_) throw std::runtime_error(std::string("cuBLASLt cannot be loaded: ") + dlerror());
        load(version, "cublasLtGetVersion");
        load(status_name, "cublasLtGetStatusName");
        load(status_string, "cublasLtGetStatusString");
        load(create, "cublasLtCreate");
        load(destroy, "cublasLtDestroy");
        load(desc_create, "cublasLtMatmulDescCreate");
        load(desc_destroy, "cublasLtMatmulDescDestroy");
        load(desc_set, "cublasLtMatmulDescSetAttribute");
        load(layout_create, "cublasLtMatrixLayoutCreate");
        load(layout_destroy, "cublasLtMatrixLayoutDestroy");
        load(layout_set, "cublasLtMatrixLayoutSetAttribute");
        load(preference_create, "cublasLtMatmulPreferenceCreate");
        load(preference_destroy, "cublasLtMatmulPreferenceDestroy");
        load(preference_set, "cublasLtMatmulPreferenceSetAttribute");
        load(heuristic, "cublasLtMatmulAlgoGetHeuristic");
        load(algo_check, "cublasLtMatmulAlgoCheck");
        load(algo_get, "cublasLtMatmulAlgoConfigGetAttribute");
        load(matmul, "cublasLtMatmul");
        check(create(&context), "cublasLtCreate");
    }
    ~Library() { destroy(context); }
    Library(const Library&) = delete;

    void check(Status status, const char* call) const {
        if (status == 0) return;
        throw std::runtime_error(std::string(call) + ": " + status_string(status) + " (" + status_name(status) + ")");
    }

    size_t (*version)() = nullptr;
    const char* (*status_name)(Status) = nullptr;
    const char* (*status_string)(Status) = nullptr;
    Status (*create)(Context**) = nullptr;
    Status (*destroy)(Context*) = nullptr;
    Status (*desc_create)(MatmulDesc**, int compute_type, int scale_type) = nullptr;
    Status (*desc_destroy)(MatmulDesc*) = nullptr;
    Status (*desc_set)(MatmulDesc*, int attribute, const void*, size_t) = nullptr;
    Status (*layout_create)(Layout**, int type, uint64_t rows, uint64_t cols, int64_t ld) = nullptr;
    Status (*layout_destroy)(Layout*) = nullptr;
    Status (*layout_set)(Layout*, int attribute, const void*, size_t) = nullptr;
    Status (*preference_create)(Preference**) = nullptr;
    Status (*preference_destroy)(Preference*) = nullptr;
    Status (*preference_set)(Preference*, int attribute, const void*, size_t) = nullptr;
    Status (*heuristic)(Context*, MatmulDesc*, Layout* a, Layout* b, Layout* c, Layout* d, Preference*, int requested,
                        HeuristicResult*, int* returned) = nullptr;
    Status (*algo_check)(Context*, MatmulDesc*, Layout* a, Layout* b, Layout* c, Layout* d, const Algo*,
                         HeuristicResult*) = nullptr;
    Status (*algo_get)(const Algo*, int attribute, void*, size_t, size_t* written) = nullptr;
    Status (*matmul)(Context*, MatmulDesc*, const void* alpha, const void* a, Layout*, const void* b, Layout*,
                     const void* beta, const void* c, Layout*, void* d, Layout*, const Algo*, void* workspace,
                     size_t workspace_bytes, void* stream) = nullptr;
    Context* context = nullptr;

   private:
    template <typename Function>
    void load(Function& function, const char* name) {
        function = reinterpret_cast<Function>(dlsym(object_.get(), name));
        if (!function) throw std::runtime_error(std::string("cuBLASLt has no function ") + name);
    }
    std::unique_ptr<void, int (*)(void*)> object_;
};

template <typename T>
using Owned = std::unique_ptr<T, Status (*)(T*)>;

class Product {
   public:
    Product(std::shared_ptr<Library> library, uint64_t out, uint64_t in, const std::string& type,
            const std::string& out_type, bool bias, bool relu, bool residual, uint64_t reference_rows)
        : lt_(std::move(library)),
          name_(std::to_string(out) + "×" + std::to_string(in) + " " + type + " to " + out_type + (bias ? ", bias" : "") +
                (relu ? ", relu" : "") + (residual ? ", residual" : "")),
          out_(out),
          in_(in),
          has_bias_(bias),
          has_residual_(residual),
          alignment_x_(alignment_of(in * type_of(type).bytes)),
          alignment_y_(alignment_of(out * type_of(out_type).bytes)),
          desc_(nullptr, lt_->desc_destroy),
          w_(layout(type_of(type).code, in, out)),
          x_(layout(type_of(type).code, in, reference_rows)),
          residual_(layout(type_of(out_type).code, out, reference_rows)),
          y_(layout(type_of(out_type).code, out, reference_rows)) {
        MatmulDesc* desc = nullptr;
        lt_->check(lt_->desc_create(&desc, COMPUTE_32F, R_32F), "cublasLtMatmulDescCreate");
        desc_.reset(desc);
        set(TRANSA, OP_T);
        set(EPILOGUE, (bias || relu ? 0 : EPILOGUE_DEFAULT) | (bias ? EPILOGUE_BIAS : 0) | (relu ? EPILOGUE_RELU : 0));
        // The heuristic reads from this address how far a bias is aligned, and nothing else.
        if (bias) set(BIAS_POINTER, reinterpret_cast<const void*>(ALIGNMENT));
        choose();
    }

    void run(uintptr_t x, int64_t rows, int64_t stride_x, uintptr_t weight, uintptr_t bias, uintptr_t residual,
             int64_t stride_residual, uintptr_t y, float scale, uintptr_t stream) {
        require(rows >= 1, "rows must be at least 1");
        require(stride_x >= static_cast<int64_t>(in_), "the rows of x overlap");
        require((weight | x) % alignment_x_ == 0 && (residual | y) % alignment_y_ == 0, "a matrix is not aligned");
        require(has_bias_ == (bias != 0) && bias % ALIGNMENT == 0, "the bias is missing, not expected, or not aligned");
        require(has_residual_ == (residual != 0), "the residual is missing, or not expected");
        if (!has_residual_) residual = y, stride_residual = static_cast<int64_t>(out_);
        set_rows(rows, stride_x, stride_residual);
        if (has_bias_) set(BIAS_POINTER, bias);
        const float beta = has_residual_ ? 1.0f : 0.0f;
        const auto pointer = [](uintptr_t address) { return reinterpret_cast<void*>(address); };
        lt_->check(lt_->matmul(lt_->context, desc_.get(), &scale, pointer(weight), w_.get(), pointer(x), x_.get(),
                               &beta, pointer(residual), residual_.get(), pointer(y), y_.get(), &algo_, nullptr, 0,
                               pointer(stream)),
                   "cublasLtMatmul");
    }

    // Bytes, of the addresses and the strides of x, and of those of the residual.
    uint64_t alignment_x() const { return alignment_x_; }
    uint64_t alignment_residual() const { return alignment_y_; }

    const std::string& name() const { return name_; }

    py::dict algorithm() const {
        using namespace py::literals;
        return py::dict("id"_a = config<int32_t>(algo_, ID), "tile"_a = config<uint32_t>(algo_, TILE),
                        "stages"_a = config<uint32_t>(algo_, STAGES), "split_k"_a = config<int32_t>(algo_, SPLITK_NUM),
                        "swizzling"_a = config<uint32_t>(algo_, CTA_SWIZZLING),
                        "custom"_a = config<uint32_t>(algo_, CUSTOM_OPTION),
                        "inner_shape"_a = config<uint16_t>(algo_, INNER_SHAPE),
                        "cluster"_a = config<uint16_t>(algo_, CLUSTER_SHAPE));
    }

   private:
    static void require(bool holds, const char* what) {
        if (!holds) throw py::value_error(what);
    }

    Owned<Layout> layout(int type, uint64_t rows, uint64_t cols) const {
        Layout* made = nullptr;
        const auto ld = static_cast<int64_t>(rows);
        lt_->check(lt_->layout_create(&made, type, rows, cols, ld), "cublasLtMatrixLayoutCreate");
        return {made, lt_->layout_destroy};
    }

    template <typename T>
    void set(MatmulDescAttribute attribute, T value) const {
        lt_->check(lt_->desc_set(desc_.get(), attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
    }

    void set(const Owned<Layout>& layout, LayoutAttribute attribute, int64_t value) const {
        lt_->check(lt_->layout_set(layout.get(), attribute, &value, sizeof(value)), "cublasLtMatrixLayoutSetAttribute");
    }

    template <typename T>
    void set(const Owned<Preference>& preference, int attribute, T value) const {
        lt_->check(lt_->preference_set(preference.get(), attribute, &value, sizeof(value)),
                   "cublasLtMatmulPreferenceSetAttribute");
    }

    template <typename T>
    T config(const Algo& algo, AlgoAttribute attribute) const {
        T value{};
        size_t written = 0;
        lt_->check(lt_->algo_get(&algo, attribute, &value, sizeof(value), &written),
                   "cublasLtMatmulAlgoConfigGetAttribute");
        return value;
    }

    // The layouts stay those of the last call: what has not changed is not set again.
    void set_rows(int64_t rows, int64_t stride_x, int64_t stride_residual) {
        if (rows == rows_ && stride_x == stride_x_ && stride_residual == stride_residual_) return;
        rows_ = 0;  // until all are set
        for (const auto* each : {&x_, &residual_, &y_}) set(*each, COLS, rows);
        set(x_, LD, stride_x);
        set(residual_, LD, stride_residual);
        rows_ = rows, stride_x_ = stride_x, stride_residual_ = stride_residual;
    }

    // The best algorithm for the reference rows that leaves a sum to one program and takes any number of rows.
    void choose() {
        Preference* made = nullptr;
        lt_->check(lt_->preference_create(&made), "cublasLtMatmulPreferenceCreate");
        const Owned<Preference> preference(made, lt_->preference_destroy);
        set(preference, MAX_WORKSPACE_BYTES, uint64_t{0});
        set(preference, REDUCTION_SCHEME_MASK, REDUCTION_SCHEME_NONE);
        const uint64_t alignments[] = {alignment_x_, alignment_x_, alignment_y_, alignment_y_};
        for (int i = 0; i < 4; ++i) set(preference, MIN_ALIGNMENT_A + i, static_cast<uint32_t>(alignments[i]));

        HeuristicResult offered[OFFERED];
        int count = 0;
        const Status status = lt_->heuristic(lt_->context, desc_.get(), w_.get(), x_.get(), residual_.get(), y_.get(),
                                             preference.get(), OFFERED, offered, &count);
        if (status != NOT_SUPPORTED) lt_->check(status, "cublasLtMatmulAlgoGetHeuristic");
        for (int i = 0; status == 0 && i < count; ++i) {
            algo_ = offered[i].algo;
            if (offered[i].state == 0 && offered[i].workspace_bytes == 0 && is_one_sum() && takes_any_rows()) return;
        }
        not_implemented("of " + std::to_string(status == 0 ? count : 0) + " algorithms of cuBLASLt for " + name_ +
                        " none takes any number of rows without split-K and workspace");
    }

    bool is_one_sum() const {
        return config<int32_t>(algo_, SPLITK_NUM) <= 1 &&
               config<uint32_t>(algo_, REDUCTION_SCHEME) == REDUCTION_SCHEME_NONE;
    }

    bool takes_any_rows() {
        for (const uint64_t rows : PROBED_ROWS) {
            set_rows(static_cast<int64_t>(rows), static_cast<int64_t>(in_), static_cast<int64_t>(out_));
            HeuristicResult result{};
            const Status status = lt_->algo_check(lt_->context, desc_.get(), w_.get(), x_.get(), residual_.get(),
                                                  y_.get(), &algo_, &result);
            if (status != 0 || result.workspace_bytes != 0) return false;
        }
        return true;
    }

    std::shared_ptr<Library> lt_;
    std::string name_;
    uint64_t out_, in_;
    bool has_bias_, has_residual_;
    uint64_t alignment_x_, alignment_y_;
    Owned<MatmulDesc> desc_;
    Owned<Layout> w_, x_, residual_, y_;
    Algo algo_{};
    int64_t rows_ = 0, stride_x_ = 0, stride_residual_ = 0;
};

}  // namespace

void bind_cublaslt(py::module_& m) {
    using namespace py::literals;
    py::class_<Library, std::shared_ptr<Library>>(m, "CublasLt", "cuBLASLt from a file, for the current device.")
        .def(py::init<const std::string&>(), "path"_a)
        .def_property_readonly("version", [](const Library& library) { return library.version(); });
    py::class_<Product>(m, "CublasLtProduct", "x · Wᵀ with its epilogue: see cublaslt_cuda.cpp.")
        .def(py::init<std::shared_ptr<Library>, uint64_t, uint64_t, const std::string&, const std::string&, bool, bool,
                      bool, uint64_t>(),
             "library"_a, "out"_a, "inner"_a, "dtype"_a, "out_dtype"_a, py::kw_only(), "bias"_a, "relu"_a, "residual"_a,
             "reference_rows"_a)
        .def_property_readonly("name", &Product::name)
        .def_property_readonly("alignment_x", &Product::alignment_x)
        .def_property_readonly("alignment_residual", &Product::alignment_residual)
        .def("algorithm", &Product::algorithm, "what cuBLASLt's configuration attributes say of it")
        .def("run", &Product::run,
             "x, rows, stride of x, weight, bias, residual, stride of the residual, y, scale, stream");
}

}  // namespace seamless
