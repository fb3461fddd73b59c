//! Fields that clients of other servers send.
//!
//! OpenAI, vLLM, llama.cpp, SGLang, text-generation-inference, Cohere, Jina, Voyage and
//! text-embeddings-inference have defaults for their fields, and clients send them. A neutral
//! default is accepted. A value that requests an unsupported feature is an error that names the
//! field.

use crate::shape::Unsupported;

/// Fields of scoring requests that have no effect here.
pub(super) const OF_SCORING: &[&str] = &[
    "user",
    "priority",
    "truncate_prompt_tokens",
    "truncation",
    "truncation_side",
    "encoding_format",
    "metadata",
    "request_id",
    "cache_salt",
];

/// Fields of rerank requests about splitting documents, which are never split here.
pub(super) const OF_CUTTING: &[&str] = &[
    "max_tokens_per_doc",
    "max_chunks_per_doc",
    "truncate",
    "truncation_direction",
];

/// Fields of completion requests that have no effect here.
pub(super) const OF_SAMPLING: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "verbosity",
    "priority",
    "prediction",
    "request_id",
    "cache_salt",
    "cache_prompt",
    "id_slot",
    "keep_alive",
    "separate_reasoning",
    "spaces_between_special_tokens",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "repeat_last_n",
    "mirostat_tau",
    "mirostat_eta",
];

/// Fields of a completion request that are read here even if an upstream server samples.
pub(crate) const ASSAY_FIELDS: [&str; 9] = [
    "model",
    "messages",
    "prompt",
    "best_of",
    "stream",
    "stream_options",
    "assay",
    "tools",
    "tool_choice",
];

const fn unsupported(
    name: &'static str,
    neutral: &'static str,
    reason: &'static str,
) -> Unsupported {
    Unsupported {
        name,
        neutral,
        reason,
    }
}

const NO_TOOLS: &str = "tools are not called here";
const NO_LOGPROBS: &str =
    "log-probabilities are not returned here; /v1/rewards returns token rewards";
const PLAIN_TEXT: &str = "only plain text is written here";
const RAW_SCORES: &str = "scores are returned as they are; /v1/rerank returns sigmoid(score)";
const SIGMOIDS: &str = "`relevance_score` is sigmoid(score); `score` is the score itself";
const NOT_HERE: &str = "is not supported by the policy of this server";
const ONE_TEMPLATE: &str = "the policy's own chat template is used";

