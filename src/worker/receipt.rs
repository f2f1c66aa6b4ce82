//! What a worker signs when a run is over: what it was given, how the run ended, and what came out of it. Pure.
//!
//! # What is signed
//! The Ed25519 signature is over these bytes, where each field is its length in bytes as 8 bytes, most significant first, and
//! then the field; numbers have a fixed width and the most significant byte first:
//!
//! ```text
//! "trusted-pool/receipt/v1\n"     as it is, without a length
//! worker id                       32 bytes, the public key
//! job id                          text, the pool's
//! attempt                         4 bytes
//! payload SHA-256                 32 bytes, see below
//! manifest SHA-256                32 bytes, of the part `manifest` as it came; of nothing where there was none
//! exit code                       4 bytes, two's complement
//! began, ended                    8 bytes each, microseconds since 1970
//! number of outputs               8 bytes
//! path, size, SHA-256             of each output, by path in the order of its bytes: text, 8 bytes, and 32 bytes or none
//! ```
//!
//! The payload's digest is the one that the pool keeps of a submit, computed anew from what arrived: SHA-256 over, for each `files`
//! part in the order received, `01 len(name) name len(content) SHA-256(content)`, and then `02 len(manifest) manifest`, lengths as 8
//! bytes. An output without a digest is one that the worker could not read or that was beyond what it hashes.
//!
//! Every field is bounded by its length, so no two receipts share their bytes; the first words keep a receipt from passing
//! for anything else that the same key signs.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::identity::{SIGNATURE_BYTES, SecretKey, WorkerKey};

/// The name of the form, in the signed bytes and in the JSON.
pub const FORMAT: &str = "trusted-pool/receipt/v1";

/// A SHA-256 digest; in JSON 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Sum(pub [u8; 32]);

/// Which run a receipt is about: what the worker was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The pool's id of the job.
    pub job_id: String,
    pub attempt: u32,
    pub payload_sha256: Sha256Sum,
    pub manifest_sha256: Sha256Sum,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub exit_code: i32,
    /// Microseconds since 1970, by the worker's clock.
    pub started_at_micros: u64,
    pub finished_at_micros: u64,
    /// In any order; a receipt holds them by path.
    pub outputs: Vec<OutputSum>,
}

/// A file that a run has put out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSum {
    /// Below the job's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of the content; `None` where the worker has not hashed it.
    pub sha256: Option<Sha256Sum>,
}

/// A receipt as it is passed on: what is said, and the signature, which [`Receipt::verify`] checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`FORMAT`].
    format: String,
    worker_id: WorkerKey,
    pub job_id: String,
    pub attempt: u32,
    pub payload_sha256: Sha256Sum,
    pub manifest_sha256: Sha256Sum,
    pub exit_code: i32,
    pub started_at_micros: u64,
    pub finished_at_micros: u64,
    pub outputs: Vec<OutputSum>,
    signature: Signature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature([u8; SIGNATURE_BYTES]);

/// Why a receipt counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiptError {
    /// It is of another form than this program knows.
    Format(String),
    /// It says that another worker made it.
    OtherWorker(WorkerKey),
    /// Its outputs are not in the order of their paths, or one occurs twice.
    Order,
    /// The key did not sign this.
    Signature,
}

/// What a worker's status holds beside what the protocol needs.
#[derive(Debug, Default)]
pub enum Evidence {
    Receipt(Box<Receipt>),
    /// A `receipt` that is none; why.
    Malformed(String),
    /// Only the `worker_metadata.signature` of a sandrun worker: it signs more digits than it prints, so nobody can check it.
    Unverifiable,
    #[default]
    Nothing,
}

// === impl Receipt ===

