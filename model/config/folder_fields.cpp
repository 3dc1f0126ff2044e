#include "model/config/folder_fields.hpp"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/text.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using base::Reader;
using nlohmann::json;

/// "a | b" -> a, b.
std::vector<std::string_view> parted(std::string_view text, std::string_view by) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const auto end = std::min(text.find(by), text.size());
    parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + by.size(), text.size()));
  }
  return parts;
}

bool has_word(std::string_view words, std::string_view word) {
  const auto list = parted(words, " ");
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// "null", "1", "false or true".
std::string needed(const FolderField& row) {
  std::string text;
  for (const auto value : parted(row.values, " | "))
    text += (text.empty() ? "" : " or ") + std::string(value);
  return text.empty() ? "none" : text;
}

/// A value for a message: long ones cut.
std::string shown(const json& value) {
  constexpr std::size_t most = 60;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= most ? text : text.substr(0, most) + "…";
}

std::string family_of(const fs::path& folder) {
  if (!fs::exists(folder / "config.json")) return {};
  const auto type = Reader::json_file(folder / "config.json").find("model_type");
  return type && type->json().is_string() ? type->text() : std::string();
}

bool is_known_family(const std::string& family) {
  const auto& rows = folder_fields();
  return std::any_of(rows.begin(), rows.end(), [&](const FolderField& row) {
    return !family.empty() && has_word(row.families, family);
  });
}

/// The notes of one file's table; unknown fields share a line.
void add_notes(const Reader& table, std::string_view file, std::string_view family,
               std::vector<std::string>& notes) {
  if (!table.json().is_object()) return;
  std::string unknown;
  for (const std::string& key : table.keys()) {
    const FolderField* row = find_field(file, key, family);
    const auto field = table.find(key);
    if (!field || field->json().is_null()) continue;
    if (row == nullptr)
      unknown += (unknown.empty() ? "" : ", ") + key;
    else if (row->fate == Fate::ignored && !is_listed(*row, field->json()))
      notes.push_back("[" + table.file() + "] " + key + ": " + shown(field->json()) +
                      " is ignored (" + std::string(row->meaning) + ")");
  }
  if (!unknown.empty())
    notes.push_back("[" + table.file() + "] fields that are not known are ignored: " + unknown);
}

}  // namespace

