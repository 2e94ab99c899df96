//! Rows of codes in the bytes of a packed tensor: words of a row, and its part of each plane.

use super::{Coding, Layout};

/// Columns whose bits of a plane share a word.
const PER_WORD: usize = 32;

/// Where one row is written. Its bytes are zero before.
#[derive(Debug)]
pub(crate) struct RowMut<'a> {
    coding: Coding,
    words: &'a mut [u8],
    /// Those of the higher bits first; empty where there are fewer.
    planes: [&'a mut [u8]; 2],
}

impl RowMut<'_> {
    /// Writes the codes of the row.
    pub(crate) fn write(&mut self, codes: &[i8]) {
        let coding = self.coding;
        if coding == Coding::I8 {
            return self.words.iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.cast_unsigned());
        }
        let n_planes = coding.n_planes();
        let high = |code: i8| coding.encode(code) >> n_planes;
        for (byte, pair) in self.words.iter_mut().zip(codes.chunks(2)) {
            *byte = high(pair[0]) | (pair.get(1).map_or(0, |code| high(*code)) << 4);
        }
        for (plane, bytes) in self.planes.iter_mut().take(n_planes.into()).enumerate() {
            let shift = usize::from(n_planes) - 1 - plane;
            for (col, code) in codes.iter().enumerate() {
                let (byte, bit) = place(col);
                bytes[byte] |= ((coding.encode(*code) >> shift) & 1) << bit;
            }
        }
    }
}

/// Byte and bit of a column in its row of a plane. Kernels spread the eight codes of a word of the row over the bytes
/// of two words, even columns and odd ones; so the bits that go with either are those of the same number in four bytes.
fn place(col: usize) -> (usize, usize) {
    let at = col % PER_WORD;
    (col / PER_WORD * 4 + at % 8 / 2, at / 8 * 2 + at % 2)
}

impl Layout {
    /// The rows of the codes in the bytes of the whole tensor; none where it has no elements.
    pub(crate) fn rows_mut<'a>(&self, bytes: &'a mut [u8]) -> Vec<RowMut<'a>> {
        if self.n_elems == 0 {
            return Vec::new();
        }
        let coding = self.packing.coding;
        let (words, rest) = bytes.split_at_mut(self.plane_offset);
        let planes = &mut rest[..self.scale_offset - self.plane_offset];
        let (first, second) = planes.split_at_mut(planes.len() / usize::from(coding.n_planes()).max(1));
        // Rows of a plane that is not there are empty.
        let mut first = first.chunks_exact_mut(self.plane_pitch_bytes.max(1));
        let mut second = second.chunks_exact_mut(self.plane_pitch_bytes.max(1));
        words
            .chunks_exact_mut(self.pitch_bytes)
            .map(|words| RowMut {
                coding,
                words,
                planes: [first.next().unwrap_or_default(), second.next().unwrap_or_default()],
            })
            .collect()
    }

    /// Reads the codes of row `row` (0-based), in the bytes of the whole tensor; `codes` has as many elements as it has
    /// columns.
    pub(crate) fn read_row(&self, bytes: &[u8], row: usize, codes: &mut [i8]) {
        let coding = self.packing.coding;
        let words = &bytes[row * self.pitch_bytes..][..self.pitch_bytes];
        if coding == Coding::I8 {
            return words.iter().zip(codes).for_each(|(byte, code)| *code = byte.cast_signed());
        }
        let n_planes = coding.n_planes();
        for (byte, pair) in words.iter().zip(codes.chunks_mut(2)) {
            let mut halves = [byte & 15, byte >> 4].into_iter();
            pair.iter_mut().zip(&mut halves).for_each(|(code, half)| *code = coding.decode(half << n_planes));
        }
        for plane in 0..usize::from(n_planes) {
            let at = self.plane_offset + (plane * self.n_rows + row) * self.plane_pitch_bytes;
            let bits = &bytes[at..][..self.plane_pitch_bytes];
            let shift = usize::from(n_planes) - 1 - plane;
            for (col, code) in codes.iter_mut().enumerate() {
                let (byte, bit) = place(col);
                *code |= ((bits[byte] >> bit) & 1).cast_signed() << shift;
            }
        }
    }
}
