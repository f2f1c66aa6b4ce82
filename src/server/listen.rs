//! Addresses to listen on are taken before anything else starts: one that is in use is an error at once, and port 0 has its number.
//!
//! Pingora binds its listeners itself, late, and tries for 30 s when an address is in use. So the address is reserved by a socket that is bound and does not
//! listen: Pingora's own binds beside it (`SO_REUSEPORT`) and gets every connection.

use std::net::{SocketAddr, TcpListener};

use pingora::listeners::TcpSocketOptions;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpSocket;

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

/// The options that let Pingora's listener bind beside the reservation.
pub fn options() -> TcpSocketOptions {
    let mut options = TcpSocketOptions::default();
    options.so_reuseport = Some(true);
    options
}

/// Connections of clients at once: half of the files that this process may have open, because workers, uploads and kept outputs need some.
pub fn connections_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 2).unwrap_or(usize::MAX).max(1)
}