const std::vector<FolderField>& folder_fields() {
  static const std::vector<FolderField> rows = {
      {"config.json", "model_type", "", Fate::used, "", "the family"},
      {"config.json", "architectures", "", Fate::used, "", "what the model is asked for: its head"},
      {"config.json", "cleave", "", Fate::used, "",
       "what only Cleave reads: layers that differ, the task"},
      {"config.json",
       "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act",
       "vit deit bert roberta llama qwen2 mistral", Fate::used, "", "shape of the blocks"},
      {"config.json", "dim n_layers n_heads hidden_dim activation", "distilbert", Fate::used, "",
       "shape of the blocks"},
      {"config.json", "layer_norm_eps", "vit deit bert roberta", Fate::used, "", "of the norms"},
      {"config.json", "rms_norm_eps", "llama qwen2 mistral", Fate::used, "", "of the norms"},
      {"config.json", "n_embd n_layer n_head n_inner activation_function", "gpt2", Fate::used, "",
       "shape of the blocks"},
      {"config.json", "layer_norm_epsilon", "gpt2", Fate::used, "", "of the norms"},
      {"config.json", "head_dim", "llama qwen2 mistral", Fate::used, "", "width of a head"},
      {"config.json", "num_key_value_heads", "llama qwen2 mistral", Fate::used, "",
       "grouped keys and values; 8 in mistral and 32 in qwen2 where nothing is said"},
      {"config.json", "vocab_size", "bert roberta distilbert gpt2 llama qwen2 mistral", Fate::used,
       "", "tokens"},
      {"config.json", "tie_word_embeddings", "bert roberta distilbert gpt2 llama qwen2 mistral",
       Fate::used, "", "the head is the embedding"},
      {"config.json", "tie_word_embeddings", "vit deit", Fate::no_effect, "",
       "images have no words"},
      {"config.json", "max_position_embeddings", "bert distilbert llama qwen2 mistral", Fate::used,
       "", "the context"},
      {"config.json", "max_position_embeddings pad_token_id", "roberta", Fate::used, "",
       "the context: positions begin at pad_token_id + 1"},
      {"config.json", "sinusoidal_pos_embds", "distilbert", Fate::no_effect, "",
       "the positions are in the weights"},
      {"config.json", "sliding_window", "mistral", Fate::used, "",
       "the context ends there; null: no window; nothing said: 4096"},
      {"config.json", "use_sliding_window sliding_window", "qwen2", Fate::used, "",
       "where it is used, the context ends at the window"},
      {"config.json", "max_window_layers layer_types", "qwen2 mistral", Fate::no_effect, "",
       "within the window every layer sees everything"},
      {"config.json", "use_mrope", "qwen2", Fate::only, "false", "positions in images"},
      {"config.json", "n_positions", "gpt2", Fate::used, "", "the context"},
      {"config.json", "type_vocab_size", "bert roberta", Fate::used, "", "segments"},
      {"config.json", "rope_theta rope_scaling rope_parameters", "llama qwen2 mistral", Fate::used,
       "", "rotary positions; scaled: default, linear and llama3, others are refused"},
      {"config.json", "partial_rotary_factor", "llama qwen2 mistral", Fate::only, "1",
       "the share of a head that is rotated"},
      {"config.json", "attention_bias mlp_bias", "llama", Fate::used, "", "biases of the products"},
      {"config.json", "position_embedding_type", "bert roberta", Fate::only, "\"absolute\"",
       "relative positions are not built"},
      {"config.json", "is_decoder", "gpt2 llama qwen2 mistral", Fate::no_effect, "",
       "they are decoders"},
      {"config.json", "is_decoder", "vit deit bert roberta distilbert", Fate::only, "false",
       "decoders are not built of this family"},
      {"config.json", "add_cross_attention is_encoder_decoder", "", Fate::only, "false",
       "decoders behind an encoder are not built"},
      {"config.json", "cross_attention_hidden_size", "", Fate::only, "",
       "decoders behind an encoder are not built"},
      {"config.json", "scale_attn_weights", "gpt2", Fate::only, "true",
       "scores without their scale are not built"},
      {"config.json", "scale_attn_by_inverse_layer_idx", "gpt2", Fate::only, "false",
       "another scale of the scores is not built"},
      {"config.json", "reorder_and_upcast_attn", "gpt2", Fate::no_effect, "",
       "scores are fp32 anyway"},
      {"config.json", "pruned_heads", "", Fate::only, "{}",
       "heads that are missing in the weights"},
      {"config.json", "quantization_config compression_config quantization", "", Fate::only, "",
       "quantised weights are not read: take the unquantised checkpoint, or save it dequantised"},
      {"config.json", "image_size patch_size num_channels", "vit deit", Fate::used, "",
       "shape of the image"},
      {"config.json", "qkv_bias", "vit deit", Fate::used, "", "biases of queries, keys and values"},
      {"config.json", "encoder_stride pooler_act pooler_output_size", "vit deit", Fate::no_effect,
       "", "not of the class token's state"},
      {"config.json", "id2label", "", Fate::used, "", "classes and their names"},
      {"config.json", "num_labels", "", Fate::used, "",
       "how many classes, where there is no id2label; beside one it has no effect"},
      {"config.json", "problem_type", "", Fate::used, "", "what the outputs of a classifier mean"},
      {"config.json", "label2id finetuning_task", "", Fate::no_effect, "", "id2label says it"},
      {"config.json", "eos_token_id", "gpt2 llama qwen2 mistral", Fate::used, "",
       "ends a text; generation_config.json has the last word"},
      {"config.json", "eos_token_id", "", Fate::no_effect, "", "nothing is generated"},
      {"config.json", "bos_token_id pad_token_id sep_token_id decoder_start_token_id", "",
       Fate::no_effect, "", "the tokenizer says what surrounds a text; padding is not seen"},
      {"config.json", "tokenizer_class", "", Fate::used, "",
       "how tokenizer_config.json is meant, where it does not say so itself"},
      {"config.json", "auto_map custom_pipelines", "", Fate::ignored, "",
       "code in the folder is not run"},
      {"config.json", "task_specific_params prefix", "gpt2 llama qwen2 mistral", Fate::ignored, "",
       "defaults of Transformers' pipelines"},
      {"config.json", "task_specific_params prefix", "", Fate::no_effect, "", "of generation"},
      {"config.json",
       "hidden_dropout_prob attention_probs_dropout_prob attention_dropout classifier_dropout "
       "attn_pdrop embd_pdrop resid_pdrop hidden_dropout initializer_range gradient_checkpointing "
       "layerdrop dropout qa_dropout seq_classif_dropout",
       "", Fate::no_effect, "", "of training"},
      {"config.json",
       "summary_activation summary_first_dropout summary_proj_to_labels summary_type "
       "summary_use_proj n_ctx",
       "gpt2", Fate::no_effect, "", "of heads that are not built"},
      {"config.json",
       "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers "
       "pooler_size_per_head pooler_type",
       "bert", Fate::no_effect, "", "not read by Transformers"},
      {"config.json", "tie_weights_", "distilbert", Fate::no_effect, "",
       "not read by Transformers"},
      {"config.json", "pretraining_tp", "llama", Fate::no_effect, "",
       "the same sums, cut another way"},
      {"config.json",
       "chunk_size_feed_forward use_cache output_attentions output_hidden_states output_past "
       "return_dict use_return_dict torchscript attn_implementation _attn_implementation "
       "_attn_implementation_autoset tie_encoder_decoder",
       "", Fate::no_effect, "", "how Transformers computes"},
      {"config.json", "torch_dtype dtype use_bfloat16 tf_legacy_loss loss_type xla_device", "",
       Fate::no_effect, "", "products are fp32 unless asked"},
      {"config.json",
       "transformers_version _name_or_path name_or_path _commit_hash _num_labels is_composition",
       "", Fate::no_effect, "", "names and versions"},
      {"generation_config.json", "eos_token_id", "", Fate::used, "", "ends a text"},
      {"generation_config.json", "do_sample", "", Fate::used, "",
       "false: the likeliest token, unless --temperature is given"},
      {"generation_config.json", "temperature top_k top_p repetition_penalty", "", Fate::used, "",
       "how a token is drawn, where the option is not given"},
      {"generation_config.json", "num_beams", "", Fate::ignored, "1", "not built"},
      {"generation_config.json", "num_beam_groups", "", Fate::ignored, "1", "not built"},
      {"generation_config.json", "penalty_alpha", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "dola_layers", "", Fate::ignored, "", "not built"},
      {"generation_config.json", "min_p", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "typical_p", "", Fate::ignored, "1", "not built"},
      {"generation_config.json", "epsilon_cutoff", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "eta_cutoff", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "encoder_repetition_penalty", "", Fate::ignored, "1", "not built"},
      {"generation_config.json", "no_repeat_ngram_size", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "bad_words_ids", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "force_words_ids", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "constraints", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "forced_bos_token_id", "", Fate::ignored, "", "not built"},
      {"generation_config.json", "forced_eos_token_id", "", Fate::ignored, "", "not built"},
      {"generation_config.json", "exponential_decay_length_penalty", "", Fate::ignored, "",
       "not built"},
      {"generation_config.json", "suppress_tokens", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "begin_suppress_tokens", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "forced_decoder_ids", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "sequence_bias", "", Fate::ignored, "{} | []", "not built"},
      {"generation_config.json", "token_healing", "", Fate::ignored, "false", "not built"},
      {"generation_config.json", "guidance_scale", "", Fate::ignored, "1", "not built"},
      {"generation_config.json", "min_length", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "min_new_tokens", "", Fate::ignored, "0", "not built"},
      {"generation_config.json", "stop_strings", "", Fate::ignored, "[]", "not built"},
      {"generation_config.json", "watermarking_config", "", Fate::ignored, "", "not built"},
      {"generation_config.json", "num_return_sequences", "", Fate::ignored, "1", "not built"},
      {"generation_config.json", "max_length max_new_tokens max_time", "", Fate::no_effect, "",
       "--tokens says how many"},
      {"generation_config.json",
       "diversity_penalty length_penalty early_stopping renormalize_logits remove_invalid_values "
       "encoder_no_repeat_ngram_size decoder_start_token_id low_memory",
       "", Fate::no_effect, "", "of beams, or of models with an encoder"},
      {"generation_config.json", "bos_token_id pad_token_id", "", Fate::no_effect, "",
       "the tokenizer says what surrounds a text; padding is not seen"},
      {"generation_config.json",
       "use_cache cache_implementation cache_config return_legacy_cache output_attentions "
       "output_hidden_states output_scores output_logits return_dict_in_generate "
       "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold "
       "is_assistant prompt_lookup_num_tokens max_matching_ngram_size generation_kwargs",
       "", Fate::no_effect, "", "how Transformers computes"},
      {"generation_config.json", "_from_model_config", "", Fate::used, "",
       "true: what config.json says of generation counts, where it says something"},
      {"generation_config.json", "transformers_version _commit_hash _original_object_hash", "",
       Fate::no_effect, "", "names and versions"},
      {"preprocessor_config.json", "image_processor_type feature_extractor_type", "", Fate::used,
       "",
       "what the other fields mean: a ViT's, DeiT's, CLIP's, Bit's or ConvNext's image processor; "
       "others are refused by name"},
      {"preprocessor_config.json", "do_resize size resample", "", Fate::used, "",
       "height and width, or the shorter side (shortest_edge); Pillow's filters by number or name"},
      {"preprocessor_config.json", "do_center_crop crop_size", "", Fate::used, "",
       "asked of a DeiT, CLIP or Bit unless it is false; of a ViT where its size is not the "
       "model's"},
      {"preprocessor_config.json", "crop_pct", "", Fate::used, "",
       "ConvNext's: the share that the centre is of the whole, below 384"},
      {"preprocessor_config.json", "do_rescale rescale_factor do_normalize image_mean image_std",
       "", Fate::used, "", "how bytes become numbers"},
      {"preprocessor_config.json", "do_convert_rgb", "", Fate::no_effect, "",
       "an image takes the channels that the model has"},
      {"preprocessor_config.json",
       "use_square_size do_flip_channel_order do_pad do_thumbnail do_align_long_axis", "",
       Fate::only, "false", "of image processors that are not built"},
      {"preprocessor_config.json",
       "processor_class auto_map data_format input_data_format return_tensors device "
       "_valid_processor_keys",
       "", Fate::no_effect, "", "names, and where Transformers puts its arrays"},
      {"tokenizer_config.json", "tokenizer_class", "", Fate::used, "",
       "which of the fields below count, as in Transformers; a class that makes another tokenizer "
       "of the files is refused"},
      {"tokenizer_config.json", "do_lower_case strip_accents tokenize_chinese_chars", "",
       Fate::used, "", "WordPiece; they count more than tokenizer.json"},
      {"tokenizer_config.json", "add_prefix_space", "", Fate::used, "",
       "byte-level BPE; counts more than tokenizer.json"},
      {"tokenizer_config.json", "add_bos_token add_eos_token", "", Fate::used, "",
       "what surrounds a text for a LlamaTokenizer"},
      {"tokenizer_config.json",
       "bos_token eos_token unk_token cls_token sep_token pad_token mask_token "
       "additional_special_tokens added_tokens_decoder",
       "", Fate::used, "", "have to be tokens that the tokenizer has"},
      {"tokenizer_config.json", "model_max_length max_len", "", Fate::used, "",
       "tokens that a sentence is cut to, where sentence_bert_config.json does not say so"},
      {"tokenizer_config.json", "truncation_side", "", Fate::ignored, "\"right\"",
       "a text is cut at its end"},
      {"tokenizer_config.json", "legacy", "", Fate::used, "",
       "of a tokenizer.model: whether a blank begins a text behind a special token too"},
      {"tokenizer_config.json", "chat_template", "gpt2 llama qwen2 mistral", Fate::ignored, "",
       "a prompt is taken as it is"},
      {"tokenizer_config.json", "chat_template", "", Fate::no_effect, "", "nothing is generated"},
      {"tokenizer_config.json", "clean_up_tokenization_spaces", "gpt2 llama qwen2 mistral",
       Fate::ignored, "false", "blanks before punctuation stay in what is generated"},
      {"tokenizer_config.json", "clean_up_tokenization_spaces", "", Fate::no_effect, "",
       "nothing is generated"},
      {"tokenizer_config.json", "split_special_tokens", "", Fate::only, "false",
       "special tokens in a text are found"},
      {"tokenizer_config.json", "do_basic_tokenize", "", Fate::only, "true",
       "WordPiece without words is not built"},
      {"tokenizer_config.json", "never_split", "", Fate::only, "[]",
       "words that are never cut are not built"},
      {"tokenizer_config.json", "wordpieces_prefix", "", Fate::only, "\"##\"",
       "how a piece inside a word begins"},
      {"tokenizer_config.json", "sp_model_kwargs", "", Fate::only, "{}",
       "sampled pieces are not built"},
      {"tokenizer_config.json", "auto_map", "", Fate::ignored, "", "code in the folder is not run"},
      {"tokenizer_config.json",
       "padding_side pad_to_multiple_of pad_token_type_id stride max_length truncation_strategy "
       "padding",
       "", Fate::no_effect, "", "padding is not seen; nothing is cut unless asked"},
      {"tokenizer_config.json",
       "errors trim_offsets use_default_system_prompt spaces_between_special_tokens clean_text "
       "add_special_tokens extra_special_tokens",
       "", Fate::no_effect, "", "not of the tokens of a text"},
      {"tokenizer_config.json",
       "name_or_path special_tokens_map_file tokenizer_file vocab_file merges_file processor_class "
       "model_input_names model_specific_special_tokens use_fast from_slow transformers_version "
       "tokenizer_type",
       "", Fate::no_effect, "", "names and versions"},
      {"special_tokens_map.json",
       "bos_token eos_token unk_token cls_token sep_token pad_token mask_token "
       "additional_special_tokens",
       "", Fate::used, "", "have to be tokens that the tokenizer has"},
      {"added_tokens.json", "", "", Fate::used, "",
       "have to be tokens that the tokenizer has, with these numbers"},
      {"tokenizer.json", "added_tokens normalizer pre_tokenizer post_processor model decoder", "",
       Fate::used, "",
       "WordPiece and byte-level BPE, and Llama's BPE beside a tokenizer.model, which has to say "
       "the "
       "same; other kinds are refused by name"},
      {"tokenizer.json", "truncation padding", "", Fate::no_effect, "", "Transformers resets them"},
      {"tokenizer.json", "version", "", Fate::no_effect, "", "names and versions"},
      {"vocab.txt", "", "", Fate::used, "", "WordPiece, where there is no tokenizer.json"},
      {"vocab.json", "", "", Fate::used, "",
       "byte-level BPE with merges.txt, where there is no tokenizer.json"},
      {"merges.txt", "", "", Fate::used, "",
       "byte-level BPE with vocab.json, where there is no tokenizer.json"},
      {"tokenizer.model", "", "", Fate::used, "",
       "SentencePiece; a tokenizer.json beside it has to say the same"},
      {"chat_template.json", "", "", Fate::ignored, "", "a prompt is taken as it is"},
      {"chat_template.jinja", "", "", Fate::ignored, "", "a prompt is taken as it is"},
      {"modules.json", "type", "", Fate::used, "",
       "Transformer, then Pooling, then Normalize or nothing; others are refused by name"},
      {"modules.json", "path", "", Fate::used, "", "where the Pooling module's config.json is"},
      {"modules.json", "idx name", "", Fate::no_effect, "", "names"},
      {"modules.json", "kwargs", "", Fate::only, "[]",
       "modules that are asked with more are not built"},
      {"sentence_bert_config.json", "max_seq_length", "", Fate::used, "",
       "tokens that a sentence is cut to"},
      {"sentence_bert_config.json", "do_lower_case", "", Fate::only, "false",
       "lower case before the tokenizer is not built"},
      {"sentence_bert_config.json", "model_args config_args tokenizer_args", "", Fate::only, "{}",
       "arguments for the loader are not passed on"},
      {"sentence_bert_config.json", "tokenizer_name_or_path cache_dir", "", Fate::no_effect, "",
       "names"},
      {"1_Pooling/config.json", "pooling_mode pooling_mode_mean_tokens pooling_mode_cls_token", "",
       Fate::used, "", "the mean over the tokens, or the first token; one of them"},
      {"1_Pooling/config.json",
       "pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens pooling_mode_weightedmean_tokens "
       "pooling_mode_lasttoken",
       "", Fate::only, "false", "other poolings are not built"},
      {"1_Pooling/config.json", "word_embedding_dimension", "", Fate::no_effect, "",
       "the width of the model"},
      {"1_Pooling/config.json", "include_prompt", "", Fate::ignored, "true",
       "there are no prompts"},
      {"config_sentence_transformers.json", "prompts", "", Fate::ignored,
       "{} | {\"query\":\"\",\"document\":\"\"}", "a text is taken as it is"},
      {"config_sentence_transformers.json", "default_prompt_name", "", Fate::ignored, "",
       "a text is taken as it is"},
      {"config_sentence_transformers.json", "similarity_fn_name", "", Fate::ignored, "\"cosine\"",
       "embeddings are compared by their cosine"},
      {"config_sentence_transformers.json", "__version__ model_type", "", Fate::no_effect, "",
       "names and versions"},
      {"model.safetensors.index.json", "weight_map", "", Fate::used, "",
       "which file a tensor is in"},
      {"model.safetensors.index.json", "metadata", "", Fate::no_effect, "", "sizes"},
      {"adapter_config.json", "", "", Fate::only, "",
       "an adapter (LoRA) is not read: merge it into its base model"},
  };
  return rows;
}

