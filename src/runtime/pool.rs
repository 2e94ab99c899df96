//! Host memory of outputs, which runs use again once nobody has the tensors any more: fresh memory of the system costs
//! more than to fill it.

use crate::ir::Source;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Outputs of fewer bytes are allocated anew.
const LEAST_BYTES: usize = 64 << 10;

/// Memory that came back.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    free: Vec<Vec<u8>>,
    bytes: usize,
    /// So many bytes are kept at most.
    most: usize,
}

/// Bytes of a tensor that come back.
struct Lent {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps so many bytes at most.
    pub(super) fn limit(&self, bytes: usize) {
        self.held().most = bytes;
    }

    /// An empty vector with room for so many bytes.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut held = self.held();
        let fits = |v: &Vec<u8>| v.capacity() >= bytes && v.capacity() / 2 <= bytes;
        match held.free.iter().position(fits).filter(|_| bytes >= LEAST_BYTES) {
            Some(at) => {
                let mut found = held.free.swap_remove(at);
                held.bytes -= found.capacity();
                found.clear();
                found
            }
            None => Vec::with_capacity(bytes),
        }
    }

    /// The bytes as a tensor has them.
    pub(super) fn lend(&self, bytes: Vec<u8>) -> Source {
        if bytes.len() < LEAST_BYTES { Arc::new(bytes) } else { Arc::new(Lent { bytes, pool: self.clone() }) }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut held = self.pool.held();
        if held.bytes + bytes.capacity() <= held.most {
            held.bytes += bytes.capacity();
            held.free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_up_to_the_limit() {
        let pool = Pool::default();
        pool.limit(3 * LEAST_BYTES);
        let tensors: Vec<Source> = (0..4).map(|i| pool.lend(vec![i; LEAST_BYTES])).collect();
        assert_eq!(tensors[3].as_ref().as_ref()[0], 3);
        let held = || {
            let held = pool.held();
            (held.free.len(), held.bytes)
        };
        assert_eq!(held(), (0, 0));
        drop(tensors);
        assert_eq!(held(), (3, 3 * LEAST_BYTES));
        assert_eq!(pool.take(LEAST_BYTES / 4).capacity(), LEAST_BYTES / 4, "small ones are made");
        assert_eq!(pool.take(2 * LEAST_BYTES).capacity(), 2 * LEAST_BYTES, "none is large enough");
        let again = pool.take(LEAST_BYTES);
        assert_eq!((again.len(), again.capacity(), held()), (0, LEAST_BYTES, (2, 2 * LEAST_BYTES)));
    }
}
