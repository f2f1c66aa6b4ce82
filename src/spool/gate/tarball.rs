//! A tar archive that is pushed through, block by block, and holds nothing back.

use std::fmt;
use std::io::{self, Write};

use super::contents::Contents;
use super::header::{self, BLOCK_BYTES, Block, Header, Kind, pax_records};

/// Longest extended header (a long name, a set of pax records) in bytes: many times the longest path.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Paths that extended headers may give one entry, and targets of a link: GNU, pax and a sparse file's own. Each path is checked with
/// each target, so that without a bound a small archive would take hours and all of the memory.
const SAID_MAX: usize = 8;

/// How much of a name a refusal shows.
const NAME_BYTES_SHOWN: usize = 200;

/// Takes the inflated bytes of one archive, and fails at the first entry that may not pass.
pub struct Tarball {
    contents: Contents,
    state: State,
    /// What the next block is being put together in.
    block: Block,
    filled: usize,
    about_next: AboutNext,
    /// The entry that is being read, to be named.
    current: Option<Vec<u8>>,
}

enum State {
    /// A header is next, or the end.
    Between,
    /// Bytes of content, with what pads them to whole blocks.
    Content { left: u64 },
    /// An extended header, and what pads it.
    Extension { kind: Kind, text: Vec<u8>, left: u64, padding: u64 },
    /// More of a sparse file's map is next, then its content.
    Map { content: u64 },
    /// Only zeros may follow: some readers would go on.
    Ended,
}

/// What extended headers say about the next entry. Where they say something twice, readers differ in what they take, so all is kept.
#[derive(Default)]
struct AboutNext {
    paths: Vec<Vec<u8>>,
    links: Vec<Vec<u8>>,
    size: Option<u64>,
    real_size: u64,
}

