//! Buckets of numbers of rows: products whose numbers are of the same one are computed alike, whether a program is for
//! that number or for a range of them.

use super::shape::{at_most, from};
use crate::ir::Dim;

/// Numbers of rows from `least` to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) least: i64,
    pub(super) most: i64,
    /// The number that variants are measured at and priced for.
    pub(super) typical: u64,
}

const fn bucket(least: i64, most: i64, typical: u64) -> Bucket {
    Bucket { least, most, typical }
}

/// Every bucket, in order: there is no number of rows between two of them.
pub(super) const BUCKETS: [Bucket; 10] = [
    bucket(1, 1, 1),
    bucket(2, 2, 2),
    bucket(3, 4, 4),
    bucket(5, 8, 8),
    bucket(9, 16, 16),
    bucket(17, 32, 32),
    bucket(33, 64, 64),
    bucket(65, 256, 128),
    bucket(257, 1024, 512),
    bucket(1025, i64::MAX, 4096),
];

impl Bucket {
    /// The bucket of `m` rows.
    pub(super) fn of(m: i64) -> Bucket {
        BUCKETS.into_iter().find(|bucket| m <= bucket.most).unwrap_or(BUCKETS[BUCKETS.len() - 1])
    }

    /// Its name in a tuning table: `1`, `33-64`, `1025-`.
    pub(super) fn name(self) -> String {
        match self {
            Bucket { least, most, .. } if least == most => least.to_string(),
            Bucket { least, most: i64::MAX, .. } => format!("{least}-"),
            Bucket { least, most, .. } => format!("{least}-{most}"),
        }
    }

    /// 1 where `m` is in it, else 0; none is below the first or above the last.
    pub(super) fn has(self, m: &Dim) -> Dim {
        let one = Dim::Known(1);
        let above = if self.least <= 1 { one.clone() } else { from(m, self.least) };
        let below = if self.most == i64::MAX { one } else { at_most(m, self.most) };
        &above * &below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_rows_is_in_one_bucket() {
        for pair in BUCKETS.windows(2) {
            assert_eq!(pair[0].most + 1, pair[1].least);
        }
        let m = Dim::ranged("m", 0, 1 << 20);
        for n in [0, 1, 2, 3, 5, 8, 9, 64, 65, 1024, 1025, 1 << 20] {
            let of: Vec<Bucket> =
                BUCKETS.into_iter().filter(|bucket| bucket.has(&m).eval(&|_| Some(n)) == Some(1)).collect();
            assert_eq!(of, [Bucket::of(n)], "{n}");
        }
        assert_eq!([1, 40, 5000].map(|m| Bucket::of(m).name()), ["1", "33-64", "1025-"]);
        assert!(BUCKETS.iter().all(|b| (b.least..=b.most).contains(&(b.typical as i64))));
    }
}
