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
const ANY: [&str; 13] = [
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "sec-websocket-accept",
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
    /// What was not as it is described.
    faults: Mutex<Vec<String>>,
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

    /// Notes what is not as it is described of an answer to this call.
    pub fn holds(&self, name: &str, answer: &Answer) {
        let what = format!("{name} {}", answer.status());
        self.answered.lock().unwrap().insert((name.to_owned(), answer.status()));
        let Some(said) = self.answers(name).get(&answer.status().to_string()) else {
            return self.ensure(false, || format!("{what} is not described: {}", answer.text()));
        };
        let said = self.resolved(said);
        for (header, _) in &answer.head.headers {
            let described = said["headers"].as_object().into_iter().flat_map(Map::keys);
            let mut known = ANY.into_iter().chain(described.map(String::as_str));
            let known = known.any(|known| known.eq_ignore_ascii_case(header));
            self.ensure(known, || format!("{what} has the header {header}"));
        }
        match said["content"].as_object() {
            None => self.ensure(answer.body.is_empty(), || format!("{what} has a body: {}", answer.text())),
            Some(content) => self.has_content(&what, content, answer),
        }
        if let Some(codes) = said["x-problem-codes"].as_array() {
            let known = codes.contains(&answer.json()["code"]);
            self.ensure(known, || format!("{what} has another code: {}", answer.text()));
            self.waits(answer);
        }
    }

    /// Notes what is not as it is described of an error that any call may give.
    pub fn is_problem(&self, answer: &Answer) {
        self.is_valid("a problem", &json!({"$ref": "#/components/schemas/Problem"}), &answer.json());
        self.waits(answer);
    }

    fn ensure(&self, is_so: bool, fault: impl FnOnce() -> String) {
        if !is_so {
            self.faults.lock().unwrap().push(fault());
        }
    }

    fn has_content(&self, what: &str, content: &Map<String, Value>, answer: &Answer) {
        let kind = answer.head.header("Content-Type").unwrap_or_default();
        match content.get(kind).or_else(|| content.get("*/*")) {
            Some(described) if kind == "application/json" && content.contains_key(kind) => {
                self.is_valid(what, &described["schema"], &answer.json());
            }
            Some(_) => {}
            None => self.ensure(false, || format!("{what} is of the type {kind:?}")),
        }
    }

    fn is_valid(&self, what: &str, schema: &Value, body: &Value) {
        for error in self.validator(schema).iter_errors(body) {
            self.ensure(false, || format!("{what}: {}: {error} in {body}", error.instance_path()));
        }
        self.note(schema, body);
    }

    /// The seconds to wait are said twice, and alike.
    fn waits(&self, answer: &Answer) {
        let header = answer.head.header("Retry-After").map(|seconds| seconds.parse().expect("seconds"));
        let same = header == answer.json()["retry_after"].as_u64();
        self.ensure(same, || format!("Retry-After is {header:?} beside {}", answer.text()));
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

    /// Asserts that all has been as it is described, that each call has had an answer that is no error, and that each property of
    /// an answer has been there; what workers say in their own words is theirs.
    pub fn is_true(&self) {
        let answered = self.answered.lock().unwrap();
        for name in &self.calls() {
            let good = answered.iter().any(|(answered, status)| answered == name && *status < 300);
            self.ensure(good, || format!("{name} has only had errors"));
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
                let was_there = seen.contains(&(name.clone(), property.clone()));
                self.ensure(was_there, || format!("{name}.{property} has not been seen"));
            }
        }
        let faults = self.faults.lock().unwrap();
        assert!(faults.is_empty(), "{} answers seen; {faults:#?}", answered.len());
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
