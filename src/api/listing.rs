//! A worker's listing of a job's outputs, and the same in the pool's terms. It may be long, so nothing here builds a tree of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::OutputPath;
use crate::job::JobId;

/// The listing of a job that has none yet.
pub const EMPTY: &str = r#"{"total_files":0,"files":[]}"#;

/// A worker's listing with the pool's links, and without the job's id and status, which [`begin`] says. `None` when the worker's
/// text is no listing.
pub fn in_pool_terms(job: &JobId, worker_listing: &str) -> Option<String> {
    let mut body: BTreeMap<String, &RawValue> = serde_json::from_str(worker_listing).ok()?;
    let files: Vec<&RawValue> = serde_json::from_str(body.remove("files")?.get()).ok()?;
    let mut text = String::with_capacity(worker_listing.len() + worker_listing.len() / 4);
    text.push_str("{\"files\":[");
    for (n, file) in files.into_iter().enumerate() {
        let mut entry: Map<String, Value> = serde_json::from_str(file.get()).ok()?;
        let path = OutputPath::from_bytes(entry.get("name")?.as_str()?.as_bytes().to_vec()).ok();
        // A name that the pool would refuse to fetch gets no link.
        let url = path.map(|path| format!("/download/{job}/{}", path.encoded()));
        entry.insert("download_url".to_owned(), json!(url));
        if n > 0 {
            text.push(',');
        }
        text.push_str(&Value::Object(entry).to_string());
    }
    text.push(']');
    for (name, value) in body.iter().filter(|(name, _)| !matches!(name.as_str(), "job_id" | "status")) {
        text.push_str(&format!(",{}:{value}", json!(name)));
    }
    text.push('}');
    Some(text)
}

/// What stands in the place of the opening brace of a listing in the pool's terms.
pub fn begin(job: &JobId, status: &str) -> String {
    format!("{{\"job_id\":{},\"status\":{},", json!(job), json!(status))
}

/// A file that a listing names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    pub name: String,
    /// Bytes.
    pub size: Option<u64>,
}

/// The files that a listing names, in either terms. `None` when the text is no listing.
pub fn files(listing: &str) -> Option<impl Iterator<Item = ListedFile>> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        files: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct File {
        name: String,
        size: Option<Value>,
    }
    let body: Body<'_> = serde_json::from_str(listing).ok()?;
    Some(body.files.into_iter().filter_map(|file| {
        let File { name, size } = serde_json::from_str(file.get()).ok()?;
        Some(ListedFile { name, size: size.and_then(|size| size.as_u64()) })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: &str = r#"{"job_id":"job_1_1","status":"completed","total_files":2,"files":[
        {"name":"a b.txt","size":3,"download_url":"/download/job_1_1/a b.txt"},{"name":"../x","size":1.5}]}"#;

    #[test]
    fn a_listing_is_put_in_the_pools_terms() {
        let id = JobId::from_random([1; 12]);
        let text = in_pool_terms(&id, WORKERS).unwrap();
        let whole: Value = serde_json::from_str(&(begin(&id, "completed") + &text[1..])).unwrap();
        let expected = json!({"job_id": id, "status": "completed", "total_files": 2, "files": [
            {"name": "a b.txt", "size": 3, "download_url": format!("/download/{id}/a%20b.txt")},
            {"name": "../x", "size": 1.5, "download_url": null}]});
        assert_eq!(whole, expected);
        let again: Vec<_> = files(&text).unwrap().collect();
        assert_eq!(again, files(WORKERS).unwrap().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        let id = JobId::from_random([1; 12]);
        for text in ["", "[]", "{}", r#"{"files":7}"#, r#"{"files":[7]}"#, r#"{"files":[{"size":1}]}"#] {
            assert_eq!(in_pool_terms(&id, text), None, "{text}");
        }
        assert!(files("[]").is_none());
        assert_eq!(files(r#"{"files":[7,{"name":"a"}]}"#).unwrap().count(), 1);
    }

    #[test]
    fn the_empty_listing_is_one() {
        let id = JobId::from_random([1; 12]);
        let whole: Value = serde_json::from_str(&(begin(&id, "queued") + &EMPTY[1..])).unwrap();
        assert_eq!((&whole["total_files"], &whole["status"]), (&json!(0), &json!("queued")));
    }
}
