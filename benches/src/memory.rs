//! Memory that is there before it is needed.
//!
//! Decides that everything that is compared begins with the same: on virtual machines whose host takes free memory back (free
//! page reporting, balloons), the first touch of a page is a fault to the host, here 2.8 s a GiB where memory that was freed a
//! moment ago costs 0.16 s. Whoever is measured after something that freed much would look several times as fast.

/// Touched and held at a time: small enough to be had anywhere.
const PIECE_BYTES: usize = 64 << 20;

/// Has the system take `bytes` of memory from its host, or half of what is available where that is less, and frees them again.
///
/// What is freed stays with this system for about two seconds, so what is to be measured should begin at once.
pub fn make_ready(bytes: u64) {
    use procfs::Current as _;
    let available = procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available).unwrap_or(0);
    let pieces = bytes.min(available / 2) / PIECE_BYTES as u64;
    // Held together, so that no piece is made of the one before.
    let held: Vec<Vec<u8>> = (0..pieces).map(|_| vec![1; PIECE_BYTES]).collect();
    std::hint::black_box(&held);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_not_asked_for() {
        make_ready(0);
        make_ready(200 << 20);
    }
}
