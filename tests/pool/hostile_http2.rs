//! Hostile clients of HTTP/2, frame by frame.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::front::TlsPool;
use crate::harness::{SOON, nobody};
use crate::wire::Call;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET https://a/health`, in HPACK.
fn request() -> Vec<u8> {
    [&[0x82, 0x87, 0x01, 1, b'a', 0x04, 7][..], b"/health"].concat()
}

/// A field that is in no table and goes into none.
fn field(name: &str, bytes: usize) -> Vec<u8> {
    // HPACK: a length past 126 is 127 and the rest in groups of seven bits.
    let mut length = vec![0x7f];
    let mut rest = bytes - 127;
    while rest >= 128 {
        length.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    length.push(rest as u8);
    [&[0x00, name.len() as u8], name.as_bytes(), &length, &vec![b'v'; bytes]].concat()
}

async fn connect(pool: &TlsPool) -> TlsStream<TcpStream> {
    pool.client().offering(&["h2"]).connect(pool.address).await.expect("a handshake")
}

async fn begin(pool: &TlsPool) -> TlsStream<TcpStream> {
    let mut stream = connect(pool).await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("a write");
    stream
}

/// Everything that comes until the pool closes, which it must do in time.
async fn to_end(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("the pool closes");
    said
}

/// The kinds of the frames that came, with their last four bytes.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        found.push((head[3], payload.to_vec()));
        bytes = rest;
    }
    found
}

async fn still_serves(pool: &TlsPool) {
    let began = Instant::now();
    pool.client().call(pool.address, &Call::get("/health")).await.expect("an answer").expect(200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn connection_without_a_request_is_closed_whatever_else_it_sends() {
    let extra = "server: {threads: 2, header_timeout: 1s, idle_timeout: 1s}";
    let pool = TlsPool::start(&[nobody()], extra).await;
    let mut silent = connect(&pool).await;
    to_end(&mut silent).await;
    let mut half = connect(&pool).await;
    half.write_all(&PREFACE[..20]).await.unwrap();
    to_end(&mut half).await;
    let mut idle = begin(&pool).await;
    to_end(&mut idle).await;
    // A head that goes on for ever, and pings.
    let mut dripping = begin(&pool).await;
    dripping.write_all(&frame(HEADERS, 0, 1, &request())).await.unwrap();
    let mut pinging = begin(&pool).await;
    let began = Instant::now();
    let (mut drips, mut pings) = (true, true);
    while (drips || pings) && began.elapsed() < SOON {
        drips = drips && dripping.write_all(&frame(CONTINUATION, 0, 1, &[])).await.is_ok();
        pings = pings && pinging.write_all(&frame(PING, 0, 0, &[0; 8])).await.is_ok();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!drips && !pings, "open after {:?}", began.elapsed());
}

#[tokio::test]
async fn flood_of_streams_that_are_reset_harms_nobody() {
    let pool = TlsPool::start(&[nobody()], "").await;
    let mut stream = begin(&pool).await;
    let flood: Vec<u8> = (0..20_000_u32)
        .flat_map(|at| {
            let id = 2 * at + 1;
            let headers = frame(HEADERS, END_HEADERS | END_STREAM, id, &request());
            [headers, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    let _ = timeout(SOON, stream.write_all(&flood)).await.expect("it is read or refused");
    still_serves(&pool).await;
    let said = frames(&to_end_or_idle(&mut stream).await);
    let calm = said.iter().any(|(kind, payload)| *kind == GOAWAY && payload[4..8] == [0, 0, 0, 11]);
    println!("told to be calm: {calm}; {} frames", said.len());
}

/// What comes within a second.
async fn to_end_or_idle(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut said)).await;
    said
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let pool = TlsPool::start(&[nobody()], "").await;
    let mut stream = begin(&pool).await;
    // Uploads that never end hold their streams.
    let upload = [
        &[0x83, 0x87, 0x01, 1, b'a', 0x04, 7][..],
        b"/submit",
        &[0x0f, 0x10, 31],
        b"multipart/form-data; boundary=x",
    ]
    .concat();
    assert_eq!(upload.len(), 7 + 7 + 3 + 31);
    let flood: Vec<u8> =
        (0..150_u32).flat_map(|at| frame(HEADERS, END_HEADERS, 2 * at + 1, &upload)).collect();
    stream.write_all(&flood).await.unwrap();
    let said = frames(&to_end_or_idle(&mut stream).await);
    let refused = said.iter().filter(|(kind, payload)| *kind == RST_STREAM && payload[3] == 7).count();
    let closed = said.iter().any(|(kind, _)| *kind == GOAWAY);
    assert!(refused == 50 || closed, "{refused} refused: {said:?}");
    still_serves(&pool).await;
}

#[tokio::test]
async fn head_that_is_too_long_is_refused() {
    let pool = TlsPool::start(&[nobody()], "").await;
    let mut stream = begin(&pool).await;
    let large = [request(), field("x", 15 << 10)].concat();
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &large)).await.unwrap();
    for at in 0..400 {
        let more = frame(CONTINUATION, if at == 399 { END_HEADERS } else { 0 }, 1, &field("y", 15 << 10));
        if stream.write_all(&more).await.is_err() {
            break;
        }
    }
    let said = frames(&to_end_or_idle(&mut stream).await);
    assert!(
        said.iter()
            .any(|(kind, payload)| matches!(*kind, GOAWAY | RST_STREAM)
                || payload.starts_with(&[0x08, 3, b'4'])),
        "{said:?}"
    );
    still_serves(&pool).await;
}
