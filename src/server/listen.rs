//! Addresses to listen on are taken before anything else starts: one that is in use is an error at once, and port 0 has its number.
//!
//! Pingora binds its listeners itself, late, and tries for 30 s when an address is in use. So the address is reserved by a socket that is bound and does not
//! listen: Pingora's own binds beside it (`SO_REUSEPORT`) and gets every connection.

use std::net::{SocketAddr, TcpListener};

use pingora::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpSocket;

/// Each connection has two buffers, however little it is used. What is read past this goes to where it is wanted at once: bodies
/// have a larger buffer of their own. A record of TLS fits in.
const READ_BUFFER_BYTES: usize = 17 << 10;

/// The head of an answer and a short body leave in one packet's worth of calls.
const WRITE_BUFFER_BYTES: usize = 8 << 10;

/// A reserved address; it is kept until the value is dropped.
pub struct Reserved {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

/// Takes an address, or says why it cannot be had.
pub fn reserve(address: SocketAddr) -> Result<Reserved, String> {
    let wrong = |error: std::io::Error| format!("cannot listen on {address}: {error}");
    if address.port() != 0 {
        // Another pool's listener would let ours bind beside it and take half of its connections; this one does not.
        drop(TcpListener::bind(address).map_err(wrong)?);
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(wrong)?;
    socket.set_reuseaddr(true).map_err(wrong)?;
    socket.set_reuseport(true).map_err(wrong)?;
    socket.bind(address).map_err(wrong)?;
    let address = socket.local_addr().map_err(wrong)?;
    Ok(Reserved { address, _socket: socket })
}

/// Takes several addresses.
pub fn reserve_all(addresses: &[SocketAddr]) -> Result<Vec<Reserved>, String> {
    addresses.iter().map(|address| reserve(*address)).collect()
}

/// Pingora's listener, which binds beside the reservation.
pub fn listener(address: SocketAddr) -> ListenerConfig {
    let mut options = TcpSocketOptions::default();
    options.so_reuseport = Some(true);
    ListenerConfig::tcp(address.to_string())
        .tcp_socket_options(options)
        .l4_buffer(L4BufferSettings::new(READ_BUFFER_BYTES, WRITE_BUFFER_BYTES))
}

/// Connections of clients at once: half of the files that this process may have open, because workers, uploads and kept outputs need some.
pub fn connections_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 2).unwrap_or(usize::MAX).max(1)
}
