//! Rollouts from a server that imitates vLLM, and from servers that fail in various ways.
//!
//! The server really samples: it loads the adapter that it receives and draws from the tiny model.
//! Its responses have the fields of vLLM's `/v1/completions`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use assay_lm::draw::DrawSettings;
use assay_lm::sampling::{SampleRequest, SamplingLimits, sample};
use assay_lm::{LanguageModel, peft};
use assay_tasks::random::Stream;
use assay_train::TrainError;
use assay_train::metrics::read;
use assay_train::run::{RunMode, TrainerKind};
use assay_train::settings::{EngineSettings, Settings};
use serde_json::{Value, json};

use super::{model, problems, run, settings};

/// A server's reaction to the nth completion request (from 0), given the correct response.
type Manner = fn(usize, Value) -> Reply;

enum Reply {
    Json(Value),
    Status(u16, &'static str),
    Raw(Vec<u8>),
    /// Accepts the request and never responds.
    Stalled,
    /// Closes the connection, and every later one.
    Gone,
}

#[derive(Default)]
struct Seen {
    /// Adapters loaded and unloaded, in order.
    adapters: Vec<String>,
    completions: usize,
    /// The last completion request.
    asked: Value,
    /// Connections that wait for a response.
    stalled: Vec<TcpStream>,
    gone: bool,
}

struct Server {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let state = seen.clone();
        std::thread::spawn(move || {
            let model = model();
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &model, &state, manner);
            }
        });
        Self { url, seen }
    }

    fn settings(&self) -> Settings {
        let mut settings = settings();
        settings.policy.start = assay_train::settings::PolicyStart::Base;
        settings.reward.schedule.warmup_iterations = 0;
        settings.run.iterations = 3;
        settings.run.eval_every = 0;
        settings.sampling.engine = toml::from_str(&format!(
            "kind = \"openai\"\nurl = \"{}\"\nattempts = 2\ntimeout_seconds = 20\nconcurrency = 3",
            self.url
        ))
        .unwrap();
        settings
    }
}

/// One request per connection: the response tells the client to close it.
fn answer(
    stream: TcpStream,
    model: &LanguageModel,
    state: &Mutex<Seen>,
    manner: Manner,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut seen = state.lock().unwrap();
    if seen.gone {
        return Ok(());
    }
    let reply = match first.split(' ').nth(1).unwrap() {
        "/v1/load_lora_adapter" => {
            let (name, path) = (&body["lora_name"], body["lora_path"].as_str().unwrap());
            assert!(Path::new(path).join("adapter_model.safetensors").is_file());
            seen.adapters
                .push(format!("{}={path}", name.as_str().unwrap()));
            Reply::Raw(b"Success: LoRA adapter added successfully.".to_vec())
        }
        "/v1/unload_lora_adapter" => {
            let prefix = format!("{}=", body["lora_name"].as_str().unwrap());
            let before = seen.adapters.len();
            seen.adapters
                .retain(|adapter| !adapter.starts_with(&prefix));
            match before == seen.adapters.len() {
                true => Reply::Status(404, "no such adapter"),
                false => Reply::Raw(b"Success".to_vec()),
            }
        }
        "/v1/completions" => {
            seen.completions += 1;
            seen.asked = body.clone();
            let prefix = format!("{}=", body["model"].as_str().unwrap());
            let adapter = seen.adapters.iter().find_map(|a| a.strip_prefix(&prefix));
            manner(seen.completions - 1, complete(model, adapter, &body))
        }
        _ => Reply::Status(404, "no such path"),
    };
    if matches!(reply, Reply::Stalled) {
        seen.stalled.push(stream);
        return Ok(());
    }
    seen.gone |= matches!(reply, Reply::Gone);
    drop(seen);
    let (status, bytes) = match reply {
        Reply::Json(value) => (200, value.to_string().into_bytes()),
        Reply::Status(status, text) => (status, text.as_bytes().to_vec()),
        Reply::Raw(bytes) => (200, bytes),
        Reply::Stalled | Reply::Gone => return Ok(()),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bytes.len()
    )?;
    stream.write_all(&bytes)
}

