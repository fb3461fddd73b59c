//! Answers chosen among samples: of the policy of the process, and of an upstream server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use assay_critic::Critic;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample};
use assay_tasks::random::StreamKey;
use assay_tasks::trace::ScoredTrace;
use assay_testkit::wave_reward;
use serde_json::{Value, json};

use crate::contract::check_event;
use crate::http::{answered, post, refused};
use crate::world::{Running, models, offline, policy, questions, tiny, upstream};

/// The sampler's samples for a question and a seed, and the critic's scores.
fn sampled(
    question: &str,
    seed: u64,
    n: u64,
    max_tokens: usize,
) -> (Vec<Completion>, Vec<ScoredTrace>) {
    let model = tiny();
    let request = SampleRequest {
        prompt: model.tokenizer.encode(question).unwrap(),
        streams: (0..n)
            .map(|i| StreamKey::Served.stream(seed, &[i]))
            .collect(),
        max_new_tokens: None,
        not_first: None,
    };
    let limits = SamplingLimits {
        max_new_tokens: max_tokens,
        stop_tokens: vec![model.end_of_turn()],
        max_sequences: 64,
    };
    let settings = DrawSettings::default();
    let drawn = sample(
        &model.transformer,
        None,
        &[request],
        &settings,
        &limits,
        |_| (),
    );
    let completions = drawn.unwrap().remove(0);
    let mut traces: Vec<ScoredTrace> = completions
        .iter()
        .map(|completion| {
            let (text, token_offsets) = model.decode(&completion.token_ids);
            ScoredTrace {
                question: question.to_owned(),
                text,
                token_ids: completion.token_ids.clone(),
                token_offsets,
                ..ScoredTrace::default()
            }
        })
        .collect();
    let reward = wave_reward(&model, 1.0);
    Critic::new(&reward, &model, 4096)
        .score(&mut traces, None)
        .unwrap();
    (completions, traces)
}

fn chat(question: &str) -> Value {
    json!({
        "model": "policy", "messages": [{ "role": "user", "content": question }], "seed": 7, "max_tokens": 12,
        "assay": { "n": 6 },
    })
}

fn best(traces: &[ScoredTrace]) -> usize {
    let score = |place: usize| traces[place].scores["mean"];
    (0..traces.len())
        .reduce(|a, b| if score(b) > score(a) { b } else { a })
        .unwrap()
}

#[test]
fn the_answer_is_the_highest_scored_sample() {
    let server = Running::default_of(models(policy()));
    let question = &questions()[0].0;
    let (completions, traces) = sampled(question, 7, 6, 12);
    let mut body = chat(question);
    body["assay"]["return_candidates"] = json!(true);
    let answer = answered(&server, "/v1/chat/completions", &body);
    let best = best(&traces);
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        traces[best].text
    );
    assert_eq!(answer["assay"]["chosen"], best);
    assert_eq!(answer["assay"]["ranking"][0], best);
    for (candidate, trace) in answer["assay"]["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&traces)
    {
        assert_eq!(candidate["text"], trace.text);
        let score = candidate["score"].as_f64().unwrap() as f32;
        assert_eq!(score.to_bits(), trace.scores["mean"].to_bits());
        assert_eq!(
            candidate["rewards"]["rewards"].as_array().unwrap().len(),
            trace.token_ids.len()
        );
    }
    let finish = if completions[best].truncated {
        "length"
    } else {
        "stop"
    };
    assert_eq!(answer["choices"][0]["finish_reason"], finish);
    let drawn: usize = completions.iter().map(|c| c.token_ids.len()).sum();
    let prompt = traces[0].prompt_token_ids.len();
    assert_eq!(answer["usage"]["completion_tokens"], drawn);
    assert_eq!(answer["usage"]["prompt_tokens"], prompt);
    assert_eq!(answer["usage"]["total_tokens"], prompt + drawn);
}

