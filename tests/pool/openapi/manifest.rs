//! What the description says of a manifest, and what the pool says of the same.

use serde_json::{Value, json};

use super::{Described, MANIFEST};
use crate::bodies::{form, form_with};
use crate::harness::{Pool, nobody};

/// Values of a manifest's keys, good and bad.
fn manifests() -> Vec<Value> {
    let of = |key: &str, values: Value| -> Vec<Value> {
        let values = values.as_array().expect("values").clone();
        values.into_iter().map(|value| json!({"entrypoint": "main.py", key: value})).collect()
    };
    let path = json!([
        "a.py",
        "a/b.py",
        "..a",
        "a..",
        "a/..b/c",
        "ü",
        "",
        null,
        "/a",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a\u{0}",
        "a\nb",
        3,
        [],
        {}
    ]);
    let texts = json!([
        [],
        ["a"],
        null,
        ["a", 1],
        "a",
        ["a\u{0}"],
        {},
        ["/a"],
        ["../a"],
        [""],
        ["a\nb"],
        ["**/*.png"]
    ]);
    let seconds = json!([1, 0.5, 1e3, 31_536_000, 31_536_001, 0, -1, "1", true, null]);
    let map = json!([{}, {"A": "x"}, {"a_1": ""}, {"1A": "x"}, {"": "x"}, {"A": 1}, {"A": null}, {"A": "\u{0}"}, {"A B": "x"}, [], "A=1", null]);
    let terms = json!([{}, null, {"on_unknown": "hold"}, {"on_unknown": "fail"}, {"on_unknown": null}, {"on_worker_lost": "fail"},
        {"max_attempts": 1}, {"max_attempts": 0}, {"max_attempts": 101}, {"max_attempts": 1.5}, {"queue_timeout": 0}, {"queue_timeout": 1.5},
        {"other": 1}, []]);
    // A label that nobody has is well said, and refused for another reason.
    let labels = json!([{}, null, {"": "x"}, {"a": ""}, {"a": 1}, {"a\n": "x"}, {"a": "x".repeat(129)}, []]);
    [
        of("entrypoint", path),
        of("interpreter", json!(["sh", "", null, "a\nb", 1])),
        of("environment", json!(["ml", "", null, "a\nb", 1])),
        of("args", texts.clone()),
        of("outputs", texts),
        of("env", map),
        of("timeout", seconds.clone()),
        of("memory_mb", json!([1, 0.5, 0, -1, "1", null])),
        of("cpu_seconds", json!([1, 0.5, 0, -1, "1", null])),
        of("requires", labels),
        of("pool", terms),
        of("anything", json!([1, "x", null, {"a": []}])),
        vec![json!([]), json!("x"), json!({}), json!(null)],
    ]
    .concat()
}

#[tokio::test]
async fn manifest_is_good_where_its_description_says_so() {
    let pool = Pool::start(&[nobody()], "").await;
    let described = Described::default();
    described.read(&pool).await;
    let schema = described.schema("Manifest");
    for manifest in manifests() {
        let answer = pool.call(form(&[("main.py", b"1")], Some(&manifest.to_string()))).await;
        let taken = match answer.status() {
            200 => true,
            400 => false,
            status => panic!("{status}: {}", answer.text()),
        };
        assert_eq!(taken, schema.is_valid(&manifest), "{manifest}: {}", answer.text());
    }
    for (priority, status) in [("high", 200), ("urgent", 400)] {
        let call = form_with(
            &[("main.py", b"1")],
            Some(MANIFEST),
            &[("priority", priority), ("Idempotency-Key", priority)],
        );
        assert_eq!(pool.call(call).await.status(), status);
        assert_eq!(described.schema("Priority").is_valid(&json!(priority)), status == 200);
    }
}
