//! The shape of a request: the JSON schema of its type. A body is checked against it field by
//! field.
//!
//! Bodies are checked against the same schema that `/openapi.json` serves, so the two cannot
//! differ. A field that is `null` counts as absent. The error for an invalid value names the
//! field's path and the expected type.

mod words;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// Minimum similarity at which a known name is suggested for an unknown one.
const MIN_SIMILARITY: f64 = 0.8;
/// Whole numbers below this are exact as floating-point numbers.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A field of other servers that is accepted only with a neutral value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsupported {
    pub(crate) name: &'static str,
    /// The neutral values, as a JSON list.
    pub(crate) neutral: &'static str,
    /// Why other values are refused.
    pub(crate) reason: &'static str,
}

/// The body of a request.
pub(crate) trait RequestBody: DeserializeOwned + JsonSchema {
    /// Fields of other servers that have no effect here.
    fn ignored() -> Vec<&'static str>;
    /// Fields of other servers that are accepted only with a neutral value.
    fn unsupported() -> Vec<Unsupported>;
    /// The type's shape, made once.
    fn shape() -> &'static Shape;
}

/// The schema of a request with the schemas that it refers to.
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) definitions: Map<String, Value>,
    ignored: Vec<&'static str>,
    unsupported: Vec<(Unsupported, Vec<Value>)>,
}

/// A generator whose schemas refer to the components of a description.
pub(crate) fn generator() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    })
}

impl Shape {
    /// The shape of a type: its fields, the ignored and the unsupported ones, and no others.
    pub(crate) fn of<T: RequestBody>() -> Self {
        let mut generator: SchemaGenerator = generator().into();
        generator.subschema_for::<T>();
        let mut definitions = generator.take_definitions(true);
        let name = T::schema_name().into_owned();
        let ignored = T::ignored();
        let unsupported: Vec<(Unsupported, Vec<Value>)> = T::unsupported()
            .into_iter()
            .map(|field| {
                (
                    field,
                    serde_json::from_str(field.neutral).unwrap_or_default(),
                )
            })
            .collect();
        if let Some(Value::Object(schema)) = definitions.get_mut(&name) {
            schema.insert("additionalProperties".to_owned(), Value::Bool(false));
            let properties = schema
                .entry("properties")
                .or_insert_with(|| Value::Object(Map::new()));
            for name in &ignored {
                properties[*name] =
                    serde_json::json!({ "description": "Accepted; changes nothing here." });
            }
            for (field, neutral) in &unsupported {
                let mut allowed = neutral.clone();
                allowed.push(Value::Null);
                properties[field.name] = serde_json::json!({ "enum": allowed, "description": format!("Not supported: {}.", field.reason) });
            }
        }
        Self {
            name,
            definitions,
            ignored,
            unsupported,
        }
    }

    /// Reads fields as a type. Drops fields without effect; fails for unknown fields and invalid
    /// values.
    pub(crate) fn read<T: RequestBody>(
        &self,
        mut fields: Map<String, Value>,
    ) -> Result<T, Refusal> {
        for name in &self.ignored {
            fields.remove(*name);
        }
        for (field, neutral) in &self.unsupported {
            let value = fields.remove(field.name).unwrap_or(Value::Null);
            if !value.is_null() && !neutral.iter().any(|neutral| same(neutral, &value)) {
                return Err(Refusal::field(field.name, field.reason));
            }
        }
        let mut body = Value::Object(fields);
        self.fit(self.root(), &mut body, "")?;
        serde_json::from_value(body)
            .map_err(|error| Refusal::request("invalid_value", error.to_string()))
    }

    fn root(&self) -> &Value {
        &self.definitions[&self.name]
    }

    fn resolve<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let name = reference.and_then(|reference| reference.rsplit('/').next());
        name.and_then(|name| self.definitions.get(name))
            .unwrap_or(schema)
    }

    /// Checks a value, drops its `null` fields and writes whole numbers as integers.
    fn fit(&self, schema: &Value, value: &mut Value, path: &str) -> Result<(), Refusal> {
        let schema = self.resolve(schema);
        if !self.takes(schema, value) {
            return Err(self.mismatch(schema, value, path));
        }
        if let Some(branches) = branches(schema) {
            let branch = branches.iter().find(|branch| self.takes(branch, value));
            return branch.map_or(Ok(()), |branch| self.fit(branch, value, path));
        }
        match value {
            Value::Object(fields) => self.fit_fields(schema, fields, path),
            Value::Array(values) => {
                let Some(items) = schema.get("items") else {
                    return Ok(());
                };
                let mut values = values.iter_mut().enumerate();
                values.try_for_each(|(at, value)| self.fit(items, value, &format!("{path}[{at}]")))
            }
            Value::Number(number) if types(schema).any(|kind| kind == "integer") => {
                if let (None, None, Some(whole)) =
                    (number.as_i64(), number.as_u64(), number.as_f64())
                {
                    *value = Value::from(whole as i64);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fit_fields(
        &self,
        schema: &Value,
        fields: &mut Map<String, Value>,
        path: &str,
    ) -> Result<(), Refusal> {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Ok(());
        };
        fields.retain(|_, value| !value.is_null());
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let mut names = fields.keys();
        if let Some(name) = names.find(|name| closed && !properties.contains_key(*name)) {
            return Err(unknown(name, properties, path));
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                let expected = self.words(&properties[name]);
                let message = format!("is missing; expected {expected}");
                return Err(Refusal::field(join(path, name), message));
            }
        }
        for (name, value) in fields {
            if let Some(schema) = properties.get(name) {
                self.fit(schema, value, &join(path, name))?;
            }
        }
        Ok(())
    }

    /// Whether a value has the type and the range of a schema, and is one of its values if it lists
    /// any.
    fn takes(&self, schema: &Value, value: &Value) -> bool {
        let schema = self.resolve(schema);
        if let Some(branches) = branches(schema) {
            return branches.iter().any(|branch| self.takes(branch, value));
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            return allowed.iter().any(|allowed| same(allowed, value));
        }
        if let Some(only) = schema.get("const") {
            return same(only, value);
        }
        let mut kinds = types(schema).peekable();
        (kinds.peek().is_none() || kinds.any(|kind| is(kind, value))) && in_range(schema, value)
    }

    fn mismatch(&self, schema: &Value, value: &Value, path: &str) -> Refusal {
        let (expected, found) = (self.words(schema), words::found(value));
        Refusal::field(path, format!("expected {expected}, not {found}"))
    }
}

fn unknown(name: &str, properties: &Map<String, Value>, path: &str) -> Refusal {
    let nearest = properties
        .keys()
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = nearest.map_or_else(String::new, |(_, known)| {
        format!("; did you mean `{}`?", join(path, known))
    });
    let path = join(path, name);
    let message = format!("unknown field `{path}`{hint}");
    Refusal::request("unknown_field", message).about(path)
}

/// A field's name with the path of its object.
fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

fn branches(schema: &Value) -> Option<&Vec<Value>> {
    let branches = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    branches.and_then(Value::as_array)
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let (one, many) = match schema.get("type") {
        Some(Value::String(kind)) => (Some(kind.as_str()), None),
        Some(Value::Array(kinds)) => (None, Some(kinds)),
        _ => (None, None),
    };
    let many = many.into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(many)
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => {
            let whole = |number: f64| number.fract() == 0.0 && number.abs() < EXACT;
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(whole)
        }
        _ => false,
    }
}

