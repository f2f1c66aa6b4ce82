//! The client against canned answers over a real socket.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const JOB: &str = "pool-abababababababababababab";

/// A server that gives one answer per connection, in this order, and notes what it was asked.
struct Canned {
    client: Client,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Canned {
    async fn new(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client =
            Client::new(&format!("http://{}/", listener.local_addr().unwrap()), Some("secret")).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let request = read_request(&mut socket).await;
                noted.lock().unwrap().push(request);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { client, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        socket.read_buf(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
}

fn job() -> JobId {
    JOB.parse().unwrap()
}

async fn fetch(pool: &Canned, to: &Path) -> Result<Vec<Progress>, ClientError> {
    let mut progress = Vec::new();
    pool.client.download(&job(), "a b/ü%?.txt", to, &mut |step| progress.push(step)).await?;
    Ok(progress)
}

#[tokio::test]
async fn a_file_is_asked_for_by_its_encoded_name_and_written_whole() {
    let pool = Canned::new(vec![answer("200 OK", "", "hello")]).await;
    let directory = TempDir::new().unwrap();
    let to = directory.path().join("out.txt");
    let progress = fetch(&pool, &to).await.unwrap();
    assert_eq!(progress, [Progress::Begins { there: 0, total: Some(5) }, Progress::Received(5)]);
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "hello");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let request = &pool.requests()[0];
    assert!(
        request.starts_with(&format!("GET /outputs/{JOB}/a%20b/%C3%BC%25%3F.txt HTTP/1.1\r\n")),
        "{request}"
    );
    assert!(request.contains("authorization: Bearer secret\r\n") && !request.contains("range:"), "{request}");
}

#[tokio::test]
async fn a_download_that_broke_off_carries_on() {
    let broken = answer("200 OK", "", "hello").replace("Length: 5", "Length: 11");
    let rest = answer("206 Partial Content", "Content-Range: bytes 5-10/11\r\n", " world");
    let pool = Canned::new(vec![broken, rest]).await;
    let directory = TempDir::new().unwrap();
    let to = directory.path().join("out.txt");
    let error = fetch(&pool, &to).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error:?}");
    assert!(!to.exists());
    let progress = fetch(&pool, &to).await.unwrap();
    assert_eq!(progress[0], Progress::Begins { there: 5, total: Some(11) });
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "hello world");
    assert!(pool.requests()[1].contains("range: bytes=5-\r\n"));
}

#[tokio::test]
async fn a_beginning_that_does_not_fit_is_fetched_anew() {
    let refused = answer("416 Range Not Satisfiable", "", r#"{"error":"no such range","code":"range"}"#);
    let other = answer("206 Partial Content", "Content-Range: bytes 0-2/3\r\n", "abc");
    for first in [
        vec![refused, answer("200 OK", "", "new")],
        vec![other, answer("200 OK", "", "new")],
        vec![
            // A server without ranges.
            answer("200 OK", "", "new"),
            answer("200 OK", "", "new"),
        ],
    ] {
        let pool = Canned::new(first).await;
        let directory = TempDir::new().unwrap();
        let to = directory.path().join("out.txt");
        std::fs::write(directory.path().join(format!("out.txt.{JOB}.part")), "old beginning").unwrap();
        fetch(&pool, &to).await.unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "new");
    }
}

#[test]
fn no_listed_name_leads_out_of_the_directory() {
    let outside = TempDir::new().unwrap();
    let base = TempDir::new().unwrap();
    let directory = base.path().join("outputs");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink(outside.path(), directory.join("link")).unwrap();
    std::fs::write(directory.join("file"), "").unwrap();
    for name in [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "//x",
        "./x",
        "link/x",
        "file/x",
        "a/",
        "a\0b",
    ] {
        let refused = local_path(&directory, name);
        assert!(matches!(refused, Err(ClientError::Unexpected(_))), "{name:?}: {refused:?}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 1);
    for name in ["x", "a/b/c.txt", "..a", "a b/ü%?.txt", "a\\..\\b"] {
        assert_eq!(local_path(&directory, name).unwrap(), directory.join(name), "{name}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_pools_words() {
    let full = r#"{"error":"the queue is full","code":"queue_full","retry_after":2.5}"#;
    let pool = Canned::new(vec![
        answer("503 Service Unavailable", "", full),
        answer("502 Bad Gateway", "", "<html>nginx</html>"),
        answer("200 OK", "", "<html>some other server</html>"),
    ])
    .await;
    let mut errors = Vec::new();
    for _ in 0..3 {
        errors.push(pool.client.pool().await.unwrap_err());
    }
    assert_eq!(errors[0].to_string(), "the queue is full (queue_full); try again in 3 s");
    assert_eq!(errors[1].to_string(), "the pool answered 502 Bad Gateway");
    assert!(matches!(errors[2], ClientError::Unexpected(_)), "{:?}", errors[2]);
}

#[tokio::test]
async fn a_pool_that_is_not_there_is_told_by_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&url, None).unwrap().pool().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)));
    assert!(error.to_string().starts_with(&format!("the pool at {url} cannot be reached: ")), "{error}");
    for wrong in ["", "localhost:9000", "ftp://pool", "http://", "http://pool/?x=1"] {
        assert!(matches!(Client::new(wrong, None), Err(ClientError::Usage(_))), "{wrong}");
    }
    assert!(matches!(Client::new(&url, Some("a\nb")), Err(ClientError::Usage(_))));
}

