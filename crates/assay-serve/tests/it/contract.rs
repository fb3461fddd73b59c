//! The description at `/openapi.json` is complete and true.

use std::collections::BTreeSet;

use assay_serve::{OPENAPI, ROUTES};
use serde_json::{Map, Value, json};

use crate::http::{get, post};
use crate::world::{Running, models, policy};

fn description() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// Fails unless an answer is described for its route, method and status, and fits the description.
pub(crate) fn check(method: &str, path: &str, status: u16, answer: &Value) {
    let description = description();
    let Some(operation) = description["paths"]
        .get(path)
        .and_then(|item| item.get(method))
    else {
        assert!(
            status == 404 || status == 405,
            "{method} {path} is not described"
        );
        return;
    };
    let responses = &operation["responses"];
    let content = &responses[status.to_string()]["content"]["application/json"];
    assert!(
        content.is_object(),
        "{method} {path}: {status} is not described: {answer}"
    );
    fits(&description, &content["schema"], answer, path);
}

fn fits(description: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        let target = &description["components"]["schemas"][name];
        assert!(target.is_object(), "{at}: no schema {name}");
        return fits(description, target, value, at);
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let null = choices.iter().any(|choice| choice["type"] == "null");
        if !(null && value.is_null()) {
            fits(description, &choices[0], value, at);
        }
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        assert!(
            allowed.contains(value),
            "{at}: {value} is none of {allowed:?}"
        );
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    assert!(
        kinds.iter().any(|kind| is(kind, value)),
        "{at}: {value} is no {kinds:?}"
    );
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, value) in values.iter().enumerate() {
            fits(description, items, value, &format!("{at}[{index}]"));
        }
    }
    if let Some(fields) = value.as_object() {
        fits_object(description, schema, fields, at);
    }
}

fn fits_object(description: &Value, schema: &Value, fields: &Map<String, Value>, at: &str) {
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(
            fields.contains_key(name.as_str().unwrap()),
            "{at}: {name} is missing"
        );
    }
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        match (
            schema["properties"].get(name),
            &schema["additionalProperties"],
        ) {
            (Some(schema), _) => fits(description, schema, value, &at),
            (None, Value::Bool(false)) => panic!("{at} is not described"),
            (None, schema) => fits(description, schema, value, &at),
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other} in the description"),
    }
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let description = description();
    let described: BTreeSet<(String, String)> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    let routes: BTreeSet<(String, String)> = ROUTES
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(described, routes);
    let server = Running::default_of(models(None));
    for (method, path) in ROUTES {
        let status = match method {
            "get" => get(&server, path).status,
            _ => post(&server, path, &json!({})).status,
        };
        assert!(
            ![404, 405].contains(&status) || path.contains("completions"),
            "{path}: {status}"
        );
        let other = match method {
            "get" => post(&server, path, &json!({})).status,
            _ => get(&server, path).status,
        };
        assert_eq!(other, 405, "{path}");
    }
}

/// A field that is described is known to the server, and one that is not is refused by name.
#[test]
fn described_fields_are_known() {
    let server = Running::default_of(models(policy()));
    let description = description();
    for (path, base) in [
        ("/v1/score", json!({ "question": "1+1=", "text": "1" })),
        ("/v1/rerank", json!({ "query": "1+1=", "documents": ["1"] })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "1" }], "max_tokens": 1 }),
        ),
        ("/v1/completions", json!({ "prompt": "1", "max_tokens": 1 })),
    ] {
        let operation = &description["paths"][path]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let name = schema.as_str().unwrap().rsplit('/').next().unwrap();
        let properties = &description["components"]["schemas"][name]["properties"];
        let mut body = base.clone();
        for field in properties.as_object().unwrap().keys() {
            if body.get(field).is_none() {
                body[field] = Value::Null;
            }
        }
        let answer = post(&server, path, &body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        for unknown in ["frobnicate", "Model", "../../etc/passwd"] {
            let mut body = base.clone();
            body[unknown] = json!(1);
            let answer = post(&server, path, &body);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "unknown_field")
            );
            assert_eq!(answer.json()["error"]["param"], unknown);
        }
    }
}
