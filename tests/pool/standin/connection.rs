//! A connection from accept to close.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use super::reply::Cut;
use super::request::{NoBody, RequestHead, read_body, read_head};
use super::{Fault, Mode, Open, Protocol, Quirks, Reads, Reply, Say, Shared, endpoints};

/// How often a watched state is looked at again.
pub const LOOK: Duration = Duration::from_millis(5);

pub fn bind(address: std::net::SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Accepts while the mode lets it; refusing means that nothing listens and every open connection is cut.
pub async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut mode = shared.mode.subscribe();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let wanted = *mode.borrow_and_update();
        if wanted == Mode::Refusing {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = bind(shared.address, shared.quirks().listen_backlog).ok();
        }
        shared.listening.send_replace(listener.is_some());
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = accepted => if let Ok((stream, _)) = accepted {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(Arc::clone(&shared), stream));
            },
            // A port that could not be bound again yet is tried again.
            () = tokio::time::sleep(LOOK), if listener.is_none() && wanted != Mode::Refusing => {}
        }
    }
}

async fn serve(shared: Arc<Shared>, mut stream: TcpStream) {
    let connection = {
        let mut state = shared.state();
        state.connections += 1;
        state.connections
    };
    let mut buffer = Vec::new();
    loop {
        let quirks = shared.quirks();
        let Ok(Some(head)) = read_head(&mut stream, &mut buffer, &quirks).await else { return };
        if *shared.mode.borrow() == Mode::Stalled {
            std::future::pending::<()>().await;
        }
        let open = shared.open(&head, connection);
        let Some((reply, cut)) = answer(&open, &head, &mut stream, &mut buffer, &quirks).await else {
            return;
        };
        let closing = !quirks.closes_unannounced
            && head.header("Connection", &quirks).is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let cut = if head.method == "HEAD" && !quirks.get_and_post_only { Cut::Body } else { cut };
        let written = reply.write(&mut stream, &quirks, closing, cut).await;
        drop(open);
        if written.is_err() || closing || quirks.closes_unannounced || matches!(cut, Cut::After(_)) {
            return;
        }
    }
}

/// The answer to one request, or nothing where the connection just ends.
async fn answer(
    open: &Open,
    head: &RequestHead,
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    quirks: &Quirks,
) -> Option<(Reply, Cut)> {
    let shared = &open.shared;
    let fault = shared.state().fault(&head.method, &head.target);
    if let Some(Fault::NeverAnswer) = fault {
        std::future::pending::<()>().await;
    }
    if let Some(Fault::Wire(Reads::Head, says)) = &fault {
        say(stream, says).await;
        return None;
    }
    let mut body = match read_body(stream, buffer, head, quirks).await {
        Ok(body) => body,
        Err(NoBody::TooLarge) => return Some((Reply::error(413, "Request too large"), Cut::Nothing)),
        Err(NoBody::Broken) => return None,
    };
    match &fault {
        Some(Fault::Answer { status, headers, body }) => {
            let mut reply = Reply::text(*status, "application/json", body.clone());
            reply.headers.extend(headers.iter().cloned());
            return Some((reply, Cut::Nothing));
        }
        Some(Fault::Wire(Reads::All, says)) => {
            say(stream, says).await;
            return None;
        }
        Some(Fault::CloseBeforeTaking) => return None,
        _ => {}
    }
    if head.target.starts_with("/stream/") && head.header("Upgrade", quirks).is_some() {
        return web_socket(shared, head, quirks, stream).await;
    }
    let reply = match head.method.as_str() {
        "POST" if head.endpoint() == "/submit" => endpoints::submit(open, head, &mut body, quirks).await,
        "POST" if head.endpoint() == "/cancel" && quirks.protocol != Protocol::First => {
            endpoints::cancel(shared, head)
        }
        "GET" => endpoints::get(shared, head, quirks, stream).await?,
        "HEAD" if !quirks.get_and_post_only => endpoints::get(shared, head, quirks, stream).await?,
        _ => Reply::error(404, "Not found"),
    };
    match fault {
        Some(Fault::CloseAfterTaking) => None,
        Some(Fault::Late(by)) => {
            tokio::time::sleep(by).await;
            Some((reply, Cut::Nothing))
        }
        Some(Fault::NotJson) => {
            Some((Reply::text(200, "text/html", "<html>hello</html>".into()), Cut::Nothing))
        }
        Some(Fault::CutBody(bytes)) => Some((reply, Cut::After(bytes))),
        _ => Some((reply, Cut::Nothing)),
    }
}

/// Says what a fault has it say, as far as anybody listens.
async fn say(stream: &mut TcpStream, says: &[Say]) {
    for what in says {
        match what {
            Say::Bytes(bytes) => {
                if stream.write_all(bytes).await.is_err() {
                    return;
                }
            }
            Say::Drip(text, pause) => loop {
                tokio::time::sleep(*pause).await;
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            },
            Say::Pause(pause) => tokio::time::sleep(*pause).await,
            Say::Reset => {
                stream.set_zero_linger().expect("a socket that is open");
            }
        }
    }
}

/// Sends the log, waits for the job's end, and says how it went.
async fn web_socket(
    shared: &Shared,
    head: &RequestHead,
    quirks: &Quirks,
    stream: &mut TcpStream,
) -> Option<(Reply, Cut)> {
    let id = head.target.trim_start_matches("/stream/").to_owned();
    let Some(log) = shared.state().jobs.get(&id).map(|job| job.plan.stdout.clone()) else {
        return Some((Reply::error(404, "Job not found"), Cut::Nothing));
    };
    let accept = derive_accept_key(head.header("Sec-WebSocket-Key", quirks)?.as_bytes());
    let switching = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: a=b\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(switching.as_bytes()).await.ok()?;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    socket.send(Message::text(log)).await.ok()?;
    loop {
        let status = shared.state().jobs.get(&id).map(|job| (job.status(), job.plan.exit_code));
        if let Some((status @ ("completed" | "failed"), exit)) = status {
            socket.send(Message::text(format!("[STATUS] {status}"))).await.ok()?;
            socket.send(Message::text(format!("[DONE] Job completed (exit={exit}, 0.1s)"))).await.ok()?;
            socket.close(None).await.ok()?;
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Resolves when the peer has closed its side or reset the connection.
pub async fn closed(stream: &TcpStream) {
    loop {
        let mut byte = [0];
        match stream.peek(&mut byte).await {
            Ok(0) => return,
            // A pipelined request: not a close, and not ours to read here.
            Ok(_) => tokio::time::sleep(LOOK).await,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
