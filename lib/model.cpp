// The architectures behind model_parameters(), and the naming that Hugging Face checkpoints share.
#include <algorithm>
#include <array>
#include <string>
#include <tenon/model.hpp>
#include <utility>

namespace tenon {
namespace {

// The numbers of a model's config.json that decide its tensors.
struct Architecture {
  std::string_view name;
  std::uint32_t layers;
  std::uint64_t hidden;
  std::uint64_t intermediate;  // of each expert, where there are experts
  std::uint64_t heads;
  std::uint64_t kv_heads;
  std::uint64_t head_dim;
  std::uint64_t vocab;
  std::uint32_t experts;  // 0: one dense MLP per layer
  bool tied_embeddings;   // lm_head is the embedding matrix
  bool qk_norm;
};

constexpr std::array<Architecture, 3> kArchitectures{{
    {.name = "llama-3.2-1b",
     .layers = 16,
     .hidden = 2048,
     .intermediate = 8192,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 64,
     .vocab = 128256,
     .experts = 0,
     .tied_embeddings = true,
     .qk_norm = false},
    {.name = "llama-3.1-8b",
     .layers = 32,
     .hidden = 4096,
     .intermediate = 14336,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 128,
     .vocab = 128256,
     .experts = 0,
     .tied_embeddings = false,
     .qk_norm = false},
    {.name = "qwen3-30b-a3b",
     .layers = 48,
     .hidden = 2048,
     .intermediate = 768,
     .heads = 32,
     .kv_heads = 4,
     .head_dim = 128,
     .vocab = 151936,
     .experts = 128,
     .tied_embeddings = false,
     .qk_norm = true},
}};

class Builder {
 public:
  explicit Builder(const Architecture& architecture) : a_(architecture) {}

  std::vector<Parameter> build(std::uint32_t layers) {
    add("model.embed_tokens", {a_.vocab, a_.hidden});
    for (std::uint32_t i = 0; i < layers; ++i) add_layer("model.layers." + std::to_string(i) + ".");
    add("model.norm", {a_.hidden});
    if (!a_.tied_embeddings) add("lm_head", {a_.vocab, a_.hidden});
    return std::move(parameters_);
  }

 private:
  void add(std::string name, std::vector<std::uint64_t> shape) {
    parameters_.push_back({std::move(name) + ".weight", Dtype::bf16, std::move(shape)});
  }

  void add_layer(const std::string& layer) {
    add(layer + "input_layernorm", {a_.hidden});
    for (std::uint32_t e = 0; e < a_.experts; ++e) {
      add_mlp(layer + "mlp.experts." + std::to_string(e) + ".");
    }
    if (a_.experts == 0) {
      add_mlp(layer + "mlp.");
    } else {
      add(layer + "mlp.gate", {a_.experts, a_.hidden});
    }
    add(layer + "post_attention_layernorm", {a_.hidden});
    add_attention(layer + "self_attn.");
  }

  void add_mlp(const std::string& mlp) {
    add(mlp + "down_proj", {a_.hidden, a_.intermediate});
    add(mlp + "gate_proj", {a_.intermediate, a_.hidden});
    add(mlp + "up_proj", {a_.intermediate, a_.hidden});
  }

  void add_attention(const std::string& attention) {
    const std::uint64_t query = a_.heads * a_.head_dim, key = a_.kv_heads * a_.head_dim;
    if (a_.qk_norm) add(attention + "k_norm", {a_.head_dim});
    add(attention + "k_proj", {key, a_.hidden});
    add(attention + "o_proj", {a_.hidden, query});
    if (a_.qk_norm) add(attention + "q_norm", {a_.head_dim});
    add(attention + "q_proj", {query, a_.hidden});
    add(attention + "v_proj", {key, a_.hidden});
  }

  const Architecture& a_;
  std::vector<Parameter> parameters_;
};

}  // namespace

std::vector<std::string_view> model_names() {
  std::vector<std::string_view> names;
  names.reserve(kArchitectures.size());
  for (const Architecture& a : kArchitectures) names.push_back(a.name);
  return names;
}

std::vector<Parameter> model_parameters(std::string_view name,
                                        std::optional<std::uint32_t> layers) {
  const auto found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                  [&](const Architecture& a) { return a.name == name; });
  if (found == kArchitectures.end()) {
    std::string known;
    for (const Architecture& a : kArchitectures) {
      known += (known.empty() ? "" : ", ") + std::string(a.name);
    }
    throw Error(Errc::InvalidArgument,
                "unknown model '" + std::string(name) + "'; the known ones are " + known);
  }
  if (layers && (*layers == 0 || *layers > found->layers)) {
    throw Error(Errc::InvalidArgument, "model " + std::string(name) + " with " +
                                           std::to_string(*layers) + " layers: it has 1 to " +
                                           std::to_string(found->layers));
  }
  return Builder(*found).build(layers.value_or(found->layers));
}

}  // namespace tenon