impl Receipt {
    /// Signs what a worker says of a run.
    #[must_use]
    pub fn sign(key: &SecretKey, subject: Subject, ending: Ending) -> Self {
        let Subject { job_id, attempt, payload_sha256, manifest_sha256 } = subject;
        let Ending { exit_code, started_at_micros, finished_at_micros, mut outputs } = ending;
        outputs.sort_unstable_by(|one, other| one.path.as_bytes().cmp(other.path.as_bytes()));
        let mut receipt = Self {
            format: FORMAT.to_owned(),
            worker_id: key.public(),
            job_id,
            attempt,
            payload_sha256,
            manifest_sha256,
            exit_code,
            started_at_micros,
            finished_at_micros,
            outputs,
            signature: Signature([0; SIGNATURE_BYTES]),
        };
        receipt.signature = Signature(key.sign(&receipt.signed_bytes()));
        receipt
    }

    /// Who made it, as it says itself.
    #[must_use]
    pub fn worker_id(&self) -> WorkerKey {
        self.worker_id
    }

    /// Whether this worker signed exactly this.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, worker: WorkerKey) -> Result<(), ReceiptError> {
        if self.format != FORMAT {
            return Err(ReceiptError::Format(self.format.clone()));
        }
        if self.worker_id != worker {
            return Err(ReceiptError::OtherWorker(self.worker_id));
        }
        if !self.outputs.is_sorted_by(|one, next| one.path.as_bytes() < next.path.as_bytes()) {
            return Err(ReceiptError::Order);
        }
        if !worker.signed(&self.signed_bytes(), &self.signature.0) {
            return Err(ReceiptError::Signature);
        }
        Ok(())
    }

    /// What it says of the output at this path.
    #[must_use]
    pub fn output(&self, path: &str) -> Option<&OutputSum> {
        let at = self.outputs.binary_search_by(|output| output.path.as_bytes().cmp(path.as_bytes())).ok()?;
        Some(&self.outputs[at])
    }

    /// The message that is signed: see the head of this module.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut message = Message::begin();
        message.field(self.worker_id.as_bytes());
        message.field(self.job_id.as_bytes());
        message.field(&self.attempt.to_be_bytes());
        message.field(&self.payload_sha256.0);
        message.field(&self.manifest_sha256.0);
        message.field(&self.exit_code.to_be_bytes());
        message.field(&self.started_at_micros.to_be_bytes());
        message.field(&self.finished_at_micros.to_be_bytes());
        message.field(&(self.outputs.len() as u64).to_be_bytes());
        for OutputSum { path, size, sha256 } in &self.outputs {
            message.field(path.as_bytes());
            message.field(&size.to_be_bytes());
            message.field(sha256.as_ref().map_or(&[], |sum| &sum.0));
        }
        message.0
    }
}

struct Message(Vec<u8>);

impl Message {
    fn begin() -> Self {
        Self(format!("{FORMAT}\n").into_bytes())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}

// === impl Evidence ===

impl Evidence {
    /// What a worker's status of a job, a JSON object, holds.
    #[must_use]
    pub fn in_status(status: &str) -> Self {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            receipt: Option<&'a RawValue>,
            worker_metadata: Option<Metadata>,
        }
        #[derive(Deserialize)]
        struct Metadata {
            signature: Option<String>,
        }
        let Ok(Body { receipt, worker_metadata }) = serde_json::from_str(status) else {
            return Self::Nothing;
        };
        let signature =
            worker_metadata.and_then(|metadata| metadata.signature).filter(|text| !text.is_empty());
        match (receipt, signature) {
            (Some(receipt), _) => match serde_json::from_str(receipt.get()) {
                Ok(receipt) => Self::Receipt(Box::new(receipt)),
                Err(error) => Self::Malformed(error.to_string()),
            },
            (None, Some(_)) => Self::Unverifiable,
            (None, None) => Self::Nothing,
        }
    }
}

// === impl Sha256Sum ===

impl Sha256Sum {
    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() != 64 || !digits {
            return None;
        }
        let mut sum = [0; 32];
        for (at, byte) in sum.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(sum))
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("a SHA-256 digest is 64 lower-case hexadecimal digits"))
    }
}