std::string_view name_of(Fate fate) {
  switch (fate) {
    case Fate::used:
      return "used";
    case Fate::only:
      return "only";
    case Fate::ignored:
      return "ignored";
    case Fate::no_effect:
      return "no effect";
  }
  return "?";
}

const FolderField* find_field(std::string_view file, std::string_view field,
                              std::string_view family) {
  for (const FolderField& row : folder_fields())
    if (row.file == file && has_word(row.fields, field) &&
        (row.families.empty() || has_word(row.families, family)))
      return &row;
  // Older releases of Transformers kept there how tokens are drawn.
  return file == "config.json" ? find_field("generation_config.json", field, family) : nullptr;
}

bool is_listed(const FolderField& row, const json& value) {
  if (value.is_null()) return true;
  const auto values = parted(row.values, " | ");
  return std::any_of(values.begin(), values.end(),
                     [&](std::string_view one) { return json::parse(one) == value; });
}

void check_fields(const Reader& table, std::string_view file, std::string_view family) {
  for (const std::string& key : table.keys()) {
    const FolderField* row = find_field(file, key, family);
    if (row == nullptr || row->fate != Fate::only) continue;
    const auto field = table.find(key);
    if (field && !is_listed(*row, field->json()))
      throw field->error("saw " + shown(field->json()) + ", needs " + needed(*row) + " (" +
                         std::string(row->meaning) + ")");
  }
}