/// A completion in vLLM's format.
fn complete(model: &LanguageModel, adapter: Option<&str>, body: &Value) -> Value {
    let adapter = adapter.map(|path| {
        let loaded = peft::load(Path::new(path), model.transformer.config());
        loaded.unwrap().adapter
    });
    let request = SampleRequest {
        prompt: serde_json::from_value(body["prompt"].clone()).unwrap(),
        streams: vec![Stream::new(body["seed"].as_u64().unwrap(), &[])],
        max_new_tokens: None,
        not_first: None,
    };
    let limits = SamplingLimits {
        max_new_tokens: body["max_tokens"].as_u64().unwrap() as usize,
        stop_tokens: serde_json::from_value(body["stop_token_ids"].clone()).unwrap(),
        max_sequences: 1,
    };
    let draw = DrawSettings::default();
    let mut drawn = sample(
        &model.transformer,
        adapter.as_ref(),
        &[request],
        &draw,
        &limits,
        |_| (),
    )
    .unwrap();
    let one = drawn.remove(0).remove(0);
    json!({ "choices": [{
        "index": 0,
        "text": model.decode(&one.token_ids).0,
        "token_ids": one.token_ids,
        "logprobs": { "token_logprobs": one.sampling_logprobs, "tokens": null },
        "finish_reason": if one.truncated { "length" } else { "stop" },
    }] })
}

fn train(settings: &Settings, dir: &Path, mode: RunMode) -> Result<(), TrainError> {
    run(settings, TrainerKind::Airl, dir, mode)
}

fn handed_over(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("handover")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_server_samples_from_each_iterations_adapter() {
    let server = Server::start(|_, honest| Reply::Json(honest));
    let dir = tempfile::tempdir().unwrap();
    train(&server.settings(), dir.path(), RunMode::Fresh).unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.completions, 3 * 2 * 3, "iterations, prompts, samples");
    assert_eq!(seen.adapters.len(), 1, "older ones are unloaded");
    assert!(seen.adapters[0].starts_with("assay-2="));
    assert_eq!(
        handed_over(dir.path()),
        [dir.path().join("handover/assay-2")]
    );
    let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
    for iteration in &metrics {
        // Log-probabilities of the server, unmerged adapter, against the trainer's: the same
        // weights.
        let gap = iteration.values["policy/sampling_gap_max"];
        assert!(gap < 1e-4, "{gap} in iteration {}", iteration.iteration);
    }
}

#[test]
fn without_handover_the_base_samples() {
    let server = Server::start(|_, honest| Reply::Json(honest));
    let mut settings = server.settings();
    settings.optimiser.policy.learning_rate = 5e-2;
    let EngineSettings::Openai { handover, .. } = &mut settings.sampling.engine else {
        unreachable!("the settings of a server");
    };
    *handover = assay_train::settings::Handover::None;
    let dir = tempfile::tempdir().unwrap();
    train(&settings, dir.path(), RunMode::Fresh).unwrap();
    let gaps: Vec<f64> = read(&dir.path().join("metrics.jsonl"))
        .unwrap()
        .iter()
        .map(|iteration| iteration.values["policy/sampling_gap_max"])
        .collect();
    assert!(gaps[0] < 1e-4 && gaps[2] > 1e-2, "{gaps:?}");
    assert!(server.seen.lock().unwrap().adapters.is_empty());
}