fn in_range(schema: &Value, value: &Value) -> bool {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let Some(number) = value.as_f64() else {
        return true;
    };
    bound("minimum").is_none_or(|least| number >= least)
        && bound("exclusiveMinimum").is_none_or(|below| number > below)
        && bound("maximum").is_none_or(|most| number <= most)
}

/// Whether two values are equal; numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Example {
        temperature: Option<f64>,
        #[schemars(range(min = 1))]
        tokens: Option<usize>,
        stop: Option<Stops>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(untagged)]
    enum Stops {
        One(String),
        Many(Vec<String>),
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        n: usize,
    }

    impl RequestBody for Example {
        fn ignored() -> Vec<&'static str> {
            vec!["user"]
        }

        fn unsupported() -> Vec<Unsupported> {
            vec![Unsupported {
                name: "penalty",
                neutral: "[0, {}]",
                reason: "no penalties here",
            }]
        }

        fn shape() -> &'static Shape {
            static SHAPE: OnceLock<Shape> = OnceLock::new();
            SHAPE.get_or_init(Shape::of::<Self>)
        }
    }

    fn read(body: Value) -> Result<Example, String> {
        let Value::Object(fields) = body else {
            return Err("no object".to_owned());
        };
        let read = Example::shape().read(fields);
        read.map_err(|refusal| refusal.message().to_owned())
    }

    #[test]
    fn unknown_fields_are_refused_with_the_nearest() {
        let error = read(json!({ "temperture": 1, "user": "me" })).unwrap_err();
        assert_eq!(
            error,
            "unknown field `temperture`; did you mean `temperature`?"
        );
        let error = read(json!({ "inner": { "m": 1, "n": 2 } })).unwrap_err();
        assert_eq!(error, "unknown field `inner.m`");
    }

    #[test]
    fn null_is_absent_in_every_field() {
        let body = json!({
            "temperature": null, "user": null, "penalty": null, "unheard_of": null,
            "inner": { "n": 3, "m": null },
        });
        let example = read(body).unwrap();
        assert_eq!(example.temperature, None);
        assert_eq!(example.inner.unwrap().n, 3);
    }

    #[test]
    fn errors_name_the_field_and_its_shape() {
        for (body, expected) in [
            (
                json!({ "temperature": "warm" }),
                "`temperature`: expected a number, not \"warm\"",
            ),
            (
                json!({ "tokens": 0 }),
                "`tokens`: expected a whole number of at least 1, not 0",
            ),
            (
                json!({ "tokens": 1.5 }),
                "`tokens`: expected a whole number of at least 1, not 1.5",
            ),
            (
                json!({ "stop": 5 }),
                "`stop`: expected a string or a list of strings, not 5",
            ),
            (
                json!({ "stop": ["a", 5] }),
                "`stop[1]`: expected a string, not 5",
            ),
            (
                json!({ "inner": [] }),
                "`inner`: expected an object with `n`, not a list",
            ),
            (
                json!({ "inner": {} }),
                "`inner.n`: is missing; expected a whole number of at least 0",
            ),
            (json!({ "penalty": 1 }), "`penalty`: no penalties here"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err(), expected, "{body}");
        }
    }

    #[test]
    fn neutral_values_and_whole_floats_pass() {
        for neutral in [json!(0), json!(0.0), json!({})] {
            read(json!({ "penalty": neutral })).unwrap();
        }
        assert_eq!(read(json!({ "tokens": 100.0 })).unwrap().tokens, Some(100));
        let stops = read(json!({ "stop": ["a"] })).unwrap().stop;
        assert!(matches!(stops, Some(Stops::Many(stops)) if stops == ["a"]));
        let stop = read(json!({ "stop": "a" })).unwrap().stop;
        assert!(matches!(stop, Some(Stops::One(stop)) if stop == "a"));
    }
}
