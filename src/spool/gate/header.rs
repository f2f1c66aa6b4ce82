//! The headers of tar: a block for each entry, and the records of pax.

pub const BLOCK_BYTES: usize = 512;

pub type Block = [u8; BLOCK_BYTES];

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    SymbolicLink,
    Directory,
    /// Records about the next entry.
    Pax,
    /// Records about all entries that follow.
    GlobalPax,
    LongName,
    LongLink,
    /// A file with holes, as old GNU tar has it.
    Sparse,
    Device,
    Pipe,
    Other(u8),
}

/// A header block that is one by its checksum.
pub struct Header<'a> {
    block: &'a Block,
}

impl<'a> Header<'a> {
    pub fn read(block: &'a Block) -> Result<Self, String> {
        let stated = octal(&block[148..156]).ok_or("holds what is no tar archive")?;
        let sum = |signed: bool| -> i64 {
            let value = |(at, byte): (usize, &u8)| match at {
                148..156 => i64::from(b' '),
                _ if signed => i64::from(byte.cast_signed()),
                _ => i64::from(*byte),
            };
            block.iter().enumerate().map(value).sum()
        };
        // Some old programs added up signed bytes.
        let stated = i64::try_from(stated).unwrap_or(-1);
        if stated == sum(false) || stated == sum(true) {
            return Ok(Self { block });
        }
        Err("holds what is no tar archive, or a damaged one".into())
    }

    pub fn kind(&self) -> Kind {
        match self.block[156] {
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymbolicLink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Pipe,
            b'x' => Kind::Pax,
            b'g' => Kind::GlobalPax,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            b'S' => Kind::Sparse,
            other => Kind::Other(other),
        }
    }

    /// The path, with the prefix that POSIX has for long ones.
    pub fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.block[..100]);
        let prefix = until_nul(&self.block[345..500]);
        if &self.block[257..263] == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    /// Every path that a reader may take it for: in what is not quite the form of POSIX, some find a prefix and some do not.
    pub fn paths(&self) -> impl Iterator<Item = Vec<u8>> {
        let name = until_nul(&self.block[..100]);
        let prefix = until_nul(&self.block[345..500]);
        let joined = (!prefix.is_empty()).then(|| [prefix, b"/", name].concat());
        let is_posix = &self.block[257..265] == b"ustar\x0000";
        let alone = (prefix.is_empty() || !is_posix).then(|| name.to_vec());
        joined.into_iter().chain(alone)
    }

    pub fn link(&self) -> &'a [u8] {
        until_nul(&self.block[157..257])
    }

    pub fn size(&self) -> Option<u64> {
        number(&self.block[124..136])
    }

    /// The size of a sparse file with its holes.
    pub fn real_size(&self) -> Option<u64> {
        number(&self.block[483..495])
    }

    /// Whether blocks with more of a sparse file's map follow.
    pub fn has_more_map(&self) -> bool {
        self.block[482] != 0
    }
}

/// Whether more blocks of a sparse file's map follow this one.
pub fn map_goes_on(block: &Block) -> bool {
    block[504] != 0
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or, for what they cannot hold, a binary number that is marked by its first bit.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    // A negative number, or one past 64 bits, is no size.
    let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
    if *first != 0x80 || high.iter().any(|byte| *byte != 0) {
        return None;
    }
    low.try_into().ok().map(u64::from_be_bytes)
}

/// Digits with white space around them, up to a NUL; nothing at all is zero.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() {
        return Some(0);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

/// The records of a pax header, each key with its value.
pub fn pax_records(mut text: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !text.is_empty() {
        let space = text.iter().take(20).position(|byte| *byte == b' ')?;
        let digits = std::str::from_utf8(&text[..space]).ok()?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let length: usize = digits.parse().ok()?;
        let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        text = &text[length..];
    }
    Some(records)
}

/// A number in a pax record.
pub fn decimal(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
