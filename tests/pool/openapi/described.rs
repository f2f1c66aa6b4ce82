//! The description as the pool serves it, and whether an answer is as it says.
//!
//! Clients are told to pass over what they do not know; here nothing may come that is not described, and what is described must
//! come once.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::harness::Pool;
use crate::wire::Answer;

/// Headers of any answer, or of HTTP itself: not described one by one.
const ANY: [&str; 12] = [
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "transfer-encoding",
    "upgrade",
    "vary",
    "x-content-type-options",
];

#[derive(Default)]
pub struct Described {
    document: OnceLock<Value>,
    /// Calls with the statuses of their answers.
    answered: Mutex<BTreeSet<(String, u16)>>,
    /// Schemas with the properties that were there.
    properties: Mutex<BTreeSet<(String, String)>>,
}

impl Described {
    /// Reads the description from a pool.
    pub async fn read(&self, pool: &Pool) {
        let document = pool.get("/openapi.json").await.expect(200);
        self.document.set(document).expect("it is read once");
    }

    fn document(&self) -> &Value {
        self.document.get().expect("it has been read")
    }

    /// What a `$ref` leads to, and everything else as it is.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(target) => self.document().pointer(&target[1..]).expect("it leads somewhere"),
            None => value,
        }
    }

    /// Method and path of each call, sorted.
    pub fn calls(&self) -> Vec<String> {
        let paths = self.document()["paths"].as_object().expect("paths").iter();
        let mut calls: Vec<String> = paths
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("methods").keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        calls.sort_unstable();
        calls
    }

    fn answers(&self, name: &str) -> &Map<String, Value> {
        let (method, path) = name.split_once(' ').expect("a method and a path");
        let answers = &self.document()["paths"][path][method.to_lowercase()]["responses"];
        answers.as_object().unwrap_or_else(|| panic!("{name} is not described"))
    }

    /// The schema of this name, which takes nothing that it does not name.
    pub fn schema(&self, name: &str) -> Validator {
        self.validator(&json!({"$ref": format!("#/components/schemas/{name}")}))
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut whole = schema.clone();
        whole["components"]["schemas"] = self.document()["components"]["schemas"].clone();
        close(&mut whole);
        jsonschema::draft202012::new(&whole).expect("a schema")
    }

    /// Asserts that an answer to this call is as it is described.
    pub fn holds(&self, name: &str, answer: &Answer) {
        let what = format!("{name} {}", answer.status());
        let said = self.answers(name).get(&answer.status().to_string());
        let said = self.resolved(said.unwrap_or_else(|| panic!("{what}: {}", answer.text())));
        for (header, _) in &answer.head.headers {
            let described = said["headers"].as_object().into_iter().flat_map(Map::keys);
            let known = ANY.into_iter().chain(described.map(String::as_str));
            assert!(known.into_iter().any(|known| known.eq_ignore_ascii_case(header)), "{what}: {header}");
        }
        match said["content"].as_object() {
            None => assert!(answer.body.is_empty(), "{what}: {}", answer.text()),
            Some(content) => self.has_content(&what, content, answer),
        }
        if let Some(codes) = said["x-problem-codes"].as_array() {
            assert!(codes.contains(&answer.json()["code"]), "{what}: {}", answer.text());
            waits(answer);
        }
        self.answered.lock().unwrap().insert((name.to_owned(), answer.status()));
    }

    /// Asserts that an answer has the form of an error.
    pub fn is_problem(&self, answer: &Answer) {
        self.is_valid("a problem", &json!({"$ref": "#/components/schemas/Problem"}), &answer.json());
        waits(answer);
    }

    fn has_content(&self, what: &str, content: &Map<String, Value>, answer: &Answer) {
        let kind = answer.head.header("Content-Type").unwrap_or_else(|| panic!("{what}: no type"));
        let described = content.get(kind).or_else(|| content.get("*/*"));
        let schema = &described.unwrap_or_else(|| panic!("{what}: {kind}"))["schema"];
        if content.contains_key("application/json") && kind == "application/json" {
            self.is_valid(what, schema, &answer.json());
        }
    }

    fn is_valid(&self, what: &str, schema: &Value, body: &Value) {
        let validator = self.validator(schema);
        let errors: Vec<String> =
            validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}\n{body}");
        self.note(schema, body);
    }

    /// Notes which properties of which schemas are there.
    fn note(&self, schema: &Value, value: &Value) {
        let name = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next());
        let schema = self.resolved(schema);
        for alternative in schema["oneOf"].as_array().into_iter().flatten().filter(|_| !value.is_null()) {
            self.note(alternative, value);
        }
        for item in value.as_array().into_iter().flatten() {
            self.note(&schema["items"], item);
        }
        for (property, value) in value.as_object().into_iter().flatten() {
            if let Some(described) = schema["properties"].get(property) {
                let name = name.unwrap_or("an object without a name").to_owned();
                self.properties.lock().unwrap().insert((name, property.clone()));
                self.note(described, value);
            }
        }
    }

    /// Asserts that each call has had an answer that is no error, and each property of an answer has been there; what workers
    /// say in their own words is theirs.
    pub fn is_covered(&self, awaited: &[&str]) {
        let answered = self.answered.lock().unwrap();
        for name in self.calls().iter().filter(|name| !awaited.contains(&name.as_str())) {
            let good = answered.iter().any(|(answered, status)| answered == name && *status < 300);
            assert!(good, "{name} has only had errors");
        }
        let mut reached = BTreeSet::new();
        for (_, answer) in self.calls().iter().flat_map(|name| self.answers(name)) {
            self.reach(answer, &mut reached);
        }
        let seen = self.properties.lock().unwrap();
        for name in reached {
            let schema = &self.document()["components"]["schemas"][&name];
            let properties = schema["properties"].as_object().into_iter().flat_map(Map::keys);
            for property in properties.filter(|_| schema["additionalProperties"] != true) {
                assert!(
                    seen.contains(&(name.clone(), property.clone())),
                    "{name}.{property} has not been seen"
                );
            }
        }
    }

    /// The schemas that are part of an answer.
    fn reach(&self, value: &Value, reached: &mut BTreeSet<String>) {
        if let Some(target) = value["$ref"].as_str() {
            let name = target.strip_prefix("#/components/schemas/");
            if name.is_none_or(|name| reached.insert(name.to_owned())) {
                self.reach(self.resolved(value), reached);
            }
        }
        let (items, members) = (value.as_array().into_iter().flatten(), value.as_object());
        items.chain(members.into_iter().flat_map(Map::values)).for_each(|value| self.reach(value, reached));
    }
}

/// The seconds to wait are said twice, and alike.
fn waits(answer: &Answer) {
    let header = answer.head.header("Retry-After").map(|seconds| seconds.parse().expect("seconds"));
    assert_eq!(header, answer.json()["retry_after"].as_u64(), "{}", answer.text());
}

/// Takes from every schema the room for what it does not name, unless it says that there is room.
fn close(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.get("properties").is_some_and(Value::is_object)
                && members.get("type").is_some_and(|kind| kind == "object")
            {
                members.entry("additionalProperties").or_insert(json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
