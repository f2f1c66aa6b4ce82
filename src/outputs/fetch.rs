//! Fetches the outputs of one run to disk.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::policy::Wanted;
use super::{Incoming, Outputs};
use crate::job::RemoteId;
use crate::store::KeptFile;
use crate::upstream::download::{Opened, OutputStream};
use crate::upstream::{Contact, Upstream};

/// Bytes handed to the disk at once; what a file holds in memory, beside what the connection does.
const BUFFER_BYTES: usize = 256 << 10;

/// The disk is looked at again after so many bytes.
const ROOM_CHECK_BYTES: usize = 8 << 20;

/// Tries of a file that the worker refuses or breaks off, and the pause before the second, doubled after each.
const TRIES: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// Why outputs are not kept, or not now.
#[derive(Debug)]
pub enum Trouble {
    /// The worker no longer has them.
    Gone,
    /// The worker was not reached.
    Away { reason: String },
    /// The worker refuses a file or breaks it off: it may do better the next time.
    Flawed { reason: String },
    /// What the worker sent is not what it said.
    Wrong { reason: String },
    /// The pool's own disk.
    Disk(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Where the outputs are fetched from.
pub struct Source<'a> {
    pub upstream: &'a dyn Upstream,
    pub worker: &'a Contact,
    pub remote: &'a RemoteId,
}

impl Source<'_> {
    /// Fetches all of them; each is durable.
    pub async fn fetch_all(
        &self,
        files: &[Wanted],
        outputs: &Outputs,
    ) -> Result<(Incoming, Vec<KeptFile>), Trouble> {
        let incoming = outputs.begin()?;
        let mut kept = Vec::with_capacity(files.len());
        for (index, wanted) in (0..).zip(files) {
            let sha256 = self.fetch_patiently(wanted, &incoming, index).await?;
            kept.push(KeptFile { name: wanted.name.clone(), size: wanted.size, sha256, index });
        }
        Ok((incoming, kept))
    }

    async fn fetch_patiently(
        &self,
        wanted: &Wanted,
        incoming: &Incoming,
        index: u32,
    ) -> Result<String, Trouble> {
        let mut pause = PAUSE_FIRST;
        for _ in 1..TRIES {
            match self.fetch(wanted, incoming, index).await {
                Err(Trouble::Flawed { reason }) => log::debug!("asking again: {reason}"),
                fetched => return fetched,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.fetch(wanted, incoming, index).await
    }

    /// One try; gives the digest of the content.
    async fn fetch(&self, wanted: &Wanted, incoming: &Incoming, index: u32) -> Result<String, Trouble> {
        let Wanted { name, path, size, sha256: stated } = wanted;
        let stream = match self.upstream.open_output(self.worker, self.remote, path).await {
            Opened::File(stream) => stream,
            Opened::Gone => return Err(Trouble::Gone),
            Opened::Refused { reason } => return Err(Trouble::Flawed { reason }),
            Opened::Unanswered { reason } => return Err(Trouble::Away { reason }),
        };
        if stream.length != *size {
            let reason = format!("{name:?} has {} bytes; the worker listed {size}", stream.length);
            return Err(Trouble::Wrong { reason });
        }
        let sha256 = write(stream, name, incoming, index).await?;
        match stated {
            Some(stated) if *stated != sha256 => {
                let reason = format!("{name:?} has the SHA-256 {sha256}; the worker states {stated}");
                Err(Trouble::Wrong { reason })
            }
            Some(_) | None => Ok(sha256),
        }
    }
}

/// Writes a file as it comes, in constant memory, and makes it durable.
async fn write(
    mut stream: OutputStream,
    name: &str,
    incoming: &Incoming,
    index: u32,
) -> Result<String, Trouble> {
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, incoming.file(index).await?);
    let (mut hash, mut unchecked) = (Sha256::new(), 0);
    while let Some(chunk) = stream.next().await {
        let breaks_off = |error| Trouble::Flawed { reason: format!("{name:?} breaks off: {error}") };
        let chunk = chunk.map_err(breaks_off)?;
        unchecked += chunk.len();
        if unchecked >= ROOM_CHECK_BYTES {
            incoming.outputs.check_room()?;
            unchecked = 0;
        }
        hash.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    file.into_inner().sync_all().await?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
