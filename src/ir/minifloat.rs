//! Floats of 8 and 4 bits: what ONNX stores codes and scales in. Nothing computes in them.

use super::DType;

/// How a type of at most 8 bits lays out its values; `None` for any other.
struct Layout {
    mantissa_bits: i32,
    /// Exponent of the smallest normal number.
    min_exponent: i32,
    /// The largest finite value.
    max: f32,
    /// The code of infinity without its sign, where there is one.
    infinity: Option<u8>,
    /// The code of NaN, where there is one.
    nan: Option<u8>,
    /// Whether there is a negative zero: in the others its code is NaN.
    has_negative_zero: bool,
    sign: u8,
}

fn layout(dtype: DType) -> Option<Layout> {
    let (mantissa_bits, min_exponent, max, infinity, nan, has_negative_zero) = match dtype {
        DType::F8E4M3 => (3, -6, 448.0, None, Some(0x7f), true),
        DType::F8E4M3Fnuz => (3, -7, 240.0, None, Some(0x80), false),
        DType::F8E5M2 => (2, -14, 57344.0, Some(0x7c), Some(0x7f), true),
        DType::F8E5M2Fnuz => (2, -15, 57344.0, None, Some(0x80), false),
        DType::F4E2M1 => (1, 0, 6.0, None, None, true),
        _ => return None,
    };
    let sign = if dtype == DType::F4E2M1 { 8 } else { 0x80 };
    Some(Layout { mantissa_bits, min_exponent, max, infinity, nan, has_negative_zero, sign })
}

/// The largest finite value of a type of at most 8 bits; `None` for any other.
pub fn max(dtype: DType) -> Option<f32> {
    if dtype == DType::F8E8M0 { Some(2f32.powi(127)) } else { layout(dtype).map(|l| l.max) }
}

/// The value of a code of `dtype`; `None` where the type has more than 8 bits. Codes of 4 bits are in the low nibble.
pub fn decode(dtype: DType, code: u8) -> Option<f32> {
    if dtype == DType::F8E8M0 {
        return Some(if code == 255 { f32::NAN } else { 2f64.powi(i32::from(code) - 127) as f32 });
    }
    let l = layout(dtype)?;
    let bits = code & (l.sign - 1);
    let negative = code & l.sign != 0;
    if l.nan.is_some_and(|nan| {
        if l.has_negative_zero { l.infinity.map_or(bits == nan, |inf| bits > inf) } else { code == nan }
    }) {
        return Some(f32::NAN);
    }
    if l.infinity == Some(bits) {
        return Some(if negative { f32::NEG_INFINITY } else { f32::INFINITY });
    }
    let (exponent, mantissa) = (i32::from(bits) >> l.mantissa_bits, i32::from(bits) & ((1 << l.mantissa_bits) - 1));
    let (significand, exponent) =
        if exponent == 0 { (mantissa, 1) } else { (mantissa + (1 << l.mantissa_bits), exponent) };
    let value = f64::from(significand) * 2f64.powi(exponent - 1 + l.min_exponent - l.mantissa_bits);
    Some(if negative { -value as f32 } else { value as f32 })
}

/// The code of `dtype` nearest to `value`, ties to even; E8M0 rounds up. Finite values beyond the range become its
/// largest, infinities too where the type has neither them nor NaN, and NaN where it has that. `None` where the type
/// has more than 8 bits.
pub fn encode(dtype: DType, value: f32) -> Option<u8> {
    if dtype == DType::F8E8M0 {
        return Some(encode_scale(value));
    }
    let l = layout(dtype)?;
    let sign = if value.is_sign_negative() { l.sign } else { 0 };
    let largest = encode_finite(&l, l.max);
    Some(match (value.is_nan(), value.is_infinite()) {
        (true, _) => l.nan.unwrap_or(0) | if l.has_negative_zero && l.nan.is_some() { sign } else { 0 },
        (_, true) => match (l.infinity, l.nan) {
            (Some(infinity), _) => sign | infinity,
            (None, Some(nan)) => nan | if l.has_negative_zero { sign } else { 0 },
            (None, None) => sign | largest,
        },
        _ => {
            let code = encode_finite(&l, value.abs()).min(largest);
            if code == 0 && !l.has_negative_zero { 0 } else { sign | code }
        }
    })
}

fn encode_finite(l: &Layout, value: f32) -> u8 {
    let value = f64::from(value);
    if value == 0.0 {
        return 0;
    }
    // The exponent of the unit in the last place, that of subnormal numbers at least.
    let exponent = ((value.to_bits() >> 52) as i32 - 1023).max(l.min_exponent);
    let units = (value / 2f64.powi(exponent - l.mantissa_bits)).round_ties_even() as i64;
    // Units carry over into the exponent by themselves.
    let code = (i64::from(exponent - l.min_exponent) << l.mantissa_bits) + units;
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn encode_scale(value: f32) -> u8 {
    if value.is_nan() || value.is_sign_negative() && value != 0.0 {
        return 255;
    }
    let exponent = (0..=254i32).find(|code| 2f64.powi(code - 127) >= f64::from(value));
    exponent.and_then(|code| u8::try_from(code).ok()).unwrap_or(254)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for dtype in [DType::F8E4M3, DType::F8E4M3Fnuz, DType::F8E5M2, DType::F8E5M2Fnuz, DType::F4E2M1, DType::F8E8M0]
        {
            for code in 0..if dtype == DType::F4E2M1 { 16 } else { 255 } {
                let value = decode(dtype, code).unwrap();
                if !value.is_nan() {
                    assert_eq!(encode(dtype, value), Some(code), "{dtype} {code}: {value}");
                }
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_the_range_ends_at_its_largest() {
        assert_eq!(decode(DType::F8E4M3, encode(DType::F8E4M3, 1e9).unwrap()), Some(448.0));
        assert_eq!(decode(DType::F8E4M3, encode(DType::F8E4M3, 17.0).unwrap()), Some(16.0));
        assert_eq!(decode(DType::F8E4M3, encode(DType::F8E4M3, 19.0).unwrap()), Some(20.0));
        assert_eq!(decode(DType::F8E5M2, encode(DType::F8E5M2, f32::NEG_INFINITY).unwrap()), Some(f32::NEG_INFINITY));
        assert!(decode(DType::F8E5M2Fnuz, encode(DType::F8E5M2Fnuz, f32::INFINITY).unwrap()).unwrap().is_nan());
        assert_eq!(decode(DType::F4E2M1, encode(DType::F4E2M1, -2.5).unwrap()), Some(-2.0));
        assert_eq!(decode(DType::F8E8M0, encode(DType::F8E8M0, 3.0).unwrap()), Some(4.0));
    }
}
