//! Random numbers and tensors, the same for a seed on every machine.

use nyxc::ir::{Class, DType, Tensor};

/// SplitMix64 (Steele et al. 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x2545_F491_4F6C_DD1D)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n.max(1) as u128) >> 64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn int(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// An integer of a type: any, one where some width ends, or a small one.
    fn wide(&mut self, dtype: DType) -> i64 {
        match self.below(4) {
            0 => self.next().cast_signed() >> self.below(64),
            1 | 2 => {
                let power =
                    self.pick(&[1i64 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 53, 1 << 62]);
                let at = if self.chance(30) { i64::MIN } else { power };
                let at = if dtype.bits() < 64 && self.chance(40) { 1 << (dtype.bits() - 1) } else { at };
                let value = at.wrapping_add(self.int(-2, 2));
                if self.chance(40) { value.wrapping_neg() } else { value }
            }
            _ => self.int(-9, 9),
        }
    }

    /// Integers of any size.
    pub fn wide_tensor(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let values: Vec<i64> = (0..dims.iter().product()).map(|_| self.wide(dtype)).collect();
        Tensor::from_i64s(dtype, dims, &values).unwrap()
    }

    /// Floats of a few decades between 10^low and 10^high.
    pub fn far_tensor(&mut self, dtype: DType, dims: &[usize], (low, high): (f32, f32)) -> Tensor {
        let (centre, spread) = (low + (high - low) * (self.unit() + 1.0) / 2.0, self.pick(&[0.1, 1.0, 3.0]));
        let mut one = || {
            let magnitude = 10f32.powf((centre + spread * self.unit()).clamp(low, high));
            if self.chance(50) { -magnitude } else { magnitude }
        };
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| one()).collect();
        Tensor::from_f32s(dtype, dims, &values).unwrap()
    }

    pub fn tensor(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        match dtype.class() {
            Class::Float => {
                let style = self.below(4);
                let one = |r: &mut Random| match style {
                    // Eighths: sums and products of a few of them are exact in every format that is not of integers.
                    0 => r.int(-24, 24) as f32 / 8.0,
                    1 => 1.25 + r.unit(),
                    2 => r.unit(),
                    _ => r.unit() + r.unit() + r.unit(),
                };
                let values: Vec<f32> = (0..n).map(|_| one(self)).collect();
                Tensor::from_f32s(dtype, dims, &values).unwrap()
            }
            Class::Bool => {
                let values: Vec<i64> = (0..n).map(|_| self.int(0, 1)).collect();
                Tensor::from_i64s(dtype, dims, &values).unwrap()
            }
            _ => {
                let low = if matches!(dtype, DType::U8 | DType::U32) || self.chance(30) { 0 } else { -9 };
                let values: Vec<i64> = (0..n).map(|_| self.int(low, 9)).collect();
                Tensor::from_i64s(dtype, dims, &values).unwrap()
            }
        }
    }
}
