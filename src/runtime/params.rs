//! Parameters of dispatches and numbers of workgroups: the host's copy of the memory that has them, and how it follows
//! sizes.

use super::RuntimeError;
use super::convert::Source;
use crate::ir::Dim;
use crate::program::{Dispatch, Region, Sizes};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Dispatches whose words are no further apart than this are written in one piece.
const MAX_GAP: u64 = 256;

/// What the allocation for parameters holds, in pieces.
pub(super) struct Params {
    /// Each piece, and where it begins in `bytes`.
    pieces: Vec<(Region, usize)>,
    bytes: Vec<u8>,
}

impl Params {
    /// The parameters of these dispatches of a checked plan, zeros where they depend on sizes. `allocation` is the
    /// index of their allocation.
    pub(super) fn new<'a>(dispatches: impl Iterator<Item = &'a Dispatch> + Clone, allocation: u32) -> Params {
        let spans: BTreeMap<u64, u64> =
            dispatches.clone().filter(|d| d.params_bytes() > 0).map(|d| (d.params_offset, d.params_bytes())).collect();
        let mut pieces: Vec<(Region, usize)> = Vec::new();
        let mut n = 0;
        for (offset, bytes) in spans {
            match pieces.last_mut() {
                Some((last, start)) if offset <= last.offset + last.bytes + MAX_GAP => {
                    last.bytes = last.bytes.max(offset + bytes - last.offset);
                    n = *start + last.bytes as usize;
                }
                _ => {
                    pieces.push((Region { allocation, offset, bytes }, n));
                    n += bytes as usize;
                }
            }
        }
        let mut made = Params { pieces, bytes: vec![0; n] };
        for dispatch in dispatches {
            for (word, at) in words_of(dispatch) {
                if let Some(word) = word.known() {
                    made.set(at, word as u32);
                }
            }
        }
        made
    }

    /// Sets the word at this offset of the allocation.
    fn set(&mut self, offset: u64, word: u32) {
        if let Some(at) = self.place(offset)
            && let Some(bytes) = self.bytes.get_mut(at..at + 4)
        {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn place(&self, offset: u64) -> Option<usize> {
        let after = self.pieces.partition_point(|(region, _)| region.offset <= offset);
        let (region, start) = self.pieces.get(after.checked_sub(1)?)?;
        (offset + 4 <= region.offset + region.bytes).then(|| start + (offset - region.offset) as usize)
    }

    /// All of it, to be written.
    pub(super) fn uploads(&self) -> Vec<(Region, Source<'_>)> {
        self.pieces.iter().map(|(region, start)| self.upload(*region, *start)).collect()
    }

    fn upload(&self, region: Region, start: usize) -> (Region, Source<'_>) {
        let bytes = self.bytes.get(start..start + region.bytes as usize).unwrap_or_default();
        (region, Source::Bytes(Cow::Borrowed(bytes)))
    }
}

/// The words that a dispatch has in the allocation, and their offsets: parameters, and workgroups where those depend on
/// sizes.
fn words_of(dispatch: &Dispatch) -> impl Iterator<Item = (&Dim, u64)> {
    let groups = if dispatch.is_indirect() { dispatch.groups.as_slice() } else { &[] };
    let offset = |(i, dim)| (dim, dispatch.params_offset.saturating_add(4 * i as u64));
    dispatch.params.iter().chain(groups).enumerate().map(offset)
}

/// What of some dispatches depends on sizes.
pub(super) struct Changing {
    /// Different expressions, and the smallest that each may be.
    values: Vec<(Dim, i64)>,
    /// Words: offset in the allocation, and which value.
    words: Vec<(u64, usize)>,
    /// Workgroups along each axis that depend on sizes: which dispatch, and which value.
    groups: Vec<(usize, usize)>,
    /// Offsets of the first of these words and of the end of the last.
    span: (u64, u64),
}

impl Changing {
    /// What of these dispatches depends on sizes; `None` where nothing does.
    pub(super) fn of(dispatches: &[Dispatch]) -> Option<Changing> {
        let mut index: BTreeMap<(Dim, i64), usize> = BTreeMap::new();
        let (mut words, mut groups) = (Vec::new(), Vec::new());
        let mut number = |dim: &Dim, least: i64| {
            let n = index.len();
            *index.entry((dim.clone(), least)).or_insert(n)
        };
        for (i, dispatch) in dispatches.iter().enumerate() {
            for (n, (dim, at)) in words_of(dispatch).enumerate().filter(|(_, (dim, _))| dim.known().is_none()) {
                let is_param = n < dispatch.params.len();
                let value = number(dim, if is_param { -(1 << 31) } else { 0 });
                words.push((at, value));
                if !is_param {
                    groups.push((i, value));
                }
            }
        }
        let span = (words.iter().map(|w| w.0).min()?, words.iter().map(|w| w.0 + 4).max()?);
        let mut values: Vec<_> = index.into_iter().collect();
        values.sort_by_key(|(_, n)| *n);
        Some(Changing { values: values.into_iter().map(|(value, _)| value).collect(), words, groups, span })
    }

    /// Makes `params` those of these sizes, and `empty` the dispatches that have no workgroups then; `None` where a
    /// number is out of range.
    pub(super) fn follow(&self, sizes: &Sizes, params: &mut Params, empty: &mut [bool]) -> Option<()> {
        let value = |(dim, least): &(Dim, i64)| {
            let value = dim.eval(&|name| sizes.get(name).copied())?;
            (*least..1 << 32).contains(&value).then_some(value as u32)
        };
        let values = self.values.iter().map(value).collect::<Option<Vec<u32>>>()?;
        for (offset, value) in &self.words {
            params.set(*offset, values[*value]);
        }
        empty.fill(false);
        for (dispatch, value) in &self.groups {
            empty[*dispatch] |= values[*value] == 0;
        }
        Some(())
    }

    /// What of `params` is to be written where sizes have changed.
    pub(super) fn uploads<'a>(&self, params: &'a Params) -> Vec<(Region, Source<'a>)> {
        let (from, to) = self.span;
        let pieces = params.pieces.iter().filter_map(|(region, start)| {
            let (begin, end) = (region.offset.max(from), (region.offset + region.bytes).min(to));
            let part = Region { offset: begin, bytes: end.checked_sub(begin).filter(|n| *n > 0)?, ..*region };
            Some(params.upload(part, start + (begin - region.offset) as usize))
        });
        pieces.collect()
    }
}

