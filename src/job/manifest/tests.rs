use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parse(json: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(json.as_bytes())
}

fn parsed(json: &str) -> Manifest {
    parse(json).unwrap()
}

#[test]
fn known_keys_are_read() {
    let manifest = parsed(
        r#"{"entrypoint":"src/main.py","interpreter":"node","environment":"ml","args":["-v","a b"],
            "outputs":["*.json","out/**"],"env":{"A_1":"x","_b":""},"timeout":1.5,"memory_mb":512,"cpu_seconds":0.5}"#,
    );
    assert_eq!(manifest.entrypoint(), Some("src/main.py"));
    assert_eq!(manifest.interpreter(), Some("node"));
    assert_eq!(manifest.environment(), Some("ml"));
    assert_eq!(manifest.args(), ["-v", "a b"]);
    assert_eq!(manifest.outputs(), ["*.json", "out/**"]);
    assert_eq!(manifest.env()["A_1"], "x");
    assert_eq!(manifest.timeout(), Some(Duration::from_millis(1500)));
}

#[test]
fn each_wrong_value_is_refused_with_its_key() {
    for (key, value) in [
        ("entrypoint", r#""/etc/passwd""#),
        ("entrypoint", r#""a/../b""#),
        ("entrypoint", r#""a\u0000b""#),
        ("entrypoint", "3"),
        ("interpreter", "[]"),
        ("interpreter", r#""a\nb""#),
        ("environment", "{}"),
        ("args", r#""-v""#),
        ("args", r#"["-v",1]"#),
        ("args", r#"["a\u0000"]"#),
        ("outputs", r#"[".."]"#),
        ("outputs", r#"["ok","/abs"]"#),
        ("env", r#"["A=1"]"#),
        ("env", r#"{"A":1}"#),
        ("env", r#"{"1A":"x"}"#),
        ("env", r#"{"":"x"}"#),
        ("env", r#"{"A":"\u0000"}"#),
        ("timeout", "0"),
        ("timeout", "-1"),
        ("timeout", r#""300""#),
        ("timeout", "1e999"),
        ("timeout", "1e300"),
        ("memory_mb", "0"),
        ("cpu_seconds", "true"),
    ] {
        let error = parse(&format!(r#"{{"x":1,"{key}":{value}}}"#)).unwrap_err();
        assert_eq!(error.field, format!("manifest.{key}"), "{value}: {error}");
    }
}

#[test]
fn what_is_no_object_with_unique_keys_is_refused() {
    for wrong in
        ["", "[]", "null", "{", r#"{"a":1}x"#, r#"{"a":1,"a":2}"#, r#"{"args":[],"\u0061rgs":["-v"]}"#]
    {
        assert_eq!(parse(wrong).unwrap_err().field, "manifest", "{wrong}");
    }
    assert_eq!(Manifest::parse(b"{\"a\":\"\xff\"}").unwrap_err().message, "is not UTF-8");
    assert!(parse(r#"{"a":1,"a":2}"#).unwrap_err().message.contains("`a` occurs twice"));
    assert!(Manifest::parse(&vec![b' '; MANIFEST_BYTES_MAX + 1]).is_err());
    // Nesting that would overflow the stack of a recursive reader, here or at a worker.
    parse(&format!(r#"{{"x":{}{}}}"#, "[".repeat(400_000), "]".repeat(400_000))).unwrap_err();
    parse(&format!(r#"{{"args":{}{}}}"#, "[".repeat(400_000), "]".repeat(400_000))).unwrap_err();
}

#[test]
fn a_known_key_that_is_null_counts_as_absent() {
    let manifest = parsed(r#"{"entrypoint":"a.py","args":null,"timeout":null,"requirements":null}"#);
    assert!(manifest.args().is_empty());
    assert_eq!(manifest.to_worker_json(), r#"{"entrypoint":"a.py","requirements":null}"#);
    assert_eq!(parsed(r#"{"entrypoint":"","interpreter":"node"}"#).entrypoint(), None);
}

#[test]
fn the_five_keys_lead_and_the_rest_keeps_its_order_and_text() {
    let manifest = parsed(
        r#"{ "z": 1.10, "outputs": ["\u002a"], "big": 123456789012345678901234567890, "timeout": 3e2,
             "args": [ "a" ], "entrypoint": "m\u0061in.py", "a": {"n" : [1, 2]} }"#,
    );
    assert_eq!(
        manifest.to_worker_json(),
        r#"{"entrypoint":"main.py","args":["a"],"outputs":["*"],"z":1.10,"big":123456789012345678901234567890,"timeout":3e2,"a":{"n" : [1, 2]}}"#
    );
}

#[test]
fn a_missing_entrypoint_is_refused_only_when_nothing_could_be_run() {
    let check = |json: &str, names: &[&str]| parsed(json).check_entrypoint(names.iter().copied());
    assert_eq!(check("{}", &["data.csv", "tool.py"]).unwrap_err().field, "manifest.entrypoint");
    for names in [["a", "main.py"], ["a", "job.json"], ["a", "x.tar.gz"], ["a", "x.tgz"], ["a", "x.zip"]] {
        check("{}", &names).unwrap();
    }
    check(r#"{"entrypoint":"tool.py"}"#, &["tool.py"]).unwrap();
}

#[test]
fn what_a_sandrun_would_misread_is_a_hazard() {
    for (json, key) in [
        (r#"{"entrypoint":"a\"b.py"}"#, "entrypoint"),
        (r#"{"entrypoint":"a\\b.py"}"#, "entrypoint"),
        (r#"{"entrypoint":"a.py","args":["x[1]"]}"#, "args"),
        (r#"{"entrypoint":"a.py","args":["say \"hi\""]}"#, "args"),
        (r#"{"entrypoint":"a.py","args":["a\nb"]}"#, "args"),
        (r#"{"entrypoint":"a.py","outputs":["[ab].txt"]}"#, "outputs"),
        (r#"{"entrypoint":"a.py","args":["outputs","x:[","y"]}"#, "outputs"),
        // Absent, but its quoted name occurs.
        (r#"{"env":{"entrypoint":"evil.py"}}"#, "entrypoint"),
        (r#"{"entrypoint":"environment","args":["x"]}"#, "environment"),
        (r#"{"entrypoint":"a.py","x":{"interpreter":"perl"}}"#, "interpreter"),
        (r#"{"entrypoint":"a.py","x":{"args":["-rf"]}}"#, "args"),
    ] {
        let hazard = parsed(json).sandrun_hazard().unwrap_or_else(|| panic!("{json}"));
        assert!(hazard.contains(&format!("`{key}`")), "{json}: {hazard}");
    }
}

#[test]
fn what_a_sandrun_reads_well_is_no_hazard() {
    for json in [
        "{}",
        r#"{"entrypoint":"main.py","args":[],"outputs":["*.png","größe/*"],"interpreter":"","env":{"A":"[\"x\"]"}}"#,
        // The name is found inside `args`, but what follows it is the true value.
        r#"{"entrypoint":"main.py","args":["outputs"],"outputs":["a"]}"#,
        r#"{"env":{"entrypoint":"evil.py"},"entrypoint":"main.py"}"#,
    ] {
        assert_eq!(parsed(json).sandrun_hazard(), None, "{json}");
    }
}

/// Text in which everything that a naive reader stumbles over is likely.
fn nasty() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "b.py",
        "\"",
        "\\",
        "[",
        "]",
        ":",
        ",",
        "entrypoint",
        "args",
        "outputs",
        "interpreter",
        "ü",
        "\n",
        "/",
    ]);
    prop::collection::vec(word, 1..4).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn re_encoding_keeps_every_value(
        args in prop::collection::vec(nasty(), 0..4),
        extra in prop::collection::btree_map("[a-z]{1,8}", nasty(), 0..4),
    ) {
        let mut given = json!({ "args": args });
        let object = given.as_object_mut().unwrap();
        object.extend(extra.into_iter().map(|(key, value)| (format!("x_{key}"), Value::from(value))));
        let manifest = parsed(&given.to_string());
        prop_assert_eq!(serde_json::from_str::<Value>(&manifest.to_worker_json()).unwrap(), given);
        let again = parsed(&manifest.to_worker_json());
        prop_assert_eq!(again.to_worker_json(), manifest.to_worker_json());
    }

    /// Without a hazard, the worker's reader gets out what was meant; plain values have none.
    #[test]
    fn the_hazard_is_exactly_a_difference(
        entrypoint in "[a-z]{1,6}\\.py",
        args in prop::collection::vec(nasty(), 0..3),
        key in prop::sample::select(vec!["env_", "x", "y"]),
        value in nasty(),
    ) {
        let json = json!({ key: { value.clone(): value }, "args": args, "entrypoint": entrypoint }).to_string();
        let manifest = parsed(&json);
        let sent = manifest.to_worker_json();
        if manifest.sandrun_hazard().is_none() {
            prop_assert_eq!(sandrun::string(&sent, "entrypoint"), &entrypoint);
            prop_assert_eq!(sandrun::strings(&sent, "args"), args);
            prop_assert!(sandrun::strings(&sent, "outputs").is_empty());
            prop_assert_eq!(sandrun::string(&sent, "interpreter"), "");
        } else {
            let is_plain = |text: &str| !text.contains(['"', '\\', '[', ']', '\n'])
                && !LEADING_KEYS.contains(&text);
            prop_assert!(!args.iter().all(|a| is_plain(a)) || !is_plain(&value), "{}", json);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Manifest::parse(&bytes);
    }
}

#[test]
fn a_manifest_is_nested_only_so_deep() {
    let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(Manifest::parse(nested(63).as_bytes()).is_ok());
    assert_eq!(Manifest::parse(nested(64).as_bytes()).unwrap_err().field, "manifest");
    let text = format!("{{\"x\":\"\\\"{}\"}}", "[".repeat(100));
    assert!(Manifest::parse(text.as_bytes()).is_ok(), "{text}");
}