/// Fields for other kinds of responses, which are refused whether the policy or an upstream server
/// samples.
pub(crate) const ANSWER_FIELDS: &[Unsupported] = &[
    unsupported(
        "n",
        "[1]",
        "one answer is returned; ask for more samples to choose from with `assay.n`",
    ),
    unsupported("functions", "[[]]", NO_TOOLS),
    unsupported("function_call", r#"["none", "auto"]"#, NO_TOOLS),
    unsupported("logprobs", "[false]", NO_LOGPROBS),
    unsupported("top_logprobs", "[0]", NO_LOGPROBS),
    unsupported("prompt_logprobs", "[false]", NO_LOGPROBS),
    unsupported("n_probs", "[0]", NO_LOGPROBS),
    unsupported("return_tokens_as_token_ids", "[false]", PLAIN_TEXT),
    unsupported("return_token_ids", "[false]", PLAIN_TEXT),
    unsupported("return_hidden_states", "[false]", PLAIN_TEXT),
    unsupported("response_format", r#"[{ "type": "text" }]"#, PLAIN_TEXT),
    unsupported("modalities", r#"[["text"]]"#, PLAIN_TEXT),
    unsupported("audio", "[false]", PLAIN_TEXT),
    unsupported("web_search_options", "[false]", "nothing is searched here"),
    unsupported("echo", "[false]", "the prompt is not repeated here"),
    unsupported("suffix", r#"[""]"#, "text is only continued here"),
    unsupported(
        "timings_per_token",
        "[false]",
        "times are not returned here",
    ),
];

/// Sampling features that the policy of this process does not support.
pub(super) const OTHER_SAMPLING: &[Unsupported] = &[
    unsupported("presence_penalty", "[0]", NOT_HERE),
    unsupported("frequency_penalty", "[0]", NOT_HERE),
    unsupported("repetition_penalty", "[1]", NOT_HERE),
    unsupported("repeat_penalty", "[1]", NOT_HERE),
    unsupported("length_penalty", "[1]", NOT_HERE),
    unsupported("min_p", "[0]", NOT_HERE),
    unsupported("top_a", "[0]", NOT_HERE),
    unsupported("typical_p", "[1]", NOT_HERE),
    unsupported("tfs_z", "[1]", NOT_HERE),
    unsupported("mirostat", "[0]", NOT_HERE),
    unsupported("dynatemp_range", "[0]", NOT_HERE),
    unsupported("xtc_probability", "[0]", NOT_HERE),
    unsupported("dry_multiplier", "[0]", NOT_HERE),
    unsupported("logit_bias", "[{}, []]", NOT_HERE),
    unsupported("logits_processors", "[[]]", NOT_HERE),
    unsupported("allowed_token_ids", "[[]]", NOT_HERE),
    unsupported("bad_words", "[[]]", NOT_HERE),
    unsupported("stop_token_ids", "[[]]", NOT_HERE),
    unsupported("stop_regex", r#"[[], ""]"#, NOT_HERE),
    unsupported("min_tokens", "[0]", NOT_HERE),
    unsupported("ignore_eos", "[false]", NOT_HERE),
    unsupported("include_stop_str_in_output", "[false]", NOT_HERE),
    unsupported("no_stop_trim", "[false]", NOT_HERE),
    unsupported("skip_special_tokens", "[true]", NOT_HERE),
    unsupported("detokenize", "[true]", NOT_HERE),
    unsupported("truncate_prompt_tokens", "[-1]", NOT_HERE),
    unsupported("use_beam_search", "[false]", NOT_HERE),
    unsupported("early_stopping", "[false]", NOT_HERE),
    unsupported("do_sample", "[true]", NOT_HERE),
    unsupported("num_beams", "[1]", NOT_HERE),
    unsupported("structured_outputs", "[{}]", NOT_HERE),
    unsupported("guided_json", r#"[{}, ""]"#, NOT_HERE),
    unsupported("guided_regex", r#"[""]"#, NOT_HERE),
    unsupported("guided_choice", "[[]]", NOT_HERE),
    unsupported("guided_grammar", r#"[""]"#, NOT_HERE),
    unsupported("grammar", r#"[""]"#, NOT_HERE),
    unsupported("json_schema", r#"[{}, ""]"#, NOT_HERE),
    unsupported("regex", r#"[""]"#, NOT_HERE),
    unsupported("ebnf", r#"[""]"#, NOT_HERE),
    unsupported("format", r#"[""]"#, NOT_HERE),
    unsupported("lora_path", r#"[""]"#, NOT_HERE),
    unsupported("kv_transfer_params", "[{}]", NOT_HERE),
    unsupported("vllm_xargs", "[{}]", NOT_HERE),
    unsupported(
        "extra_body",
        "[{}]",
        "its fields belong into the body itself",
    ),
    unsupported("options", "[{}]", "its fields belong into the body itself"),
];

/// Fields of chat requests only.
pub(super) const CHAT_ONLY: &[Unsupported] = &[
    unsupported("best_of", "[1]", "use `assay.n`"),
    unsupported("documents", "[[]]", "documents belong into a turn here"),
    unsupported("chat_template", r#"[""]"#, ONE_TEMPLATE),
    unsupported("add_generation_prompt", "[true]", ONE_TEMPLATE),
    unsupported("continue_final_message", "[false]", ONE_TEMPLATE),
    unsupported("add_special_tokens", "[false]", ONE_TEMPLATE),
    unsupported("mm_processor_kwargs", "[{}]", PLAIN_TEXT),
    unsupported("include_reasoning", "[true]", "an answer is returned whole"),
    unsupported(
        "thinking",
        r#"[{ "type": "disabled" }, false]"#,
        "use `chat_template_kwargs`, as the chat template asks",
    ),
];

/// Fields of text completions only.
pub(super) const COMPLETION_ONLY: &[Unsupported] = &[
    unsupported("add_special_tokens", "[true]", NOT_HERE),
    unsupported("prompt_embeds", r#"[[], ""]"#, NOT_HERE),
];

/// Fields of `/v1/score` and `/v1/rewards` only.
pub(super) const SCORE_ONLY: &[Unsupported] = &[
    unsupported("activation", "[false]", RAW_SCORES),
    unsupported("use_activation", "[false]", RAW_SCORES),
    unsupported("softmax", "[false]", RAW_SCORES),
    unsupported("dimensions", "[]", "no embeddings are returned here"),
    unsupported("mm_processor_kwargs", "[{}]", "only texts are scored here"),
];

/// Fields of `/v1/rerank` only.
pub(super) const RERANK_ONLY: &[Unsupported] = &[
    unsupported("activation", "[true]", SIGMOIDS),
    unsupported("use_activation", "[true]", SIGMOIDS),
    unsupported(
        "return_embeddings",
        "[false]",
        "no embeddings are returned here",
    ),
    unsupported("dimensions", "[]", "no embeddings are returned here"),
    unsupported("mm_processor_kwargs", "[{}]", "only texts are ranked here"),
];