/// Concurrent requests share decoding steps; each gets the same result as alone.
#[test]
fn samples_do_not_depend_on_other_requests() {
    let server = Arc::new(Running::default_of(models(policy())));
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (server, question) = (Arc::clone(&server), questions()[client % 3].0.clone());
            std::thread::spawn(move || {
                let (_, traces) = sampled(&question, 7, 6, 12);
                let answer = answered(&server, "/v1/chat/completions", &chat(&question));
                let content = &answer["choices"][0]["message"]["content"];
                assert_eq!(*content, traces[best(&traces)].text);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn requests_without_a_seed_differ_from_each_other() {
    let server = Running::default_of(models(policy()));
    let mut body = chat(&questions()[0].0);
    body["seed"] = Value::Null;
    body["assay"]["n"] = json!(1);
    let texts: std::collections::BTreeSet<String> = (0..6)
        .map(|_| answered(&server, "/v1/chat/completions", &body)["choices"].to_string())
        .collect();
    assert!(texts.len() > 1);
}

#[test]
fn completions_continue_text_and_take_best_of() {
    let server = Running::default_of(models(policy()));
    let question = &questions()[1].0;
    let (_, traces) = sampled(question, 3, 5, 9);
    let body =
        json!({ "prompt": [question], "seed": 3, "best_of": 5, "max_tokens": 9, "echo": false });
    let answer = answered(&server, "/v1/completions", &body);
    assert_eq!(answer["choices"][0]["text"], traces[best(&traces)].text);
    assert_eq!(
        (&answer["object"], &answer["assay"]["n"]),
        (&json!("text_completion"), &json!(5))
    );
}

#[test]
fn selectors_choose_as_they_are_defined() {
    let server = Running::default_of(models(policy()));
    let question = &questions()[0].0;
    let (completions, traces) = sampled(question, 7, 6, 12);
    let choose = |selector: &str| {
        let mut body = chat(question);
        body["assay"]["selector"] = json!(selector);
        answered(&server, "/v1/chat/completions", &body)["assay"]["chosen"]
            .as_u64()
            .unwrap() as usize
    };
    let logprob = |place: usize| -> f64 {
        completions[place]
            .policy_logprobs
            .iter()
            .map(|&l| f64::from(l))
            .sum()
    };
    let likeliest = (0..6).reduce(|a, b| if logprob(b) > logprob(a) { b } else { a });
    assert_eq!(Some(choose("logprob")), likeliest);
    let length = |place: usize| traces[place].text.len();
    let shortest = (0..6).map(length).min().unwrap();
    assert_eq!(length(choose("length")), shortest);
    // Weighted vote by hand: the answer with the largest sum of exp(score), with its best trace.
    let answers: Vec<Option<&str>> = traces
        .iter()
        .map(|t| t.predicted_answer.as_deref())
        .collect();
    let weight = |answer: &str| -> f64 {
        let own = (0..6).filter(|&p| answers[p] == Some(answer));
        own.map(|p| f64::from(traces[p].scores["mean"]).exp()).sum()
    };
    let elected = answers
        .iter()
        .flatten()
        .max_by(|a, b| weight(a).total_cmp(&weight(b)));
    let expected = match elected {
        Some(elected) => {
            let own: Vec<usize> = (0..6).filter(|&p| answers[p] == Some(*elected)).collect();
            own.into_iter()
                .reduce(|a, b| {
                    if traces[b].scores["mean"] > traces[a].scores["mean"] {
                        b
                    } else {
                        a
                    }
                })
                .unwrap()
        }
        None => best(&traces),
    };
    assert_eq!(choose("weighted_vote"), expected);
}

/// The events of a stream.
fn events(text: &str) -> Vec<String> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(str::to_owned).collect()
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let server = Running::default_of(models(policy()));
    let mut body = chat(&questions()[0].0);
    let whole = answered(&server, "/v1/chat/completions", &body);
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let answer = post(&server, "/v1/chat/completions", &body);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let events = events(&answer.text);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    for chunk in &chunks {
        check_event("/v1/chat/completions", chunk);
        assert_eq!(chunk["object"], "chat.completion.chunk");
    }
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    let last = &chunks[chunks.len() - 2];
    assert_eq!(
        last["choices"][0]["finish_reason"],
        whole["choices"][0]["finish_reason"]
    );
    assert_eq!(last["assay"], whole["assay"]);
    assert_eq!(chunks[chunks.len() - 1]["usage"], whole["usage"]);
    let text = post(
        &server,
        "/v1/completions",
        &json!({ "prompt": "1+1=", "stream": true, "max_tokens": 4 }),
    );
    let events = self::events(&text.text);
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event).unwrap();
        check_event("/v1/completions", &chunk);
        assert_eq!(chunk["object"], "text_completion");
    }
}

