//! A small HTTP/1.1 client that costs little: what it takes from the two processors is not there for the servers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// A server that says nothing for this long is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Body bytes taken at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Where a server is, and how it is spoken to.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    /// TLS, with these certificates trusted.
    pub tls: Option<Arc<ClientConfig>>,
}

/// One connection.
pub struct Connection {
    stream: Stream,
    /// Read and not used yet.
    rest: Vec<u8>,
    piece: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// An answer, up to its body.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub length: u64,
}

impl Connection {
    pub fn open(door: &Door) -> io::Result<Self> {
        let socket = TcpStream::connect(door.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let stream = match &door.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from("localhost").expect("it is a name");
                let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        Ok(Self { stream, rest: Vec::new(), piece: vec![0; PIECE_BYTES] })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Asks for `path`, and reads the head of the answer.
    pub fn get(&mut self, path: &str) -> io::Result<Head> {
        self.write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        self.head()
    }

    pub fn head(&mut self) -> io::Result<Head> {
        let end = loop {
            if let Some(at) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            let read = self.read()?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.rest.extend_from_slice(&self.piece[..read]);
        };
        let head: Vec<u8> = self.rest.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let wrong = || io::Error::other(format!("no head of an answer with a length: {head:?}"));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        Ok(Head { status, length: length.ok_or_else(wrong)? })
    }

    /// Takes the body of the answer and drops it.
    pub fn discard_body(&mut self, head: &Head) -> io::Result<()> {
        let mut left = head.length - (self.rest.len() as u64).min(head.length);
        self.rest.clear();
        while left > 0 {
            let read = self.discard(left)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
        }
        Ok(())
    }

    pub fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        let length = usize::try_from(head.length).map_err(io::Error::other)?;
        while self.rest.len() < length {
            let read = self.read()?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.rest.extend_from_slice(&self.piece[..read]);
        }
        Ok(self.rest.drain(..length).collect())
    }

    /// Takes up to `most` bytes off the connection.
    pub fn discard(&mut self, most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIECE_BYTES);
        match &mut self.stream {
            // The kernel drops them itself (tcp(7), MSG_TRUNC): nothing is copied.
            Stream::Plain(socket) => Ok(recv(socket, &mut self.piece[..most], RecvFlags::TRUNC)?.1),
            Stream::Tls(tls) => tls.read(&mut self.piece[..most]),
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.read(&mut self.piece),
            Stream::Tls(tls) => tls.read(&mut self.piece),
        }
    }
}

/// One request on a connection of its own; the answer's status and body.
pub fn ask(door: &Door, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut connection = Connection::open(door)?;
    connection.write(request)?;
    let head = connection.head()?;
    Ok((head.status, connection.body(&head)?))
}
