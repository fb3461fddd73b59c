//! The description at `/openapi.json` is complete and correct.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use assay_serve::{endpoints, openapi};
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::http::{answered, get, post, refused};
use crate::world::{Running, models, policy};

/// Every route, by hand.
const ROUTES: [(&str, &str); 17] = [
    ("post", "/v1/score"),
    ("post", "/v1/rewards"),
    ("post", "/v1/rerank"),
    ("post", "/v2/rerank"),
    ("post", "/rerank"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/labels"),
    ("get", "/v1/labels"),
    ("get", "/v1/models"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/"),
    ("get", "/viewer.css"),
    ("get", "/marks.js"),
    ("get", "/viewer.js"),
];

fn description() -> &'static Value {
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| serde_json::from_str(openapi()).unwrap())
}

/// Fails unless a value fits a schema of the description.
fn fits(schema: &Value, value: &Value, at: &str) {
    static VALIDATORS: OnceLock<Mutex<HashMap<String, Arc<Validator>>>> = OnceLock::new();
    let validators = VALIDATORS.get_or_init(Mutex::default);
    let mut known = validators.lock().unwrap();
    let validator = known.entry(schema.to_string()).or_insert_with(|| {
        let mut schema = schema.clone();
        schema["components"] = description()["components"].clone();
        Arc::new(jsonschema::validator_for(&schema).unwrap())
    });
    let validator = Arc::clone(validator);
    drop(known);
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{at}: {errors:?} in {value}");
}

/// Fails unless an answer is described for its route, method and status, and fits the description.
pub(crate) fn check(method: &str, path: &str, status: u16, answer: &Value) {
    let path_item = description()["paths"].get(path);
    let Some(operation) = path_item.and_then(|item| item.get(method)) else {
        assert!(
            status == 404 || status == 405,
            "{method} {path} is not described"
        );
        return;
    };
    let content = &operation["responses"][status.to_string()]["content"]["application/json"];
    assert!(
        content.is_object(),
        "{method} {path}: {status} is not described: {answer}"
    );
    fits(content.get("schema").unwrap_or(&json!({})), answer, path);
}

/// Fails unless an event of a stream fits the description.
pub(crate) fn check_event(path: &str, event: &Value) {
    let content = &description()["paths"][path]["post"]["responses"]["200"]["content"];
    fits(&content["text/event-stream"]["schema"], event, path);
}

/// The schema of a route's body.
fn request_schema(path: &str) -> &'static Value {
    let body = &description()["paths"][path]["post"]["requestBody"];
    let reference = &body["content"]["application/json"]["schema"]["$ref"];
    let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
    &description()["components"]["schemas"][name]
}

/// A small request for each route that takes one.
fn bases() -> [(&'static str, Value); 8] {
    let texts = json!({ "question": "1+1=", "text": "1" });
    let documents = json!({ "query": "1+1=", "documents": ["1"] });
    let user = json!([{ "role": "user", "content": "1" }]);
    [
        ("/v1/score", texts.clone()),
        ("/v1/rewards", texts),
        ("/v1/rerank", documents.clone()),
        ("/v2/rerank", documents.clone()),
        ("/rerank", documents),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "max_tokens": 1 }),
        ),
        ("/v1/completions", json!({ "prompt": "1", "max_tokens": 1 })),
        (
            "/v1/labels",
            json!({ "question": "1", "text": "1", "verdict": "correct", "annotator": "a" }),
        ),
    ]
}

#[test]
fn routes_and_description_agree() {
    let expected: BTreeSet<(&str, &str)> = ROUTES.into_iter().collect();
    let paths = description()["paths"].as_object().unwrap();
    let described: BTreeSet<(&str, &str)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.as_str(), path.as_str()))
        })
        .collect();
    assert_eq!(described, expected);
    let routes: BTreeSet<(&str, &str)> = endpoints()
        .map(|endpoint| (endpoint.method, endpoint.path))
        .collect();
    assert_eq!(routes, expected);
    let server = Running::default_of(models(None));
    for (method, path) in ROUTES {
        let status = match method {
            "get" => get(&server, path).status,
            _ => post(&server, path, &json!({})).status,
        };
        let expected = if method == "get" { 200 } else { 400 };
        assert_eq!(status, expected, "{path}");
        if path == "/v1/labels" {
            continue; // It takes both methods.
        }
        let other = match method {
            "get" => post(&server, path, &json!({})).status,
            _ => get(&server, path).status,
        };
        assert_eq!(other, 405, "{path}");
    }
}

/// The server accepts every described field; for any other field it returns an error that names it.
#[test]
fn described_fields_are_known_and_no_others() {
    let server = Running::labelled(models(policy()));
    for (path, base) in bases() {
        let properties = request_schema(path)["properties"].as_object().unwrap();
        let mut body = base.clone();
        for field in properties.keys() {
            if body.get(field).is_none() {
                body[field] = Value::Null;
            }
        }
        answered(&server, path, &body);
        for unknown in ["frobnicate", "Model", "../../etc/passwd"] {
            let mut body = base.clone();
            body[unknown] = json!(1);
            let refusal = refused(&server, path, &body);
            assert_eq!(refusal, (400, "unknown_field".to_owned(), json!(unknown)));
        }
    }
}

#[test]
fn neutral_values_pass_and_others_are_refused() {
    let server = Running::labelled(models(policy()));
    let mut count = 0;
    for (path, base) in bases() {
        let properties = request_schema(path)["properties"].as_object().unwrap();
        let unsupported = properties.iter().filter(|(_, schema)| {
            let description = schema["description"].as_str().unwrap_or_default();
            description.starts_with("Not supported: ")
        });
        let mut neutral = base.clone();
        for (name, schema) in unsupported {
            count += 1;
            neutral[name] = schema["enum"][0].clone();
            let mut body = base.clone();
            body[name] = json!(["something", { "else": 7 }]);
            let (status, code, param) = refused(&server, path, &body);
            assert_eq!(
                (status, code.as_str(), param),
                (400, "invalid_value", json!(name))
            );
        }
        answered(&server, path, &neutral);
    }
    assert!(count > 100, "{count} fields were tried");
}

#[test]
fn examples_fit_their_schema_and_are_answered() {
    let server = Running::labelled(models(policy()));
    let mut count = 0;
    for (path, _) in bases() {
        let schema = request_schema(path);
        for example in schema["examples"].as_array().unwrap() {
            count += 1;
            fits(schema, example, path);
            answered(&server, path, example);
        }
    }
    assert_eq!(count, 3 + 3 + 3 * 3 + 2 + 1 + 3);
}

/// A description with an open field would accept any response.
#[test]
fn answers_have_no_field_beyond_the_described() {
    let score = &description()["components"]["schemas"]["Score"];
    let entry = json!({
        "object": "score", "index": 0, "score": 1.0, "scores": {}, "probability": null, "predicted_answer": null,
    });
    fits(score, &entry, "an entry");
    let mut more = entry.clone();
    more["extra"] = json!(1);
    let mut less = entry;
    less.as_object_mut().unwrap().remove("scores");
    for wrong in [more, less] {
        let checked = std::panic::catch_unwind(|| fits(score, &wrong, "an entry"));
        assert!(checked.is_err(), "{wrong}");
    }
}