// === impl Signature ===

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(deserializer)?).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a signature is the standard base64 of 64 bytes"))
    }
}

// === impl ReceiptError ===

impl fmt::Display for ReceiptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => {
                write!(
                    f,
                    "the receipt is of the form {:?}; known is {FORMAT}",
                    &format.chars().take(64).collect::<String>()
                )
            }
            Self::OtherWorker(worker) => write!(f, "the receipt says that it is of worker {worker}"),
            Self::Order => f.write_str("the receipt's outputs are not in the order of their paths"),
            Self::Signature => f.write_str("the receipt's signature is not the worker's over what it says"),
        }
    }
}

impl std::error::Error for ReceiptError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subject() -> Subject {
        Subject {
            job_id: "pool-0123456789abcdef01234567".to_owned(),
            attempt: 2,
            payload_sha256: Sha256Sum([1; 32]),
            manifest_sha256: Sha256Sum([2; 32]),
        }
    }

    fn ending(outputs: Vec<OutputSum>) -> Ending {
        Ending { exit_code: -1, started_at_micros: 5, finished_at_micros: 9, outputs }
    }

    fn output(path: &str, size: u64, sha256: Option<[u8; 32]>) -> OutputSum {
        OutputSum { path: path.to_owned(), size, sha256: sha256.map(Sha256Sum) }
    }

    fn signed() -> (WorkerKey, Receipt) {
        let key = SecretKey::generate();
        let outputs = vec![output("r/b", 3, Some([3; 32])), output("a", 0, None)];
        (key.public(), Receipt::sign(&key, subject(), ending(outputs)))
    }

    #[test]
    fn a_receipt_is_its_workers_and_reads_back_from_json() {
        let (worker, receipt) = signed();
        assert_eq!(receipt.verify(worker), Ok(()));
        let text = serde_json::to_string(&receipt).unwrap();
        let read: Receipt = serde_json::from_str(&text).unwrap();
        assert_eq!((read.verify(worker), &read), (Ok(()), &receipt));
        assert_eq!(read.output("r/b").map(|output| output.size), Some(3));
        assert_eq!(read.output("b"), None);
        let other = SecretKey::generate().public();
        assert_eq!(receipt.verify(other), Err(ReceiptError::OtherWorker(worker)));
        let renamed = Receipt { worker_id: other, ..receipt };
        assert_eq!(renamed.verify(other), Err(ReceiptError::Signature));
    }

    /// The bytes themselves, so that a worker of another make can be held to them.
    #[test]
    fn the_signed_bytes_are_as_they_are_described() {
        let (worker, receipt) = signed();
        let mut bytes = b"trusted-pool/receipt/v1\n".to_vec();
        let mut field = |content: &[u8]| {
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, u8::try_from(content.len()).unwrap()]);
            bytes.extend_from_slice(content);
        };
        field(worker.as_bytes());
        field(b"pool-0123456789abcdef01234567");
        field(&[0, 0, 0, 2]);
        field(&[1; 32]);
        field(&[2; 32]);
        field(&[0xff; 4]);
        field(&[0, 0, 0, 0, 0, 0, 0, 5]);
        field(&[0, 0, 0, 0, 0, 0, 0, 9]);
        field(&[0, 0, 0, 0, 0, 0, 0, 2]);
        field(b"a");
        field(&[0; 8]);
        field(b"");
        field(b"r/b");
        field(&[0, 0, 0, 0, 0, 0, 0, 3]);
        field(&[3; 32]);
        assert_eq!(receipt.signed_bytes(), bytes);
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let (worker, receipt) = signed();
        let changes: [fn(&mut Receipt); 11] = [
            |receipt| receipt.job_id.push('0'),
            |receipt| receipt.attempt += 1,
            |receipt| receipt.payload_sha256.0[31] ^= 1,
            |receipt| receipt.manifest_sha256.0[0] ^= 1,
            |receipt| receipt.exit_code = 0,
            |receipt| receipt.started_at_micros -= 1,
            |receipt| receipt.finished_at_micros += 1,
            |receipt| receipt.outputs[0].path = "b".to_owned(),
            |receipt| receipt.outputs[1].sha256 = None,
            |receipt| drop(receipt.outputs.pop()),
            |receipt| receipt.signature.0[10] ^= 1,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = receipt.clone();
            change(&mut changed);
            assert_eq!(changed.verify(worker), Err(ReceiptError::Signature), "change {index}");
        }
        let mut swapped = receipt.clone();
        swapped.outputs.reverse();
        assert_eq!(swapped.verify(worker), Err(ReceiptError::Order));
        let doubled = Receipt { outputs: vec![receipt.outputs[0].clone(); 2], ..receipt.clone() };
        assert_eq!(doubled.verify(worker), Err(ReceiptError::Order));
        let other = Receipt { format: "trusted-pool/receipt/v2".to_owned(), ..receipt };
        assert!(matches!(other.verify(worker), Err(ReceiptError::Format(_))));
    }

    #[test]
    fn a_status_holds_a_receipt_or_what_is_none() {
        let (_, receipt) = signed();
        let status = serde_json::json!({ "receipt": receipt, "worker_metadata": { "signature": null } });
        assert!(
            matches!(Evidence::in_status(&status.to_string()), Evidence::Receipt(read) if *read == receipt)
        );
        let mut more = status.clone();
        more["receipt"]["note"] = "unsigned".into();
        for malformed in [more.to_string(), r#"{"receipt":{"format":7}}"#.to_owned()] {
            assert!(matches!(Evidence::in_status(&malformed), Evidence::Malformed(_)), "{malformed}");
        }
        let sandrun = r#"{"worker_metadata":{"worker_id":"k","signature":"c2ln"}}"#;
        assert!(matches!(Evidence::in_status(sandrun), Evidence::Unverifiable));
        for nothing in [r#"{"receipt":null,"worker_metadata":{"signature":null}}"#, "{}", "no JSON"] {
            assert!(matches!(Evidence::in_status(nothing), Evidence::Nothing), "{nothing}");
        }
    }

    fn outputs() -> impl Strategy<Value = Vec<OutputSum>> {
        let one = ("[a-c/\u{e4}\n]{0,6}", any::<u64>(), any::<Option<[u8; 32]>>());
        proptest::collection::vec(one.prop_map(|(path, size, sha256)| output(&path, size, sha256)), 0..6)
    }

    proptest! {
        /// Nothing runs together: what is said differently is signed differently.
        #[test]
        fn two_receipts_share_their_bytes_only_if_they_say_the_same(
            one in (outputs(), "[a-c]{0,4}", any::<i32>()),
            other in (outputs(), "[a-c]{0,4}", any::<i32>()),
        ) {
            let key = SecretKey::generate();
            let made = |(outputs, job_id, exit_code): (Vec<OutputSum>, String, i32)| {
                Receipt::sign(&key, Subject { job_id, ..subject() }, Ending { exit_code, ..ending(outputs) })
            };
            let (one, other) = (made(one), made(other));
            prop_assert_eq!(one == other, one.signed_bytes() == other.signed_bytes());
        }

        #[test]
        fn a_receipt_of_distinct_paths_verifies_after_a_journey(mut outputs in outputs()) {
            outputs.sort_by(|one, other| one.path.cmp(&other.path));
            outputs.dedup_by(|one, other| one.path == other.path);
            outputs.reverse();
            let key = SecretKey::generate();
            let text = serde_json::to_string(&Receipt::sign(&key, subject(), ending(outputs))).unwrap();
            let read: Receipt = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.verify(key.public()), Ok(()));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = Evidence::in_status(&text);
            let _ = Sha256Sum::from_hex(&text);
        }
    }
}
