//! The tokens that a pool knows, as they stand in a file.
//!
//! The file is JSON and holds no secret, but whoever can write it can let anybody in: it is made with mode 0600, and one
//! that others may write is refused. It is replaced as a whole, so that a running pool reads the old list or the new one.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Role;
use super::token::{Token, TokenDigest, TokenId};
use crate::job::ClientName;
use crate::time::Timestamp;

/// More clients than a private pool has.
pub const TOKENS_MAX: usize = 10_000;

/// Bytes of the file: room for [`TOKENS_MAX`].
const FILE_BYTES_MAX: u64 = 8 << 20;

/// What is known of a token.
#[derive(Clone, Debug)]
pub struct TokenEntry {
    pub client: ClientName,
    pub role: Role,
    pub created_at: Timestamp,
    /// It is worth nothing from then on.
    pub expires_at: Option<Timestamp>,
    digest: TokenDigest,
}

/// All tokens, by their ids.
#[derive(Clone, Debug, Default)]
pub struct TokenList {
    entries: BTreeMap<TokenId, TokenEntry>,
}

impl TokenEntry {
    pub fn new(
        token: &Token,
        client: ClientName,
        role: Role,
        now: Timestamp,
        lasts: Option<Duration>,
    ) -> Self {
        let expires_at = lasts.map(|lasts| now.plus(lasts));
        Self { client, role, created_at: now, expires_at, digest: token.digest() }
    }

    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

// === impl TokenList ===

impl TokenList {
    /// Reads the file; one that is not there lists nobody.
    ///
    /// # Errors
    /// What is wrong with it, with its path.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |what: String| format!("tokens {}: {what}", path.display());
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(wrong("others than its owner may write it; `chmod 600` it".to_owned()));
        }
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(wrong(format!("is no file of at most {FILE_BYTES_MAX} bytes")));
        }
        let text = io::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let stored: StoredList = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if stored.tokens.len() > TOKENS_MAX {
            return Err(format!("lists more than {TOKENS_MAX} tokens"));
        }
        let mut entries = BTreeMap::new();
        for (index, token) in stored.tokens.into_iter().enumerate() {
            let (id, entry) = token.read().map_err(|what| format!("tokens[{index}]: {what}"))?;
            if entries.insert(id, entry).is_some() {
                return Err(format!("tokens[{index}]: its id occurs twice"));
            }
        }
        Ok(Self { entries })
    }

    /// Who presents this token now.
    pub fn find(&self, token: &Token, now: Timestamp) -> Option<&TokenEntry> {
        let entry = self.entries.get(&token.id())?;
        (entry.digest.matches(&token.digest()) && !entry.has_expired(now)).then_some(entry)
    }

    pub fn entries(&self) -> impl Iterator<Item = (&TokenId, &TokenEntry)> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a token, unless there are too many or another has its id.
    pub fn add(&mut self, id: TokenId, entry: TokenEntry) -> Result<(), String> {
        if self.entries.len() == TOKENS_MAX {
            return Err(format!("there are {TOKENS_MAX} tokens already: revoke those that are not used"));
        }
        if self.entries.contains_key(&id) {
            return Err("another token has this id; try again".to_owned());
        }
        self.entries.insert(id, entry);
        Ok(())
    }

    /// Takes out the token of this id, or all of the client of this name; says which.
    pub fn revoke(&mut self, id_or_client: &str) -> Vec<TokenId> {
        let meant = |id: &TokenId, entry: &TokenEntry| {
            id.to_string() == id_or_client || entry.client.as_str() == id_or_client
        };
        self.entries.extract_if(.., |id, entry| meant(id, entry)).map(|(id, _)| id).collect()
    }

    fn to_text(&self) -> String {
        let tokens = self.entries.iter().map(|(id, entry)| StoredToken::of(id, entry)).collect();
        let mut text =
            serde_json::to_string_pretty(&StoredList { tokens }).expect("plain data is written as JSON");
        text.push('\n');
        text
    }
}

/// Changes the file. Those who do so at the same time wait for one another.
pub fn change<T>(path: &Path, change: impl FnOnce(&mut TokenList) -> Result<T, String>) -> Result<T, String> {
    let wrong = |error: io::Error| format!("tokens {}: {error}", path.display());
    let directory = directory_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(wrong)?;
    let lock = File::create(path.with_extension("lock")).map_err(wrong)?;
    lock.lock().map_err(wrong)?;
    let mut list = TokenList::read(path)?;
    let done = change(&mut list)?;
    replace(path, &directory, list.to_text().as_bytes()).map_err(wrong)?;
    Ok(done)
}

