use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::Value;

use super::*;
use crate::api::{ProblemCode, Route};
use crate::job::{FailureCode, PoolStatus};

const JOB: &str = "pool-0123456789abcdef01234567";

const REF: &str = "#/components/";

/// A call as it is described.
pub(crate) struct Operation {
    pub id: String,
    pub method: Method,
    pub path: String,
    pub about: Value,
}

impl Operation {
    /// Where a request for it goes.
    pub fn route(&self) -> Route {
        let worker = crate::worker::WorkerKey::for_tests(1).to_url_safe();
        let path = self.path.replace("{job}", JOB).replace("{path}", "a.txt").replace("{worker_id}", &worker);
        Route::of(&self.method, &path)
    }
}

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

pub(crate) fn operations() -> Vec<Operation> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let calls = paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, about)| Operation {
            id: about["operationId"].as_str().unwrap().to_owned(),
            method: method.to_uppercase().parse().unwrap(),
            path: path.clone(),
            about: about.clone(),
        })
    });
    calls.collect()
}

/// Which calls each route is described as.
macro_rules! described {
    ($($route:pat => [$($id:literal),*],)*) => {
        fn described_as(route: &Route) -> &'static [&'static str] {
            match route { $($route => &[$($id),*],)* }
        }
        const DESCRIBED: &[&[&str]] = &[$(&[$($id),*]),*];
    };
}

described! {
    Route::Root => ["getRoot"],
    Route::Submit => ["submitJob"],
    Route::Status(_) => ["getStatus"],
    Route::Listing(_) => ["listOutputs"],
    Route::Output(..) => ["getOutput", "downloadOutput"],
    Route::Archive(_) => ["downloadArchive"],
    Route::Logs(_) => ["getLogs"],
    Route::Receipt(_) => ["getReceipt"],
    Route::Stream(_) => ["streamLogs"],
    Route::Cancel(_) => ["cancelJob"],
    Route::Retry(_) => ["retryJob"],
    Route::Drain(_) => ["drainWorker"],
    Route::Resume(_) => ["resumeWorker"],
    Route::Jobs => ["listJobs"],
    Route::Pool => ["getPool"],
    Route::Health => ["getHealth"],
    Route::Ready => ["getReady"],
    Route::Metrics => ["getMetrics"],
    Route::OpenApi => ["getOpenApi"],
    // Said in words: they are of every path.
    Route::Preflight | Route::Refused(_) => [],
}

/// What a `$ref` leads to, and everything else as it is.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(target) => document.pointer(target.strip_prefix('#').unwrap()).expect(target),
        None => value,
    }
}