/// A run whose server fails in its second iteration and that continues with another server. Returns
/// the error message.
fn fails_and_goes_on(manner: Manner) -> String {
    let failing = Server::start(manner);
    let mut settings = failing.settings();
    let EngineSettings::Openai {
        timeout_seconds, ..
    } = &mut settings.sampling.engine
    else {
        unreachable!("the settings of a server");
    };
    *timeout_seconds = 2;
    let dir = tempfile::tempdir().unwrap();
    let error = train(&settings, dir.path(), RunMode::Fresh).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains(&failing.url) && said.contains("--resume"),
        "{said}"
    );
    // The second iteration failed; the first is saved. The run continues with another server at
    // another address.
    let next = Server::start(|_, honest| Reply::Json(honest));
    train(&next.settings(), dir.path(), RunMode::Resume).unwrap();
    assert_eq!(next.seen.lock().unwrap().completions, 2 * 2 * 3);
    assert_eq!(read(&dir.path().join("metrics.jsonl")).unwrap().len(), 3);
    // The result equals that of a run with a correct server.
    let whole = tempfile::tempdir().unwrap();
    let server = Server::start(|_, honest| Reply::Json(honest));
    train(&server.settings(), whole.path(), RunMode::Fresh).unwrap();
    assert_eq!(super::result(dir.path()).0, super::result(whole.path()).0);
    said
}

/// A row of the table in docs/reliability.md, for `tools/reliability`.
#[allow(clippy::print_stdout)] // tools/reliability reads it
fn row(what: &str, times: usize) {
    println!("\nROW | {what} | {times} | {times} |");
}

#[test]
fn a_server_that_dies_costs_nothing_but_time() {
    let said = fails_and_goes_on(|n, honest| match n {
        0..9 => Reply::Json(honest),
        _ => Reply::Gone,
    });
    assert!(said.contains("tried 2 times"), "{said}");
    row(
        "a rollout server that dies: named, resumed with another one, as if nothing had happened",
        1,
    );
}

#[test]
fn a_server_that_stalls_costs_nothing_but_time() {
    let said = fails_and_goes_on(|n, honest| match n {
        0..9 => Reply::Json(honest),
        _ => Reply::Stalled,
    });
    assert!(
        said.contains("timeout") && said.contains("tried 2 times"),
        "{said}"
    );
    row(
        "a rollout server that never answers: given up after the time-out, named, resumed with another one",
        1,
    );
}

#[test]
fn passing_failures_are_tried_again() {
    let server = Server::start(|n, honest| match n {
        0 => Reply::Status(503, "loading"),
        3 => Reply::Status(429, "busy"),
        5 => Reply::Json(json!({ "choices": [] })),
        _ => Reply::Json(honest),
    });
    let mut settings = server.settings();
    settings.run.iterations = 1;
    let dir = tempfile::tempdir().unwrap();
    train(&settings, dir.path(), RunMode::Fresh).unwrap();
    assert_eq!(server.seen.lock().unwrap().completions, 2 * 3 + 3);
    let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
    assert_eq!(metrics[0].values["rollout/discarded_answers"], 1.0);
}

#[test]
fn servers_are_told_the_whole_distribution() {
    let server = Server::start(|_, honest| Reply::Json(honest));
    let mut settings = server.settings();
    settings.run.iterations = 1;
    let vocabulary = model().transformer.config().vocab_size;
    let dir = tempfile::tempdir().unwrap();
    train(&settings, dir.path(), RunMode::Fresh).unwrap();
    let asked = server.seen.lock().unwrap().asked.clone();
    let expected = json!({
        "temperature": 1.0, "top_p": 1.0, "top_k": vocabulary, "min_p": 0.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&asked[field], value, "{field}");
    }
}

/// Changes the only choice of a correct response.
fn with(mut honest: Value, change: impl FnOnce(&mut Value)) -> Reply {
    change(&mut honest["choices"][0]);
    Reply::Json(honest)
}

