//! An input that decides where it is cut, as a network does with what is sent over it.

/// Bytes at the end of an input that say how long its pieces are.
const LENGTHS: usize = 4;

/// Splits an input into what is sent and the lengths of the pieces that it comes in. An input too short for both comes whole.
pub fn split(input: &[u8]) -> (&[u8], Lengths) {
    match input.split_last_chunk::<LENGTHS>() {
        Some((sent, lengths)) => (sent, Lengths(*lengths)),
        None => (input, Lengths([u8::MAX; LENGTHS])),
    }
}

/// Lengths of pieces, less one, that are gone through again and again.
#[derive(Clone, Copy)]
pub struct Lengths([u8; LENGTHS]);

impl Lengths {
    /// The pieces of `sent`, none of them empty.
    pub fn pieces(self, mut sent: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut lengths = self.0.into_iter().cycle();
        std::iter::from_fn(move || {
            let length = usize::from(lengths.next()?) + 1;
            let piece;
            (piece, sent) = sent.split_at(length.min(sent.len()));
            (!piece.is_empty()).then_some(piece)
        })
    }
}
