//! How a sandrun worker reads a manifest: by searching its text, not by parsing it.
//!
//! Kept here to find out, before a job is sent, what such a worker would make of it.

/// The text between the first two quotes after the colon after the first `"key"`; empty where one of them is missing.
pub fn string<'a>(json: &'a str, key: &str) -> &'a str {
    value_of(json, key).and_then(|value| quoted(value)).map_or("", |(text, _)| text)
}

/// The quoted texts between the first brackets after the colon after the first `"key"`.
pub fn strings<'a>(json: &'a str, key: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let Some(mut items) = value_of(json, key).and_then(bracketed) else { return found };
    while let Some((text, rest)) = quoted(items) {
        found.push(text);
        items = rest;
    }
    found
}

fn value_of<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{key}\""))?;
    Some(rest.split_once(':')?.1)
}

/// The text between the first two quotes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.split_once('"')?.1.split_once('"')
}

fn bracketed(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}