/// The numbers of sizes that make a tensor's size negative, or a number too large for a word.
pub(super) fn lost(sizes: &Sizes) -> RuntimeError {
    let list: Vec<String> = sizes.iter().map(|(name, n)| format!("{name} = {n}")).collect();
    RuntimeError::Unsupported { what: format!("the sizes {}: some tensor would have a negative one", list.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dispatch(params: &[Dim], offset: u64, groups: Dim) -> Dispatch {
        Dispatch {
            node: "n".to_owned(),
            shader: String::new(),
            bindings: vec![],
            writes: vec![],
            params: params.to_vec(),
            params_offset: offset,
            groups: [groups, 1.into(), 1.into()],
            loop_iterations: 0,
            barrier: false,
            check: None,
            result_slice: None,
        }
    }

    /// Parameters side by side and far apart, direct dispatches right before others, and one that has neither
    /// parameters nor a place for them.
    #[test]
    fn words_follow_sizes_and_no_dispatch_writes_those_of_another() {
        let n = Dim::ranged("n", 0, 100);
        let twice = &n * &Dim::Known(2);
        let all = [
            dispatch(&[7.into(), n.clone()], 0, 5.into()),
            dispatch(&[1.into(), 2.into(), 3.into(), 4.into()], 8, 5.into()),
            dispatch(std::slice::from_ref(&twice), 24, n.clone()),
            dispatch(&[9.into()], 1 << 20, twice),
            dispatch(&[], u64::MAX, 5.into()),
        ];
        let mut params = Params::new(all.iter(), 2);
        assert_eq!(params.bytes.len(), 40 + 16);
        let changing = Changing::of(&all).unwrap();
        assert_eq!(changing.values.len(), 4, "n and 2 n, each as a parameter and as workgroups");
        let mut empty = [true; 5];
        for (size, is_empty) in [(3, false), (0, true)] {
            changing.follow(&Sizes::from([("n".to_owned(), size)]), &mut params, &mut empty).unwrap();
            assert_eq!(empty, [false, false, is_empty, is_empty, false]);
            let words: Vec<u32> =
                params.bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
            let n = size as u32;
            assert_eq!(words, [7, n, 1, 2, 3, 4, 2 * n, n, 1, 1, 9, 2 * n, 1, 1]);
        }
        let uploads: Vec<Region> = changing.uploads(&params).iter().map(|(region, _)| *region).collect();
        let region = |offset, bytes| Region { allocation: 2, offset, bytes };
        assert_eq!(uploads, [region(4, 36), region(1 << 20, 8)]);
        assert_eq!(params.uploads().len(), 2);
        assert!(changing.follow(&Sizes::from([("n".to_owned(), -1)]), &mut params, &mut empty).is_none());
        assert!(Changing::of(&all[..2][1..]).is_none());
    }
}