/// Every object in a value.
fn objects(value: &Value, visit: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(members) => {
            visit(value);
            members.values().for_each(|member| objects(member, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn words(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().map(|word| word.as_str().unwrap()).collect()
}

/// The words in backquotes.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_route_is_described_and_every_description_has_its_route() {
    let ids: Vec<String> = operations().into_iter().map(|operation| operation.id).collect();
    let unique: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), ids.len(), "an operationId occurs twice");
    assert_eq!(unique, DESCRIBED.iter().flat_map(|ids| ids.iter().copied()).collect());
    for operation in operations() {
        let route = operation.route();
        assert!(described_as(&route).contains(&operation.id.as_str()), "{}: {route:?}", operation.id);
    }
}

#[test]
fn every_parameter_of_a_path_is_declared_and_there_are_no_others() {
    let document = document();
    for operation in operations() {
        let in_path = operation.path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap());
        let declared = operation.about["parameters"].as_array().into_iter().flatten();
        let declared: BTreeSet<&str> = declared
            .map(|parameter| resolved(&document, parameter))
            .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(declared, in_path.collect(), "{}", operation.id);
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = document();
    let mut used = BTreeSet::from(["securitySchemes/bearer".to_owned(), "securitySchemes/apiKey".to_owned()]);
    objects(&document, &mut |object| {
        if object["$ref"].is_string() {
            resolved(&document, object);
            used.insert(object["$ref"].as_str().unwrap().strip_prefix(REF).unwrap().to_owned());
        }
    });
    let components = document["components"].as_object().unwrap().iter();
    let there = components.flat_map(|(kind, named)| {
        named.as_object().unwrap().keys().map(move |name| format!("{kind}/{name}"))
    });
    assert_eq!(used, there.collect());
}

#[test]
fn codes_are_those_that_there_are_each_under_its_status() {
    let document = document();
    let codes: BTreeMap<&str, ProblemCode> =
        ProblemCode::ALL.into_iter().map(|code| (code.as_str(), code)).collect();
    let said = &document["components"]["schemas"]["ProblemCode"];
    assert_eq!(words(&said["enum"]), codes.keys().copied().collect());
    // They are of paths that are no call's, and of methods that are none.
    let mut given = BTreeSet::from(["not_found", "method_not_allowed"]);
    let operations = operations();
    for operation in &operations {
        for (status, answer) in operation.about["responses"].as_object().unwrap() {
            let answer = resolved(&document, answer);
            let what = format!("{} {status}", operation.id);
            let named = words(&answer["x-problem-codes"]);
            let is_problem = answer["content"]["application/json"]["schema"]["$ref"]
                .as_str()
                .is_some_and(|schema| schema.ends_with("/Problem"));
            assert_eq!(is_problem, !named.is_empty(), "{what}");
            for code in &named {
                assert_eq!(codes[code].status().as_str(), status, "{what}: {code}");
                given.extend(codes.get_key_value(code).map(|(word, _)| word));
            }
            if is_problem {
                let told: BTreeSet<_> = quoted(answer["description"].as_str().unwrap());
                assert!(named.is_subset(&told), "{what}: {told:?}");
                let waits = named.iter().any(|code| codes[code].retry_after().is_some());
                assert_eq!(answer["headers"]["Retry-After"].is_object(), waits, "{what}");
            }
        }
    }
    assert_eq!(given, codes.keys().copied().collect(), "a code that no call gives");
}

#[test]
fn the_readme_explains_the_same_codes_with_the_same_statuses() {
    let readme = include_str!("../../../README.md");
    let table = readme.split("\n### Errors\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let explained = rows.skip(1).map(|(code, rest)| (code, rest[..3].to_owned()));
    let there = ProblemCode::ALL.iter().map(|code| (code.as_str(), code.status().as_str().to_owned()));
    assert_eq!(explained.collect::<BTreeMap<_, _>>(), there.collect());
}

/// The failure after this one; a new one does not compile without its place.
fn next(code: Option<FailureCode>) -> Option<FailureCode> {
    match code {
        None => Some(FailureCode::JobFailed),
        Some(FailureCode::JobFailed) => Some(FailureCode::Rejected),
        Some(FailureCode::Rejected) => Some(FailureCode::WorkerLost),
        Some(FailureCode::WorkerLost) => Some(FailureCode::OutcomeUnknown),
        Some(FailureCode::OutcomeUnknown) => Some(FailureCode::DeadlineExceeded),
        Some(FailureCode::DeadlineExceeded) => Some(FailureCode::DispatchExhausted),
        Some(FailureCode::DispatchExhausted) => Some(FailureCode::BadReceipt),
        Some(FailureCode::BadReceipt) => None,
    }
}

#[test]
fn states_and_failures_are_those_that_there_are() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let states = PoolStatus::ALL.iter().map(|status| status.as_str());
    assert_eq!(words(&schemas["JobState"]["enum"]), states.collect());
    let failures = std::iter::successors(next(None), |code| next(Some(*code)));
    let failures: Vec<Value> = failures.map(|code| serde_json::to_value(code).unwrap()).collect();
    assert_eq!(schemas["FailureCode"]["enum"], Value::from(failures));
    for described in ["ProblemCode", "JobState", "FailureCode"] {
        let told = quoted(schemas[described]["description"].as_str().unwrap());
        assert!(words(&schemas[described]["enum"]).is_subset(&told), "{described}");
    }
}

#[test]
fn a_summary_is_a_status_without_what_only_one_job_is_asked_for() {
    let document = document();
    let properties = |schema: &str| document["components"]["schemas"][schema]["properties"].clone();
    let mut status = properties("JobStatus");
    for more in ["queue_position", "reason", "outputs", "outputs_reason", "worker_status"] {
        assert!(status.as_object_mut().unwrap().remove(more).is_some(), "{more}");
    }
    assert_eq!(properties("JobSummary"), status);
}

#[test]
fn it_is_of_this_version() {
    assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
}