namespace {

/// The files of a folder that a name of the list stands for: Sentence Transformers names them after
/// the family, and numbers its modules' folders.
std::vector<fs::path> files_of(const fs::path& folder, std::string_view listed) {
  const bool sentence = listed == "sentence_bert_config.json";
  const bool pooling = listed == "1_Pooling/config.json";
  if (!sentence && !pooling) return {folder / listed};
  std::vector<fs::path> files;
  if (!fs::is_directory(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (sentence && base::starts_with(name, "sentence_") && base::ends_with(name, "_config.json"))
      files.push_back(entry.path());
    if (pooling && base::ends_with(name, "_Pooling")) files.push_back(entry.path() / "config.json");
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<std::string> folder_notes(const fs::path& folder) {
  std::vector<std::string> notes;
  const std::string family = family_of(folder);
  std::string_view before;
  for (const FolderField& row : folder_fields()) {
    if (row.file == std::exchange(before, row.file)) continue;
    // The large ones refuse what they do not know themselves.
    if (row.file == "tokenizer.json") continue;
    // A family that is not known has no fields that are, and its tokenizer may be asked for alone.
    if (row.file == "config.json" && !is_known_family(family)) continue;
    for (const fs::path& path : files_of(folder, row.file)) {
      if (!fs::is_regular_file(path)) continue;
      if (!row.fields.empty())
        add_notes(Reader::json_file(path), row.file, family, notes);
      else if (row.fate == Fate::ignored)
        notes.push_back("[" + path.string() + "] is ignored (" + std::string(row.meaning) + ")");
    }
  }
  return notes;
}

}  // namespace cleave::model