/// Why an archive may not pass, on its way through a decoder.
#[derive(Debug)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl Tarball {
    pub fn new(contents: Contents) -> Self {
        Self {
            contents,
            state: State::Between,
            block: [0; BLOCK_BYTES],
            filled: 0,
            about_next: AboutNext::default(),
            current: None,
        }
    }

    /// Counts bytes that are about to be inflated.
    pub fn packed(&mut self, bytes: usize) {
        self.contents.packed(bytes);
    }

    /// Ends the archive, which must be whole.
    pub fn finish(self) -> Result<Contents, String> {
        let whole = matches!(self.state, State::Between | State::Ended) && self.filled == 0;
        if whole && self.about_next.is_empty() {
            return Ok(self.contents);
        }
        Err(self.of_entry("breaks off"))
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        self.contents.unpacked(bytes.len() as u64).map_err(|why| self.of_entry(&why))?;
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Content { left } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Between;
                    }
                    &bytes[taken..]
                }
                State::Extension { text, left, padding, .. } => {
                    let taken = usize::try_from(*left + *padding).unwrap_or(usize::MAX).min(bytes.len());
                    let of_text = usize::try_from(*left).unwrap_or(usize::MAX).min(taken);
                    text.extend_from_slice(&bytes[..of_text]);
                    *left -= of_text as u64;
                    *padding -= (taken - of_text) as u64;
                    if *left + *padding == 0 {
                        self.extension()?;
                    }
                    &bytes[taken..]
                }
                State::Between | State::Map { .. } | State::Ended => {
                    let taken = bytes.len().min(BLOCK_BYTES - self.filled);
                    self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                    self.filled += taken;
                    if self.filled == BLOCK_BYTES {
                        self.filled = 0;
                        self.whole_block()?;
                    }
                    &bytes[taken..]
                }
            };
        }
        Ok(())
    }

    fn whole_block(&mut self) -> Result<(), String> {
        let block = self.block;
        let is_zero = block.iter().all(|byte| *byte == 0);
        match self.state {
            State::Map { content } => {
                if !header::map_goes_on(&block) {
                    self.state = content_of(content);
                }
                Ok(())
            }
            State::Between if is_zero && self.about_next.is_empty() => {
                self.state = State::Ended;
                Ok(())
            }
            State::Ended if is_zero => Ok(()),
            State::Ended => Err("holds an archive that goes on behind its end".into()),
            State::Between => self.header(&block),
            State::Content { .. } | State::Extension { .. } => unreachable!("they are not read in blocks"),
        }
    }

    fn header(&mut self, block: &Block) -> Result<(), String> {
        let header = Header::read(block)?;
        let kind = header.kind();
        let size = header.size().ok_or_else(|| of_entry(&header.path(), "has a size that is none"))?;
        if let Kind::Pax | Kind::GlobalPax | Kind::LongName | Kind::LongLink = kind {
            if size > EXTENSION_BYTES_MAX {
                let why = format!("has an extended header of more than {EXTENSION_BYTES_MAX} bytes");
                return Err(of_entry(&header.path(), &why));
            }
            let padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
            self.state = State::Extension { kind, text: Vec::new(), left: size, padding };
            return if size == 0 { self.extension() } else { Ok(()) };
        }
        let about = std::mem::take(&mut self.about_next);
        let name = about.paths.last().cloned().unwrap_or_else(|| header.path());
        let checked = self.entry(&header, kind, size, about);
        self.state = checked.map_err(|why| of_entry(&name, &why))?;
        self.current = Some(name);
        Ok(())
    }

    /// Checks an entry; what of it follows.
    fn entry(
        &mut self,
        header: &Header<'_>,
        kind: Kind,
        size: u64,
        about: AboutNext,
    ) -> Result<State, String> {
        self.contents.entry()?;
        let size = about.size.unwrap_or(size);
        // A name that is cut off to fit the header may end anywhere.
        let cut = about.paths.is_empty().then(|| header.path());
        let is_directory = about.paths.iter().chain(&cut).any(|path| path.ends_with(b"/"));
        let mut paths = about.paths;
        paths.extend(header.paths());
        for path in &paths {
            self.contents.check_path(path)?;
            if kind != Kind::Directory && path.iter().all(|byte| matches!(byte, b'/' | b'.')) {
                return Err("has no name".into());
            }
        }
        let mut links = about.links;
        links.push(header.link().to_vec());
        match kind {
            Kind::File | Kind::Sparse | Kind::Directory => {}
            Kind::HardLink => {
                for target in links.iter().filter(|target| !target.is_empty()) {
                    self.contents.check_hard_link(target)?;
                }
            }
            Kind::SymbolicLink => {
                for (path, target) in paths.iter().flat_map(|path| links.iter().map(move |link| (path, link)))
                {
                    self.contents.link(path, target)?;
                }
            }
            Kind::Device => return Err("is a device".into()),
            Kind::Pipe => return Err("is a named pipe".into()),
            Kind::Other(letter) => {
                return Err(format!("is of the kind {:?}, which is not taken", char::from(letter)));
            }
            Kind::Pax | Kind::GlobalPax | Kind::LongName | Kind::LongLink => {
                unreachable!("they are no entries")
            }
        }
        let has_content = matches!(kind, Kind::File | Kind::Sparse) && !is_directory;
        if size > 0 && !has_content {
            // Some readers skip so many bytes, and some do not.
            return Err("is no file, and states a size".into());
        }
        self.contents.check_room(size)?;
        let real_size = match kind {
            Kind::Sparse => header.real_size().ok_or("has a size that is none")?,
            _ => about.real_size,
        };
        let holes = real_size.saturating_sub(size);
        self.contents.holes(holes)?;
        if kind == Kind::Sparse && header.has_more_map() {
            return Ok(State::Map { content: size });
        }
        Ok(content_of(size))
    }

    /// An extended header is whole.
    fn extension(&mut self) -> Result<(), String> {
        let State::Extension { kind, text, .. } = std::mem::replace(&mut self.state, State::Between) else {
            unreachable!("it is called while one is read");
        };
        // What stands behind a NUL that is not the end belongs to the name for some readers, so it stays and is refused.
        let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match kind {
            Kind::LongName => keep(&mut self.about_next.paths, text[..end].to_vec())?,
            Kind::LongLink => keep(&mut self.about_next.links, text[..end].to_vec())?,
            Kind::Pax | Kind::GlobalPax => {
                let records = pax_records(&text).ok_or("holds an archive with broken pax records")?;
                for (key, value) in records {
                    self.record(kind, key, value)?;
                }
            }
            _ => unreachable!("no other kind has a text"),
        }
        Ok(())
    }

    fn record(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), String> {
        let about = &mut self.about_next;
        let size = || header::decimal(value).ok_or("holds an archive with a size that is none");
        match key {
            b"path" | b"linkpath" | b"size" if kind == Kind::GlobalPax => {
                return Err("holds an archive with one path or size for all entries".into());
            }
            b"path" | b"GNU.sparse.name" => keep(&mut about.paths, value.to_vec())?,
            b"linkpath" => keep(&mut about.links, value.to_vec())?,
            b"size" => {
                let size = size()?;
                if about.size.replace(size).is_some_and(|before| before != size) {
                    return Err("holds an archive with two sizes for one entry".into());
                }
            }
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => about.real_size = about.real_size.max(size()?),
            _ => {}
        }
        Ok(())
    }

    fn of_entry(&self, why: &str) -> String {
        match &self.current {
            Some(name) => of_entry(name, why),
            None => format!("holds an archive that {why}"),
        }
    }
}

impl AboutNext {
    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.links.is_empty() && self.size.is_none()
    }
}

impl Write for Tarball {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes).map_err(|why| io::Error::other(Refusal(why)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keep(said: &mut Vec<Vec<u8>>, text: Vec<u8>) -> Result<(), String> {
    if said.len() == SAID_MAX {
        return Err(format!("holds an archive that names one entry more than {SAID_MAX} times"));
    }
    said.push(text);
    Ok(())
}

fn content_of(size: u64) -> State {
    match size.checked_next_multiple_of(BLOCK_BYTES as u64) {
        Some(0) => State::Between,
        // There is no room for it, which has been checked.
        None => State::Content { left: u64::MAX },
        Some(left) => State::Content { left },
    }
}

fn of_entry(name: &[u8], why: &str) -> String {
    let shown = String::from_utf8_lossy(&name[..name.len().min(NAME_BYTES_SHOWN)]);
    format!("holds an archive whose entry {shown:?} {why}")
}
