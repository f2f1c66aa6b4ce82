//! A head of HTTP/1.1 that may pass frames its request in one way, whoever reads it: a strict reader and a careless one see the same
//! lengths, codings and hosts in it, at most one of each.
#![no_main]

use httparse::{EMPTY_HEADER, Request, Status};
use libfuzzer_sys::fuzz_target;
use trusted_pool::api::head::check_framing;

/// What decides where a request ends and whose it is.
const DECIDING: [&str; 3] = ["content-length", "transfer-encoding", "host"];

const FIELDS_MAX: usize = 128;

fuzz_target!(|raw: &[u8]| {
    // As it is read off a connection: up to the first empty line.
    let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else { return };
    let head = &raw[..end + 4];
    if check_framing(head).is_err() {
        return;
    }
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let Ok(Status::Complete(read)) = request.parse(head) else { return };
    assert_eq!(read, head.len());
    let strict = |name: &str| -> Vec<Vec<u8>> {
        let named = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii().to_vec()).collect()
    };
    for name in DECIDING {
        let values = strict(name);
        assert!(values.len() <= 1, "{name} occurs {} times", values.len());
        assert_eq!(careless(head, name), values, "{name}");
    }
    let (lengths, codings) = (strict("content-length"), strict("transfer-encoding"));
    assert!(lengths.is_empty() || codings.is_empty(), "it ends in two ways");
    assert!(lengths.iter().flatten().all(u8::is_ascii_digit) && !lengths.contains(&Vec::new()));
    assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")));
});

/// The values of a field to a reader that takes any line end, any white space, and what comes behind the first colon.
fn careless(head: &[u8], name: &str) -> Vec<Vec<u8>> {
    let lines = head.split(|byte| matches!(byte, b'\n' | b'\r' | 0)).skip(1);
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (found, value) = (&line[..colon], &line[colon + 1..]);
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
        let start = found.iter().position(|byte| !is_space(byte))?;
        let end = found.iter().rposition(|byte| !is_space(byte))?;
        found[start..=end].eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii().to_vec())
    });
    fields.collect()
}