/// Content first, then the name; a temporary file is its owner's alone.
fn replace(path: &Path, directory: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredList {
    tokens: Vec<StoredToken>,
}

/// A token as it stands there; times are Unix seconds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredToken {
    id: String,
    name: String,
    role: String,
    sha256: String,
    created_at: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u32>,
}

impl StoredToken {
    fn of(id: &TokenId, entry: &TokenEntry) -> Self {
        Self {
            id: id.to_string(),
            name: entry.client.to_string(),
            role: entry.role.to_string(),
            sha256: entry.digest.to_hex(),
            created_at: seconds(entry.created_at),
            expires_at: entry.expires_at.map(seconds),
        }
    }

    fn read(self) -> Result<(TokenId, TokenEntry), String> {
        let entry = TokenEntry {
            client: self.name.parse().map_err(|error| format!("name: {error}"))?,
            role: self.role.parse().map_err(|error| format!("role: {error}"))?,
            created_at: at(self.created_at),
            expires_at: self.expires_at.map(at),
            digest: TokenDigest::from_hex(&self.sha256).ok_or("sha256: is not 64 hexadecimal digits")?,
        };
        Ok((self.id.parse().map_err(|_| "id: is not 12 hexadecimal digits")?, entry))
    }
}

/// Whole seconds since the epoch: enough for a token, until the year 2106.
fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_micros() / 1_000_000).unwrap_or(u32::MAX)
}

fn at(seconds: u32) -> Timestamp {
    Timestamp::from_micros(i64::from(seconds) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn token(n: u8) -> Token {
        Token::from_random([n; 6], [n; 32])
    }

    fn entry(n: u8, name: &str, lasts: Option<u64>) -> TokenEntry {
        TokenEntry::new(
            &token(n),
            name.parse().unwrap(),
            Role::Submit,
            at(1000),
            lasts.map(Duration::from_secs),
        )
    }

    #[test]
    fn a_token_is_found_until_it_expires_or_is_revoked() {
        let mut list = TokenList::default();
        list.add(token(1).id(), entry(1, "ci", None)).unwrap();
        list.add(token(2).id(), entry(2, "ci", Some(60))).unwrap();
        list.add(token(3).id(), entry(3, "other", None)).unwrap();
        assert!(list.find(&token(2), at(1059)).is_some());
        assert!(list.find(&token(2), at(1060)).is_none());
        assert!(list.find(&token(4), at(1000)).is_none());
        // The right id with another secret.
        assert!(list.find(&Token::from_random([1; 6], [9; 32]), at(1000)).is_none());
        assert_eq!(list.revoke("ci"), [token(1).id(), token(2).id()]);
        assert_eq!(list.revoke(&token(3).id().to_string()), [token(3).id()]);
        assert!(list.is_empty() && list.revoke("ci").is_empty());
    }

    #[test]
    fn the_file_reads_back_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/tokens.json");
        assert!(TokenList::read(&path).unwrap().is_empty());
        for n in 1..=3 {
            change(&path, |list| list.add(token(n).id(), entry(n, "ci", Some(60)))).unwrap();
        }
        let list = TokenList::read(&path).unwrap();
        let found = list.find(&token(2), at(1000)).unwrap();
        assert_eq!(
            (found.client.as_str(), found.role, found.expires_at),
            ("ci", Role::Submit, Some(at(1060)))
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token(2).reveal()[16..]), "the secret is in the file");
    }

    #[test]
    fn what_is_no_list_or_may_be_written_by_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.json");
        let twice = {
            let one = serde_json::to_value(StoredToken::of(&token(1).id(), &entry(1, "ci", None))).unwrap();
            serde_json::json!({ "tokens": [one, one] }).to_string()
        };
        for (text, said) in [
            ("", "EOF"),
            ("{}", "tokens"),
            (r#"{"tokens": [{"id": "x"}]}"#, "missing field"),
            (
                r#"{"tokens": [{"id":"x","name":"a b","role":"x","sha256":"","created_at":1}]}"#,
                "tokens[0]: name",
            ),
            (&twice, "twice"),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = TokenList::read(&path).unwrap_err();
            assert!(error.contains(said) && error.contains("tokens.json"), "{text}: {error}");
        }
        fs::write(&path, r#"{"tokens": []}"#).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(TokenList::read(&path).unwrap_err().contains("chmod"));
    }
}
