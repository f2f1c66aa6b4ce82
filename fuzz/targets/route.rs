//! Whatever a request's line says: an output's path stays below its job, and a route that is written as a path again is the same route.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use trusted_pool::api::{OutputPath, ProblemCode, Route};

/// Longest path of an output: what Linux takes.
const OUTPUT_PATH_BYTES_MAX: usize = 4096;

fuzz_target!(|line: &str| {
    let (method, path) = line.split_once(' ').unwrap_or(("GET", line));
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let route = Route::of(&method, path);
    match &route {
        Route::Refused(refused) => {
            assert!(!refused.problem.message.is_empty());
            let has_methods = refused.problem.code == ProblemCode::MethodNotAllowed;
            assert_eq!(refused.allow.is_some(), has_methods, "{route:?}");
        }
        Route::Preflight => assert_eq!(method, Method::OPTIONS),
        Route::Output(_, path) => stays_below(path),
        _ => {}
    }
    // A refusal names the method.
    if method == Method::HEAD && !matches!(route, Route::Refused(_)) {
        assert_eq!(route, Route::of(&Method::GET, path), "HEAD is GET without the body");
    }
    if let Some((method, path)) = written(&route) {
        assert_eq!(Route::of(&method, &path), route, "{path}");
    }
});

fn stays_below(path: &OutputPath) {
    let bytes = path.as_bytes();
    assert!(bytes.len() <= OUTPUT_PATH_BYTES_MAX);
    assert!(!bytes.iter().any(u8::is_ascii_control), "{path:?}");
    for segment in bytes.split(|byte| *byte == b'/') {
        assert!(!matches!(segment, b"" | b"." | b".."), "{path:?}");
    }
    assert!(bytes.ends_with(path.base_name()) && !path.base_name().contains(&b'/'));
    let encoded = path.encoded();
    assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')), "{encoded}");
}

fn written(route: &Route) -> Option<(Method, String)> {
    Some(match route {
        Route::Status(job) => (Method::GET, format!("/status/{}", job.as_str())),
        Route::Logs(job) => (Method::GET, format!("/logs/{}", job.as_str())),
        Route::Receipt(job) => (Method::GET, format!("/receipt/{}", job.as_str())),
        Route::Stream(job) => (Method::GET, format!("/stream/{}", job.as_str())),
        Route::Listing(job) => (Method::GET, format!("/outputs/{}", job.as_str())),
        Route::Archive(job) => (Method::GET, format!("/download/{}", job.as_str())),
        Route::Output(job, path) => (Method::GET, format!("/outputs/{}/{}", job.as_str(), path.encoded())),
        Route::Cancel(job) => (Method::POST, format!("/cancel/{}", job.as_str())),
        Route::Retry(job) => (Method::POST, format!("/retry/{}", job.as_str())),
        Route::Drain(worker) => (Method::POST, format!("/workers/{}/drain", worker.to_url_safe())),
        Route::Resume(worker) => (Method::POST, format!("/workers/{}/resume", worker.to_url_safe())),
        _ => return None,
    })
}