#[test]
fn unusable_answers_are_refused_by_name() {
    let cases: [(Manner, &str); 14] = [
        (|_, _| Reply::Raw(b"<html>".to_vec()), "not JSON"),
        (|_, _| Reply::Raw(vec![0xff, 0xfe]), "not JSON"),
        (|_, _| Reply::Json(json!({ "choices": [] })), "no choice"),
        (
            |_, _| Reply::Status(404, "no model"),
            "status 404: no model",
        ),
        (|_, _| Reply::Status(400, "bad"), "status 400: bad"),
        (|_, _| Reply::Raw(vec![b' '; 65 << 20]), "larger than"),
        (
            |_, a| with(a, |c| c["logprobs"] = Value::Null),
            "no log-probabilities",
        ),
        (
            |_, a| with(a, |c| c["logprobs"]["token_logprobs"][0] = json!(0.5)),
            "0.5 is no log-probability",
        ),
        (
            |_, a| with(a, |c| c["logprobs"]["token_logprobs"][0] = json!("NaN")),
            "is no log-probability",
        ),
        (
            |_, a| with(a, |c| c["logprobs"]["token_logprobs"][0] = Value::Null),
            "null is no log-probability",
        ),
        (
            |_, a| with(a, |c| c["token_ids"] = Value::Null),
            "neither token_ids nor tokens",
        ),
        (
            |_, a| with(a, |c| c["finish_reason"] = json!("abort")),
            "finish_reason",
        ),
        (
            |_, a| with(a, |c| c["token_ids"] = json!([1])),
            "log-probabilities",
        ),
        (
            |_, a| with(a, |c| c["token_ids"][0] = json!(4_000_000)),
            "beyond the vocabulary",
        ),
    ];
    let count = cases.len();
    for (manner, expected) in cases {
        let server = Server::start(manner);
        let dir = tempfile::tempdir().unwrap();
        let error = train(&server.settings(), dir.path(), RunMode::Fresh).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains(expected) && said.contains(&server.url),
            "{said}"
        );
    }
    row(
        "a rollout server that lies, refuses or floods: refused by name",
        count,
    );
}

#[test]
fn ids_are_read_from_names() {
    let server = Server::start(|_, honest| {
        with(honest, |choice| {
            let ids: Vec<u64> = serde_json::from_value(choice["token_ids"].take()).unwrap();
            let names: Vec<String> = ids.iter().map(|id| format!("token_id:{id}")).collect();
            choice["logprobs"]["tokens"] = json!(names);
        })
    });
    let mut settings = server.settings();
    settings.run.iterations = 1;
    let dir = tempfile::tempdir().unwrap();
    train(&settings, dir.path(), RunMode::Fresh).unwrap();
    let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
    assert!(metrics[0].values["policy/sampling_gap_max"] < 1e-4);
}

fn demonstration() -> String {
    problems(1).remove(0).demonstration.unwrap()
}

/// A response in llama.cpp's format: only text, without a log-probability of the end-of-turn token.
/// The nth log-probability is -n.
fn text_only(text: &str, joined: usize) -> Value {
    let (_, spans) = model().tokenizer.encode_with_offsets(text).unwrap();
    let mut tokens: Vec<&str> = spans
        .iter()
        .map(|&(start, end)| &text[start..end])
        .collect();
    if joined > 0 {
        // The same number of tokens with other boundaries.
        let (first, second) = (spans[0], spans[1]);
        (tokens[0], tokens[1]) = (&text[first.0..second.1], "");
    }
    let logprobs: Vec<f64> = (0..tokens.len()).map(|n| -(n as f64)).collect();
    json!({ "choices": [{
        "text": text,
        "logprobs": { "token_logprobs": logprobs, "tokens": tokens },
        "finish_reason": "stop",
    }] })
}

#[test]
fn text_alone_must_have_the_same_tokens() {
    let server = Server::start(|n, _| Reply::Json(text_only(&demonstration(), n % 2)));
    let mut settings = server.settings();
    settings.run.iterations = 1;
    let dir = tempfile::tempdir().unwrap();
    train(&settings, dir.path(), RunMode::Fresh).unwrap();
    // Every second response has other token boundaries, so six completions take between six and
    // twelve responses.
    let asked = server.seen.lock().unwrap().completions;
    assert!((7..=12).contains(&asked), "{asked}");
    let metrics = read(&dir.path().join("metrics.jsonl")).unwrap();
    let length = metrics[0].values["rollout/length"];
    let (ids, _) = model()
        .tokenizer
        .encode_with_offsets(&demonstration())
        .unwrap();
    assert_eq!(length, ids.len() as f64 + 1.0, "the end of turn is added");
}
