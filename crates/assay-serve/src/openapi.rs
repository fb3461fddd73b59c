//! The description at `/openapi.json`, generated from the table of routes and the types of requests
//! and responses.

use std::sync::OnceLock;

use schemars::generate::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::body::Fields;
use crate::limits::Limits;
use crate::refusal::ErrorBody;
use crate::routes::table::{Access, Content, Route, Status, TABLE, status};
use crate::shape::generator;

/// A route by its method and path in the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Endpoint {
    /// `get` or `post`.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
}

/// Every route of the server.
pub fn endpoints() -> impl Iterator<Item = Endpoint> {
    TABLE.iter().map(|route| Endpoint {
        method: route.method.name(),
        path: route.path,
    })
}

/// The description of every route as an OpenAPI 3.1 document in JSON.
pub fn openapi() -> &'static str {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    DOCUMENT.get_or_init(|| document().to_string())
}

/// Checks a body as the route at `path` does before any model runs, with the default limits.
///
/// # Errors
/// The message that a client would receive. Also if no route at `path` has a body.
pub fn check_body(path: &str, body: &[u8]) -> Result<(), String> {
    let mut of_path = TABLE.iter().filter(|route| route.path == path);
    let Some(kind) = of_path.find_map(|route| route.body) else {
        return Err(format!("no route at `{path}` has a body"));
    };
    let fields = Fields::from_bytes(body, Limits::default().json_depth);
    let checked = fields.and_then(|fields| (kind.check)(fields));
    checked.map_err(|refusal| refusal.message().to_owned())
}

fn document() -> Value {
    let mut answers: SchemaGenerator = generator().for_serialize().into();
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for route in TABLE {
        if let Some(body) = route.body {
            schemas.extend((body.shape)().definitions.clone());
        }
        let operation = operation(route, &mut answers);
        let of_path = paths.entry(route.path).or_insert_with(|| json!({}));
        of_path[route.method.name()] = operation;
    }
    let mut of_answers = answers.take_definitions(true);
    of_answers.values_mut().for_each(close);
    schemas.extend(of_answers);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "assay serve",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "A token-level reasoning reward as a critic. A field that is null is absent. \
                            Unknown fields are refused by name.",
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed when the server was started with --token-file.",
            } },
        },
    })
}

fn operation(route: &Route, answers: &mut SchemaGenerator) -> Value {
    let mut operation = json!({ "operationId": route.id, "summary": route.summary });
    if route.access != Access::Open {
        operation["security"] = json!([{}, { "token": [] }]);
    }
    if let Some(body) = route.body {
        let reference = format!("#/components/schemas/{}", (body.shape)().name);
        let content = json!({ "application/json": { "schema": { "$ref": reference } } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    let mut responses = Map::new();
    let content: Map<String, Value> = route
        .answers
        .iter()
        .map(|content| (content.kind.to_owned(), described(content, answers)))
        .collect();
    responses.insert(
        "200".to_owned(),
        json!({ "description": "The answer.", "content": content }),
    );
    let refusals = of_access(route.access).iter().chain(route.statuses);
    for &Status { code, description } in refusals {
        let schema = match (code, route.id) {
            (503, "health") => answers.subschema_for::<crate::answers::Health>(),
            _ => answers.subschema_for::<ErrorBody>(),
        };
        let mut response = json!({
            "description": description,
            "content": { "application/json": { "schema": schema } },
        });
        if code == 429 {
            response["headers"] = json!({ "Retry-After": { "schema": { "type": "integer" } } });
        }
        responses.insert(code.to_string(), response);
    }
    operation["responses"] = Value::Object(responses);
    operation
}

fn described(content: &Content, answers: &mut SchemaGenerator) -> Value {
    match content.schema {
        Some(schema) => json!({ "schema": schema(answers) }),
        None => json!({}),
    }
}

const FOREIGN: Status = status(403, "The server has no token and was asked for by a name.");
const NO_TOKEN: Status = status(401, "The bearer token is missing or wrong.");
/// The error statuses of a route that runs models.
const OF_WORK: &[Status] = &[
    status(
        400,
        "A field or the whole request cannot be used; `param` names the field.",
    ),
    NO_TOKEN,
    FOREIGN,
    status(408, "The body came too slowly."),
    status(413, "The body is too large."),
    status(415, "The content type is not application/json."),
    status(
        429,
        "Too much is waiting; `Retry-After` says when to try again.",
    ),
    status(500, "A model failed on this request."),
    status(503, "The server is shutting down."),
    status(504, "No answer in time."),
];

/// The error statuses that follow from a route's access.
fn of_access(access: Access) -> &'static [Status] {
    match access {
        Access::Open => &[FOREIGN],
        Access::Token => &[NO_TOKEN, FOREIGN],
        Access::Work => OF_WORK,
    }
}

/// Adds `additionalProperties: false` to every object with named fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}