#[test]
fn stop_texts_cut_the_answer() {
    let server = Running::default_of(models(policy()));
    let question = &questions()[0].0;
    let (_, traces) = sampled(question, 7, 1, 12);
    let whole = &traces[0].text;
    let stop: String = whole.chars().skip(2).take(2).collect();
    let mut body = chat(question);
    body["assay"]["n"] = json!(1);
    body["stop"] = json!([stop, "never"]);
    let answer = answered(&server, "/v1/chat/completions", &body);
    let cut = &whole[..whole.find(&stop).unwrap()];
    assert_eq!(answer["choices"][0]["message"]["content"], cut);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[test]
fn unusable_values_are_refused_by_name() {
    let server = Running::default_of(models(policy()));
    let with = |field: &str, value: Value| {
        let mut body = chat("1+1=");
        body[field] = value;
        body
    };
    let path = "/v1/chat/completions";
    for (body, param) in [
        (with("n", json!(2)), "n"),
        (with("assay", json!({ "n": 0 })), "assay.n"),
        (with("assay", json!({ "n": 1_000_000_000 })), "assay.n"),
        (with("assay", json!({ "n": 1e30 })), "assay.n"),
        (
            with("assay", json!({ "selector": "oracle" })),
            "assay.selector",
        ),
        (
            with("assay", json!({ "selector": "bestofn" })),
            "assay.selector",
        ),
        (with("assay", json!({ "score": "mea" })), "assay.score"),
        (with("assay", json!({ "m": 4 })), "assay.m"),
        (
            with("assay", json!({ "predictor": "entropy" })),
            "assay.predictor",
        ),
        (with("temperature", json!(-1)), "temperature"),
        (with("top_p", json!(0)), "top_p"),
        (with("top_k", json!(-2)), "top_k"),
        (with("seed", json!("7")), "seed"),
        (with("seed", json!(1.5)), "seed"),
        (with("max_tokens", json!(0)), "max_tokens"),
        (with("max_tokens", json!(100_000)), "max_tokens"),
        (with("stop", json!([""])), "stop"),
        (with("logit_bias", json!({ "5": 100 })), "logit_bias"),
        (with("frequency_penalty", json!(0.5)), "frequency_penalty"),
        (with("tools", json!([{ "type": "function" }])), "tools"),
        (with("logprobs", json!(true)), "logprobs"),
        (
            with("response_format", json!({ "type": "json_object" })),
            "response_format",
        ),
        (with("messages", json!([])), "messages"),
        (
            with("messages", json!([{ "role": "assistant", "content": "1" }])),
            "messages",
        ),
        (
            with("messages", json!([{ "role": "tool", "content": "1" }])),
            "messages",
        ),
        (
            with("messages", json!([{ "role": "judge", "content": "1" }])),
            "messages[0]",
        ),
        (with("messages", json!([{ "role": "user" }])), "messages[0]"),
        (
            with(
                "messages",
                json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
            ),
            "messages[0]",
        ),
        (with("user_name", json!("x")), "user_name"),
    ] {
        let (status, _, named) = refused(&server, path, &body);
        assert_eq!((status, named), (400, json!(param)), "{body}");
    }
    assert_eq!(
        refused(&server, path, &with("model", json!("gpt-4"))).0,
        404
    );
    for prompt in [json!([1, 2, 3]), json!(["a", "b"]), json!("")] {
        let (status, _, named) = refused(&server, "/v1/completions", &json!({ "prompt": prompt }));
        assert_eq!((status, named), (400, json!("prompt")));
    }
    let harmless = json!({
        "user": "u", "metadata": { "a": 1 }, "store": true, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": {}, "response_format": { "type": "text" }, "top_k": -1, "tools": [],
    });
    let mut body = chat("1+1=");
    for (name, value) in harmless.as_object().unwrap() {
        body[name] = value.clone();
    }
    answered(&server, path, &body);
    let parts = with(
        "messages",
        json!([{ "role": "user", "content": [{ "type": "text", "text": "1+1=" }] }]),
    );
    let whole = answered(&server, path, &chat("1+1="));
    assert_eq!(answered(&server, path, &parts)["choices"], whole["choices"]);
}

#[test]
fn without_a_policy_nothing_is_completed() {
    let server = Running::default_of(models(None));
    let (status, code, _) = refused(&server, "/v1/chat/completions", &chat("1+1="));
    assert_eq!((status, code.as_str()), (404, "no_policy"));
}

/// Heads and bodies of requests.
type Log = Arc<Mutex<Vec<(String, Value)>>>;

/// An upstream server that answers each request with the next of some texts, one choice at a time
/// whatever `n` is, and with an error after the last. It stores the requests.
fn fake(texts: &[&str]) -> (SocketAddr, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (texts, log): (Vec<String>, _) = (
        texts.iter().map(|t| (*t).to_owned()).collect(),
        Arc::clone(&seen),
    );
    std::thread::spawn(move || {
        for count in 0..texts.len() + 1 {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            for _ in 0..100 {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            log.lock()
                .unwrap()
                .push((head, serde_json::from_slice(&body).unwrap()));
            let (status, answer) = match texts.get(count) {
                Some(text) => (
                    "200 OK",
                    json!({
                        "choices": [{ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
                        "usage": { "prompt_tokens": 3, "completion_tokens": 5 },
                    }),
                ),
                None => (
                    "400 Bad Request",
                    json!({ "error": { "message": "too much of /etc/passwd" } }),
                ),
            };
            let text = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            let mut stream = reader.into_inner();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
        }
    });
    (address, seen)
}

#[test]
fn an_upstream_server_is_asked_until_samples_suffice() {
    let (question, text) = questions()[0].clone();
    let texts = [
        text.clone(),
        text.replace("#### ", "#### 1"),
        text.replace('\n', "\n1"),
    ];
    let pairs: Vec<(String, String)> = texts
        .iter()
        .map(|t| (question.clone(), t.clone()))
        .collect();
    let expected = offline(&pairs);
    let (address, seen) = fake(&texts.each_ref().map(String::as_str));
    let server = Running::default_of(models(upstream(address)));
    let body = json!({
        "model": "their-model", "messages": [{ "role": "user", "content": question }], "temperature": 0.7, "seed": 5,
        "their_own_field": [1], "stream": false, "assay": { "n": 3 },
    });
    let answer = answered(&server, "/v1/chat/completions", &body);
    let best = best(&expected);
    assert_eq!(answer["choices"][0]["message"]["content"], texts[best]);
    assert_eq!(answer["model"], "their-model");
    assert_eq!(answer["usage"]["total_tokens"], 24);
    let sent = seen.lock().unwrap().clone();
    assert_eq!(sent.len(), 3);
    for (round, (head, sent)) in sent.iter().enumerate() {
        assert!(head.starts_with("POST /v1/chat/completions "));
        assert!(
            head.to_lowercase()
                .contains("authorization: bearer upstream key")
        );
        assert_eq!(
            *sent,
            json!({
                "model": "their-model", "messages": body["messages"], "temperature": 0.7, "seed": 5 + round,
                "their_own_field": [1], "n": 3 - round,
            })
        );
    }
    drop(sent);
    let (status, code, _) = refused(&server, "/v1/chat/completions", &body);
    assert_eq!((status, code.as_str()), (400, "upstream_refused"));
    let (status, _, _) = refused(&server, "/v1/chat/completions", &body);
    assert_eq!(status, 502, "the upstream server is gone");
}
