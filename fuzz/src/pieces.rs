//! How an input is cut into what arrives at a time.

/// Lengths of pieces, the same for the same choice: 0 cuts behind every byte, any other choice
/// into pieces of uneven lengths, up to that many bytes.
pub(crate) fn lengths(choice: u8) -> impl Iterator<Item = usize> {
    let mut state = u32::from(choice);
    std::iter::from_fn(move || {
        // The generator of Numerical Recipes; its high bits are good enough for cuts.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = u32::from(choice).max(1);
        Some(1 + ((state >> 16) % most) as usize)
    })
}

/// The places up to which the bytes have come, ever more of them, to the last one.
pub(crate) fn places(choice: u8, length: usize) -> impl Iterator<Item = usize> {
    let mut at = 0;
    let sums = lengths(choice).map(move |piece| {
        at = length.min(at + piece);
        at
    });
    let mut done = false;
    sums.take_while(move |&at| !std::mem::replace(&mut done, at == length))
}
