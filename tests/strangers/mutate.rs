//! Damage: the same seed gives the same files.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// `n` damaged versions of the seeds, in turn truncated, bit-flipped, rewritten in part, and random, each with its name
/// and its seed's index.
pub fn mutants(seeds: Vec<Vec<u8>>, n: usize, seed: u64) -> impl Iterator<Item = (String, usize, Vec<u8>)> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n).map(move |i| {
        let at = rng.random_range(0..seeds.len());
        let mut bytes = seeds[at].clone();
        let kind = match i % 4 {
            0 => {
                bytes.truncate(rng.random_range(0..bytes.len()));
                "truncated"
            }
            1 => {
                for _ in 0..rng.random_range(1..=8) {
                    let bit = rng.random_range(0..bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                "flipped"
            }
            2 => {
                rewrite(&mut bytes, &mut rng);
                "rewritten"
            }
            _ => {
                // Half of them begin as the format does, so that more than the magic number is reached.
                let keep = if rng.random() { bytes.len().min(rng.random_range(1..200)) } else { 0 };
                bytes.truncate(keep);
                let len = rng.random_range(0..4096);
                bytes.extend((0..len).map(|_| rng.random::<u8>()));
                "random"
            }
        };
        (format!("{kind} {i} of seed {at}"), at, bytes)
    })
}

/// Cuts, repeats or overwrites a span; or puts one of the bytes that mean much in its place.
fn rewrite(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let start = rng.random_range(0..bytes.len());
        let end = (start + rng.random_range(1..64)).min(bytes.len());
        let span = bytes[start..end].to_vec();
        match rng.random_range(0..5) {
            0 => drop(bytes.drain(start..end)),
            1 => drop(bytes.splice(start..start, span)),
            2 => bytes[start..end].fill(0xff),
            3 => {
                let to = rng.random_range(0..bytes.len());
                drop(bytes.splice(to..to, span));
            }
            _ => {
                let digits = [b'0', b'9', b'-', b'[', b'{', b'(', 0x80, 0x7f, 0];
                bytes[start] = digits[rng.random_range(0..digits.len())];
            }
        }
    }
}
