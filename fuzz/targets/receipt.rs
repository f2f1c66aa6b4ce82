//! A receipt that verifies is, to the byte, the one that the worker signs of what it says: nobody can change one, or write one in two ways.
//!
//! An input is a receipt without a good signature, a line break, and bytes to change in it once it is signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use trusted_pool::worker::identity::SecretKey;
use trusted_pool::worker::receipt::{Ending, Evidence, Receipt, Subject};

/// Made for this and used for nothing else.
static KEY: LazyLock<SecretKey> = LazyLock::new(|| {
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINxb3qQFzXjqciopk0C5JlhuEQp6+IB/2YMQiplJwGrv\n\
               -----END PRIVATE KEY-----\n";
    SecretKey::from_pkcs8_pem(pem).expect("it is a key")
});

fuzz_target!(|input: &[u8]| {
    let (text, changes) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = Evidence::in_status(text);
    }
    let Ok(receipt) = serde_json::from_slice::<Receipt>(text) else { return };
    only_the_signed_one_verifies(&receipt);

    let signed = sign(&receipt);
    // A path that occurs twice is signed and never verifies.
    if !has_repeated_path(&signed) {
        signed.verify(KEY.public()).expect("its worker signed it");
    }
    let json = serde_json::to_string(&signed).expect("a receipt is JSON");
    assert_eq!(serde_json::from_str::<Receipt>(&json).expect("it reads what it writes"), signed);
    match Evidence::in_status(&format!("{{\"receipt\":{json}}}")) {
        Evidence::Receipt(found) => assert_eq!(*found, signed),
        other => panic!("{other:?}"),
    }
    if let Ok(changed) = serde_json::from_slice::<Receipt>(&change(json.into_bytes(), changes)) {
        only_the_signed_one_verifies(&changed);
    }
});

fn only_the_signed_one_verifies(receipt: &Receipt) {
    if receipt.verify(KEY.public()).is_ok() {
        assert_eq!(*receipt, sign(receipt));
    }
}

/// What the worker signs of what a receipt says.
fn sign(receipt: &Receipt) -> Receipt {
    let subject = Subject {
        job_id: receipt.job_id.clone(),
        attempt: receipt.attempt,
        payload_sha256: receipt.payload_sha256,
        manifest_sha256: receipt.manifest_sha256,
    };
    let ending = Ending {
        exit_code: receipt.exit_code,
        started_at_micros: receipt.started_at_micros,
        finished_at_micros: receipt.finished_at_micros,
        outputs: receipt.outputs.clone(),
    };
    Receipt::sign(&KEY, subject, ending)
}

fn has_repeated_path(receipt: &Receipt) -> bool {
    receipt.outputs.windows(2).any(|two| two[0].path == two[1].path)
}

/// Puts bytes in the place of others: each change is two bytes of place and one to put there.
fn change(mut json: Vec<u8>, changes: &[u8]) -> Vec<u8> {
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % json.len();
        json[place] = change[2];
    }
    json
}