#[tokio::test]
async fn a_submit_is_a_form_of_known_length() {
    let pool =
        Canned::new(vec![answer("200 OK", "", &format!(r#"{{"job_id":"{JOB}","status":"queued"}}"#))]).await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("input");
    std::fs::write(&path, "some bytes").unwrap();
    let sent = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&sent);
    let upload = Upload {
        files: vec![Part::new("a\"b\r\n.txt".to_owned(), std::fs::File::open(&path).unwrap()).unwrap()],
        manifest: r#"{"entrypoint":"main.py"}"#.to_owned(),
        priority: Some(crate::job::Priority::High),
        idempotency_key: Some("mine".to_owned()),
        progress: Box::new(move |bytes| *counted.lock().unwrap() += bytes),
    };
    let submitted = pool.client.submit(upload).await.unwrap();
    assert_eq!(submitted.value.job_id, job());
    let request = &pool.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())) && !head.contains("chunked"), "{head}");
    assert!(head.contains("idempotency-key: mine"), "{head}");
    assert_eq!(*sent.lock().unwrap(), body.len() as u64);
    let boundary = head.split("boundary=").nth(1).unwrap().split("\r\n").next().unwrap();
    let expected = "--B\r\nContent-Disposition: form-data; name=\"priority\"\r\n\r\nhigh\r\n\
        --B\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a%22b%0D%0A.txt\"\r\n\
        Content-Type: application/octet-stream\r\n\r\nsome bytes\r\n\
        --B\r\nContent-Disposition: form-data; name=\"manifest\"\r\nContent-Type: application/json\r\n\r\n\
        {\"entrypoint\":\"main.py\"}\r\n--B--\r\n";
    assert_eq!(body.replace(boundary, "B"), expected);
}

#[tokio::test]
async fn a_filter_is_encoded_into_the_query() {
    let page = r#"{"jobs":[{"job_id":"pool-abababababababababababab","pool_status":"failed","worker_id":null,
        "submitted_at":1795478492.25,"completed_at":1795478493,"error":{"code":"rejected","message":"no"}}],
        "next_cursor":"7"}"#;
    let pool = Canned::new(vec![answer("200 OK", "", page)]).await;
    let worker = Some("a+b/c=".to_owned());
    let query = JobsQuery { worker, limit: Some(5), ..JobsQuery::default() };
    let page = pool.client.jobs(&query).await.unwrap().value;
    assert!(pool.requests()[0].starts_with("GET /jobs?worker=a%2Bb%2Fc%3D&limit=5 HTTP/1.1\r\n"));
    assert_eq!((page.jobs.len(), page.next_cursor.as_deref()), (1, Some("7")));
    assert!(page.jobs[0].is_finished());
}
