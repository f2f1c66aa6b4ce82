//! What clients send to `/submit`, byte for byte: each function is a recording with its values filled in.

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::wire::Call;

/// A request as one client sends it, and the payload that must reach the worker.
pub struct Recorded {
    pub client: &'static str,
    pub call: Call,
    pub filename: &'static str,
    pub payload: Vec<u8>,
}

/// An archive that is not compressed, so that what a careless parser stops at stands in it.
pub fn payload() -> Vec<u8> {
    let mut bytes = b"\r\n--\r\n\r\n----\x00\xff\r\n------WebKitFormBoundary\r\n--X--\r\n\n".to_vec();
    bytes.extend((0..=255_u8).cycle().take(20_000));
    bytes.extend_from_slice(b"\r\n");
    tar_gz(&[("main.py", &bytes)], Compression::none())
}

/// An archive of these files, their names written as they are.
pub fn tar_gz(files: &[(&str, &[u8])], compression: Compression) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), compression));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, *content).expect("memory");
    }
    archive.into_inner().expect("an archive").finish().expect("memory")
}

/// A form in the style of curl, without a manifest if there is none.
pub fn form(files: &[(&str, &[u8])], manifest: Option<&str>) -> Call {
    form_with(files, manifest, &[])
}

/// The same with more fields.
pub fn form_with(files: &[(&str, &[u8])], manifest: Option<&str>, fields: &[(&str, &str)]) -> Call {
    let boundary = "------------------------d74496d66958873e";
    let mut form = Form::new(boundary);
    for (name, content) in files {
        form.part(&[&disposition("files", Some(name)), "Content-Type: application/octet-stream"], content);
    }
    for (name, value) in manifest.map(|text| ("manifest", text)).iter().chain(fields) {
        form.part(&[&disposition(name, None)], value.as_bytes());
    }
    form.call()
}

pub fn recorded(manifest: &str) -> Vec<Recorded> {
    let gzip = |client, call| Recorded { client, call, filename: "job.tar.gz", payload: payload() };
    vec![
        gzip("curl", curl(manifest)),
        gzip("requests", python_requests(manifest)),
        gzip("httpx", httpx(manifest)),
        gzip("aiohttp", aiohttp(manifest)),
        gzip("Chrome", browser("----WebKitFormBoundaryePkpFF7tjBAqx29L", manifest)),
        gzip("Firefox", browser("---------------------------9051914041544843365972754266", manifest)),
        front_end(manifest),
    ]
}

/// `curl -F files=@job.tar.gz -F manifest='...'`
fn curl(manifest: &str) -> Call {
    form(&[("job.tar.gz", &payload())], Some(manifest))
        .header("User-Agent", "curl/7.88.1")
        .header("Accept", "*/*")
}

/// `requests.post(url, files={"files": ("job.tar.gz", data)}, data={"manifest": ...})`: fields first, no part types.
fn python_requests(manifest: &str) -> Call {
    let mut form = Form::new("0c2f4c2b5b9f4b7ab3a6ad5d5f1e0c11");
    form.part(&[&disposition("manifest", None)], manifest.as_bytes());
    form.part(&[&disposition("files", Some("job.tar.gz"))], &payload());
    form.call()
        .header("User-Agent", "python-requests/2.31.0")
        .header("Accept-Encoding", "gzip, deflate")
        .header("Accept", "*/*")
        .header("Connection", "keep-alive")
}

/// `httpx.post(url, files={"files": ("job.tar.gz", data, "application/gzip"), "manifest": (None, ...)})`
fn httpx(manifest: &str) -> Call {
    let mut form = Form::new("85f1c63d9a5b41f0a2f6e2b7c9d01e3f");
    form.part(&[&disposition("files", Some("job.tar.gz")), "Content-Type: application/gzip"], &payload());
    form.part(&[&disposition("manifest", None), "Content-Type: application/json"], manifest.as_bytes());
    form.call().header("user-agent", "python-httpx/0.27.0").header("accept", "*/*")
}

/// aiohttp's `FormData`: chunked, part types before dispositions, lengths in the parts.
fn aiohttp(manifest: &str) -> Call {
    let mut form = Form::new("f3a8d1c27b6e4a90");
    let length = format!("Content-Length: {}", manifest.len());
    let text = ["Content-Type: text/plain; charset=utf-8", &disposition("manifest", None), &length];
    form.part(&text, manifest.as_bytes());
    form.part(&["Content-Type: application/gzip", &disposition("files", Some("job.tar.gz"))], &payload());
    form.chunked(777)
}

/// A page's `FormData`, posted with `fetch`: the engines differ in their boundaries alone.
fn browser(boundary: &str, manifest: &str) -> Call {
    let mut form = Form::new(boundary);
    form.part(&[&disposition("files", Some("job.tar.gz")), "Content-Type: application/x-gzip"], &payload());
    form.part(&[&disposition("manifest", None)], manifest.as_bytes());
    form.call().header("Origin", "http://localhost:8000").header("Sec-Fetch-Mode", "cors")
}

/// The single worker's own web page: no archive, but text that looks like a delimiter.
fn front_end(manifest: &str) -> Recorded {
    let payload =
        b"----Tar\nPath: main.py\nSize: 9\n\nprint(1)\n\n----Tar\nPath: data/a.txt\nSize: 2\n\nhi\n".to_vec();
    let mut form = Form::new("----WebKitFormBoundary7MA4YWxkTrZu0gW");
    form.part(&[&disposition("files", Some("project.tar")), "Content-Type: application/x-tar"], &payload);
    form.part(&[&disposition("manifest", None)], manifest.as_bytes());
    Recorded { client: "front end", call: form.call(), filename: "project.tar", payload }
}

fn disposition(name: &str, filename: Option<&str>) -> String {
    match filename {
        Some(filename) => format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{filename}\""),
        None => format!("Content-Disposition: form-data; name=\"{name}\""),
    }
}

/// A multipart body in the making.
pub struct Form {
    boundary: String,
    body: Vec<u8>,
}

impl Form {
    pub fn new(boundary: &str) -> Self {
        Self { boundary: boundary.into(), body: Vec::new() }
    }

    /// Adds a part with these header lines.
    pub fn part(&mut self, head: &[&str], content: &[u8]) {
        self.body
            .extend_from_slice(format!("--{}\r\n{}\r\n\r\n", self.boundary, head.join("\r\n")).as_bytes());
        self.body.extend_from_slice(content);
        self.body.extend_from_slice(b"\r\n");
    }

    /// The request, its body closed.
    pub fn call(mut self) -> Call {
        self.body.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        self.unclosed()
    }

    /// The request without the closing delimiter.
    pub fn unclosed(self) -> Call {
        Call::post("/submit", self.body)
            .header("Content-Type", &format!("multipart/form-data; boundary={}", self.boundary))
    }

    /// The request in chunks of `size` bytes.
    pub fn chunked(mut self, size: usize) -> Call {
        self.body.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        let mut chunks = Vec::new();
        for chunk in self.body.chunks(size) {
            chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        Call::post("/submit", chunks)
            .header("Content-Type", &format!("multipart/form-data; boundary={}", self.boundary))
            .header("Transfer-Encoding", "chunked")
    }
}
