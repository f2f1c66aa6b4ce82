//! A manifest that is sent on says what the client said: it parses to the same, is written the same again, and leads with the keys
//! that a sandrun worker looks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use trusted_pool::job::Manifest;

const LEADING_KEYS: [&str; 5] = ["entrypoint", "interpreter", "environment", "args", "outputs"];

fuzz_target!(|json: &[u8]| {
    let Ok(manifest) = Manifest::parse(json) else { return };
    let sent = manifest.to_worker_json();
    let again = Manifest::parse(sent.as_bytes()).expect("what was re-encoded parses");
    assert_eq!(again.to_worker_json(), sent);
    assert_eq!(meaning(&again), meaning(&manifest));
    assert_eq!(again.terms(), manifest.terms());
    assert_eq!(again.sandrun_hazard(), manifest.sandrun_hazard());
    paths_stay_inside(&manifest);
    // Some values that are only passed on are no JSON to this reader, such as numbers beyond all bounds.
    if let Ok(given) = serde_json::from_slice::<Map<String, Value>>(json) {
        says_what_was_given(&given, &serde_json::from_str(&sent).expect("it has the same values"));
    }
});

fn meaning(manifest: &Manifest) -> impl PartialEq + std::fmt::Debug {
    let texts = [manifest.entrypoint(), manifest.interpreter(), manifest.environment()]
        .map(|text| text.map(str::to_owned));
    let lists = [manifest.args().to_vec(), manifest.outputs().to_vec()];
    (texts, lists, manifest.env().clone(), manifest.timeout())
}

fn paths_stay_inside(manifest: &Manifest) {
    for path in manifest.outputs().iter().map(String::as_str).chain(manifest.entrypoint()) {
        assert!(!path.is_empty() && !path.starts_with('/'), "{path:?}");
        assert!(path.split('/').all(|name| name != "..") && !path.contains('\0'), "{path:?}");
    }
}

fn says_what_was_given(given: &Map<String, Value>, sent: &Map<String, Value>) {
    for (key, value) in given {
        match sent.get(key) {
            Some(found) => assert_eq!(found, value, "{key}"),
            None => assert!(value.is_null() || (key == "entrypoint" && value == ""), "{key} is lost"),
        }
    }
    assert!(sent.keys().all(|key| given.contains_key(key)), "nothing is made up");
    let place =
        |key: &String| LEADING_KEYS.iter().position(|leading| leading == key).unwrap_or(LEADING_KEYS.len());
    assert!(sent.keys().map(place).is_sorted(), "the leading keys come first, in their order");
}
