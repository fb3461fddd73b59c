//! Requests of clients of other servers, of the kinds in public bug reports.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use assay_critic::policy_model::{PolicyModel, Trainable};
use assay_evals::scores::sigmoid;
use assay_lm::{ChatTemplate, LanguageModel};
use assay_serve::{Generator, ServedPolicy};
use serde_json::{Value, json};

use crate::http::{answered, message, refused};
use crate::world::{Running, models, offline, policy, questions, tiny};

const CHAT: &str = "/v1/chat/completions";

/// A server whose policy has its own chat template.
fn with_template(source: &str) -> Running {
    let base = tiny();
    let template = ChatTemplate::new(source, &base.tokenizer, Path::new("a template")).unwrap();
    let model = Arc::new(LanguageModel { template, ..base });
    let policy = PolicyModel {
        transformer: Arc::clone(&model.transformer),
        trainable: Trainable::Whole(Vec::new()),
    };
    let served = ServedPolicy { model, policy };
    Running::default_of(models(Some(Generator::Local(served))))
}

fn chat() -> Value {
    let user = json!([{ "role": "user", "content": "1+1=" }]);
    json!({ "messages": user, "max_tokens": 2, "seed": 1, "assay": { "n": 2 } })
}

fn with(mut body: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Tokens of the prompt that the template wrote.
fn prompt_tokens(server: &Running, body: &Value) -> u64 {
    answered(server, CHAT, body)["usage"]["prompt_tokens"]
        .as_u64()
        .unwrap()
}

#[test]
fn null_means_absent_on_every_route() {
    let server = Running::default_of(models(policy()));
    let documents = json!({ "query": "1+1=", "documents": ["2"] });
    let texts = json!({ "question": "1+1=", "text": "2" });
    let nulls = json!({
        "prediction": null, "web_search_options": null, "dimensions": null, "nobody_knows_this": null, "model": null,
        "tools": null, "stop": null, "top_n": null,
    });
    for (path, body) in [
        (CHAT, chat()),
        (
            "/v1/completions",
            json!({ "prompt": "1+1=", "max_tokens": 2 }),
        ),
        ("/v1/rerank", documents.clone()),
        ("/v2/rerank", documents),
        ("/v1/score", texts.clone()),
        ("/v1/rewards", texts),
    ] {
        answered(&server, path, &with(body, nulls.clone()));
    }
    let nested = json!({
        "assay": { "n": 2, "selector": null, "unheard_of": null },
        "stream_options": { "include_usage": null, "other": null },
        "messages": [{ "role": "user", "content": "1+1=", "name": null, "audio": null }],
    });
    answered(&server, CHAT, &with(chat(), nested));
    let traces = json!({ "traces": [{ "question": "1", "text": "2", "id": null }] });
    answered(&server, "/v1/score", &traces);
}

#[test]
fn defaults_of_other_servers_change_nothing() {
    let server = Running::default_of(models(policy()));
    let expected = answered(&server, CHAT, &chat())["choices"].clone();
    for fields in [
        json!({ "ignore_eos": false, "skip_special_tokens": true, "min_tokens": 0, "stop_token_ids": [] }),
        json!({ "n": 1, "logit_bias": {}, "frequency_penalty": 0.0, "top_logprobs": 0, "logprobs": false }),
        json!({ "n": 1.0, "max_tokens": 2.0, "seed": 1.0, "top_k": -1, "top_p": 1, "stop": "" }),
        json!({ "max_completion_tokens": 2, "max_tokens": 2, "stream": false, "user": "me" }),
        json!({ "repeat_penalty": 1.0, "min_p": 0, "typical_p": 1.0, "mirostat": 0, "cache_prompt": true }),
        json!({ "use_beam_search": false, "length_penalty": 1.0, "include_stop_str_in_output": false }),
        json!({ "add_generation_prompt": true, "continue_final_message": false, "documents": [] }),
        json!({ "tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "functions": [] }),
        json!({ "response_format": { "type": "text" }, "modalities": ["text"], "store": false }),
        json!({ "thinking": { "type": "disabled" }, "extra_body": {}, "prediction": { "content": "7" } }),
        json!({ "max_tokens": -1, "max_completion_tokens": 2 }),
    ] {
        let answer = answered(&server, CHAT, &with(chat(), fields.clone()));
        assert_eq!(answer["choices"], expected, "{fields}");
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let server = Running::default_of(models(policy()));
    for (field, value) in [
        ("ignore_eos", json!(true)),
        ("skip_special_tokens", json!(false)),
        ("min_tokens", json!(5)),
        ("stop_token_ids", json!([2])),
        ("logit_bias", json!({ "5": 1 })),
        ("repeat_penalty", json!(1.1)),
        ("use_beam_search", json!(true)),
        ("guided_json", json!({ "type": "object" })),
        ("chat_template", json!("{{ messages }}")),
        ("continue_final_message", json!(true)),
        ("tool_choice", json!("required")),
        (
            "tool_choice",
            json!({ "type": "function", "function": { "name": "f" } }),
        ),
        ("web_search_options", json!({})),
        ("n", json!(2)),
        ("extra_body", json!({ "top_k": 4 })),
    ] {
        let (status, code, param) = refused(&server, CHAT, &with(chat(), json!({ field: value })));
        assert_eq!(
            (status, code.as_str(), param),
            (400, "invalid_value", json!(field))
        );
    }
}

#[test]
fn template_variables_reach_the_template() {
    let source = "{% for message in messages %}{{ message['content'] }}{% endfor %}\
        {% if enable_thinking is defined and enable_thinking is false %}1111{% endif %}\
        {% if reasoning_effort == 'low' %}22{% endif %}{{ prefix }}{% if tools %}7{% endif %}<|end|>";
    let server = with_template(source);
    let plain = prompt_tokens(&server, &chat());
    for (fields, more) in [
        (
            json!({ "chat_template_kwargs": { "enable_thinking": false } }),
            4,
        ),
        (
            json!({ "chat_template_kwargs": { "enable_thinking": true } }),
            0,
        ),
        (json!({ "chat_template_kwargs": {} }), 0),
        (json!({ "enable_thinking": false }), 4),
        (json!({ "reasoning_effort": "low" }), 2),
        (json!({ "chat_template_kwargs": { "prefix": "123" } }), 3),
        (
            json!({ "tools": [{ "type": "function" }], "tool_choice": "none" }),
            1,
        ),
    ] {
        let tokens = prompt_tokens(&server, &with(chat(), fields.clone()));
        assert_eq!(tokens - plain, more, "{fields}");
    }
    let reserved = json!({ "chat_template_kwargs": { "messages": [] } });
    let (_, _, param) = refused(&server, CHAT, &with(chat(), reserved));
    assert_eq!(param, "chat_template_kwargs.messages");
    let list = with(chat(), json!({ "chat_template_kwargs": [1] }));
    let expected = "`chat_template_kwargs`: expected an object, not a list";
    assert_eq!(message(&server, CHAT, &list), expected);
}

#[test]
fn tool_turns_of_a_history_reach_the_template() {
    let call = json!({ "id": "1", "type": "function", "function": { "name": "3", "arguments": "{\"4\": 5}" } });
    let history = json!([
        { "role": "user", "content": "1+1=" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "1", "name": "3", "content": "2" },
        { "role": "user", "content": "2+2=" },
    ]);
    let body = with(chat(), json!({ "messages": history }));
    let reads = "{% for m in messages %}{{ m['content'] }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}\
        {% for key in m.tool_calls[0].function.arguments %}{{ key }}{% endfor %}{% endif %}{% endfor %}<|end|>";
    // 1+1= and 3 and 4 and 2 and 2+2= and the end of the turn.
    assert_eq!(
        prompt_tokens(&with_template(reads), &body),
        4 + 1 + 1 + 1 + 4 + 1
    );
    let strict = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
        {{ m['content'] + '' }}{% if m.tool_calls %}{% endif %}{% endfor %}<|end|>";
    let simple = "{% for m in messages %}{{ m['content'] + '' }}{% endfor %}<|end|>";
    let (strict, simple) = (with_template(strict), with_template(simple));
    let tokens = prompt_tokens(&simple, &body);
    assert!(
        tokens > 4 + 1 + 4 + 1,
        "the call is written as text: {tokens}"
    );
    assert_eq!(prompt_tokens(&strict, &body), tokens);
    let old = json!([
        { "role": "user", "content": "1+1=" },
        { "role": "assistant", "function_call": { "name": "3", "arguments": "{}" } },
        { "role": "function", "name": "3", "content": "2" },
    ]);
    answered(&simple, CHAT, &with(chat(), json!({ "messages": old })));
}

#[test]
fn a_seed_of_minus_one_is_new() {
    let server = Running::default_of(models(policy()));
    let drawn = |seed: Value| -> BTreeSet<String> {
        let body = with(
            chat(),
            json!({ "seed": seed, "max_tokens": 12, "assay": { "n": 1 } }),
        );
        let draw = |_| answered(&server, CHAT, &body)["choices"].to_string();
        (0..6).map(draw).collect()
    };
    assert!(drawn(json!(-1)).len() > 1);
    assert_eq!(drawn(json!(-2)).len(), 1);
    assert_eq!(drawn(json!(u64::MAX)).len(), 1);
}

#[test]
fn an_empty_document_ranks_last() {
    let server = Running::default_of(models(None));
    let (question, text) = questions()[0].clone();
    let documents = json!(["", text, " \n", { "text": format!("{text}1") }, { "text": "" }]);
    let body = json!({ "query": question, "documents": documents, "return_documents": true });
    let results = answered(&server, "/v1/rerank", &body)["results"].clone();
    let order: Vec<u64> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["index"].as_u64().unwrap())
        .collect();
    assert_eq!(BTreeSet::from([order[0], order[1]]), BTreeSet::from([1, 3]));
    assert_eq!(order[2..], [0, 2, 4]);
    assert_eq!(results[2]["relevance_score"], 0.0);
    assert_eq!(results[2]["score"], Value::Null);
    let expected = offline(&[(question.clone(), text)]);
    let first = order.iter().position(|&index| index == 1).unwrap();
    let score = f64::from(expected[0].scores["mean"]);
    assert_eq!(results[first]["relevance_score"], sigmoid(score));
    let nothing = answered(
        &server,
        "/v1/rerank",
        &json!({ "query": question, "documents": ["", ""] }),
    );
    assert_eq!(nothing["results"][1]["index"], 1);
    assert_eq!(nothing["usage"]["total_tokens"], 0);
}

#[test]
fn rank_fields_are_what_is_ranked() {
    let server = Running::default_of(models(None));
    let (question, text) = questions()[0].clone();
    let (title, body) = text.split_once('\n').unwrap();
    let document = json!({ "title": title, "body": body, "year": 1 });
    let request = json!({
        "query": question, "documents": [document], "rank_fields": ["title", "body"], "return_documents": true,
    });
    let answer = answered(&server, "/v1/rerank", &request);
    let expected = offline(&[(question.clone(), text.clone())]);
    let score = f64::from(expected[0].scores["mean"]);
    assert_eq!(answer["results"][0]["score"], score);
    assert_eq!(answer["results"][0]["document"], document);
    assert_eq!(
        answer["meta"]["warnings"],
        json!(["documents[0] has no text; ranked by `title`, `body`"])
    );
    let bare = json!({ "query": question, "documents": [text, document] });
    let expected = "documents[1] has no text: ";
    assert!(message(&server, "/v1/rerank", &bare).starts_with(expected));
    let (_, _, param) = refused(&server, "/v1/rerank", &bare);
    assert_eq!(param, "documents[1]");
}

#[test]
fn texts_of_tei_get_its_list() {
    let server = Running::default_of(models(None));
    let (question, text) = questions()[0].clone();
    let texts = [text.clone(), format!("{text}1"), String::new()];
    let body = json!({ "query": question, "texts": texts, "return_text": true, "truncate": false });
    let answer = answered(&server, "/rerank", &body);
    let list = answer.as_array().unwrap();
    assert_eq!(list.len(), 3);
    assert_eq!(list[2], json!({ "index": 2, "score": 0.0, "text": "" }));
    let expected = offline(&[(question, text)]);
    let score = f64::from(expected[0].scores["mean"]);
    let own = |list: &[Value]| -> f64 {
        let entry = list.iter().find(|entry| entry["index"] == 0).unwrap();
        entry["score"].as_f64().unwrap()
    };
    assert_eq!(own(list), sigmoid(score));
    let raw = answered(
        &server,
        "/rerank",
        &with(body, json!({ "raw_scores": true })),
    );
    assert_eq!(own(raw.as_array().unwrap()), score);
}

#[test]
fn two_lists_are_scored_in_pairs() {
    let server = Running::default_of(models(None));
    let pairs = questions();
    let expected = offline(&pairs);
    let (questions, texts): (Vec<&String>, Vec<&String>) = pairs
        .iter()
        .map(|(question, text)| (question, text))
        .unzip();
    for (first, second) in [
        ("text_1", "text_2"),
        ("data_1", "data_2"),
        ("queries", "documents"),
    ] {
        let body = json!({ first: questions, second: texts });
        let answer = answered(&server, "/v1/score", &body);
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), expected.len());
        for (entry, trace) in data.iter().zip(&expected) {
            assert_eq!(entry["score"], f64::from(trace.scores["mean"]));
        }
    }
    let body = json!({ "text_1": questions, "text_2": [texts[0], texts[1]] });
    let (_, code, param) = refused(&server, "/v1/score", &body);
    assert_eq!((code.as_str(), param), ("invalid_value", json!("text_2")));
}

#[test]
fn errors_say_what_was_expected() {
    let server = Running::default_of(models(policy()));
    for (path, body, expected) in [
        (
            CHAT,
            json!({ "messages": "hi" }),
            "`messages`: expected a list of objects with `role`, not \"hi\"",
        ),
        (
            CHAT,
            json!({}),
            "`messages`: is missing; expected a list of objects with `role`",
        ),
        (
            CHAT,
            json!({ "messages": [{ "role": "user", "content": 5 }] }),
            "`messages[0].content`: expected a string or a list of objects with `type`, not 5",
        ),
        (
            CHAT,
            json!({ "messages": [{ "content": "5" }] }),
            "`messages[0].role`: is missing; expected a string",
        ),
        (
            CHAT,
            with(chat(), json!({ "temperature": "0.7" })),
            "`temperature`: expected a number from 0",
        ),
        (
            CHAT,
            with(chat(), json!({ "top_p": 0 })),
            "`top_p`: expected a number above 0 and at most 1, not 0",
        ),
        (
            CHAT,
            with(chat(), json!({ "stream": "yes" })),
            "`stream`: expected true or false, not \"yes\"",
        ),
        (
            CHAT,
            with(chat(), json!({ "assay": 4 })),
            "`assay`: expected an object, not 4",
        ),
        (
            CHAT,
            with(chat(), json!({ "assay": { "score": "mea" } })),
            "`assay.score`: expected one of `mean`, `last`",
        ),
        (
            "/v1/rerank",
            json!({ "query": "1", "documents": "1" }),
            "`documents`: expected a list of strings or objects",
        ),
        (
            "/v1/rerank",
            json!({ "query": ["1"], "documents": ["1"] }),
            "`query`: expected a string, not a list",
        ),
        (
            "/v1/rerank",
            json!({ "query": "1", "documents": ["1"], "top_n": 0 }),
            "`top_n`: expected a whole number of at least 1",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": [1] }),
            "`text[0]`: expected a string, not 1",
        ),
        (
            "/v1/score",
            json!({ "traces": ["1"] }),
            "`traces[0]`: expected an object with `question` and `text`",
        ),
        (
            "/v1/completions",
            json!({ "prompt": 5 }),
            "`prompt`: expected a string or a list, not 5",
        ),
    ] {
        let message = message(&server, path, &body);
        assert!(message.starts_with(expected), "{body}: {message}");
    }
}
