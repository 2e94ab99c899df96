use super::*;
use proptest::prelude::*;

const INT4_BLOCKS: Packing = Packing { coding: Coding::I4, granularity: Granularity::Block(16), scale: ScaleType::F16 };
const INT8_ROWS: Packing = Packing { coding: Coding::I8, granularity: Granularity::Row, scale: ScaleType::F32 };

#[test]
fn int4_rows_start_at_words_and_f16_scales_share_one() {
    let bytes = pack(INT4_BLOCKS, 2, 5, &[1, -1, 7, -8, 3, 0, 2, -3, 4, -5], &[1.0, -0.5]);
    let codes = [0xf1, 0x87, 0x03, 0x00, 0x20, 0x4d, 0x0b, 0x00];
    assert_eq!(bytes.unwrap(), [&codes[..], &[0x00, 0x3c, 0x00, 0xb8]].concat());
}

#[test]
fn int8_rows_start_at_words_and_f32_scales_follow() {
    let bytes = pack(INT8_ROWS, 2, 5, &[1, -1, 127, -128, 5, 6, 7, 8, 9, -10], &[1.0, 2.0]);
    let codes = [1, 0xff, 0x7f, 0x80, 5, 0, 0, 0, 6, 7, 8, 9, 0xf6, 0, 0, 0];
    assert_eq!(bytes.unwrap(), [&codes[..], &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]].concat());
}

#[test]
fn an_odd_number_of_f16_scales_is_padded_to_a_word() {
    let packing = Packing { granularity: Granularity::Tensor, ..INT4_BLOCKS };
    let bytes = pack(packing, 1, 1, &[-8], &[1.0]).unwrap();
    assert_eq!(bytes, [0x08, 0, 0, 0, 0x00, 0x3c, 0, 0]);
}

#[test]
fn sizes_of_a_projection() {
    let packing = Packing { granularity: Granularity::Block(32), ..INT4_BLOCKS };
    assert_eq!(packing.pitch_words(4_095), Some(512));
    assert_eq!(packing.n_blocks(4_095), Some(128));
    assert_eq!(packing.n_scales(11_008, 4_095), Some(11_008 * 128));
    assert_eq!(packing.scale_offset(11_008, 4_095), Some(11_008 * 2_048));
    assert_eq!(packing.packed_bytes(11_008, 4_095), Some(11_008 * (2_048 + 256)));
    assert_eq!(INT8_ROWS.packed_bytes(3, 9), Some(3 * 12 + 3 * 4));
    assert_eq!(INT4_BLOCKS.packed_bytes(3, 9), Some(3 * 8 + 8));
}

#[test]
fn empty_tensors_have_sizes() {
    assert_eq!(INT4_BLOCKS.packed_bytes(0, 7), Some(0));
    assert_eq!(INT4_BLOCKS.packed_bytes(7, 0), Some(0));
    assert_eq!(INT8_ROWS.packed_bytes(u64::MAX, 0), Some(0));
    assert_eq!(pack(INT8_ROWS, usize::MAX, 0, &[], &[]), Ok(vec![]));
    assert_eq!(quantize_dynamic(&[], usize::MAX, 0, Granularity::Row), Ok(vec![]));
    assert_eq!(dequantize(INT4_BLOCKS, 7, 0, &[]).unwrap(), [0.0; 0]);
    assert_eq!(quantize_dynamic(&[], 0, 3, Granularity::Tensor).unwrap(), 1.0_f32.to_le_bytes());
}

#[test]
fn sizes_that_overflow_are_refused() {
    assert_eq!(INT8_ROWS.pitch_words(u64::MAX), None);
    assert_eq!(INT8_ROWS.scale_offset(1 << 32, 1 << 32), None);
    assert_eq!(INT8_ROWS.packed_bytes(1 << 61, 1), None);
    let error = INT8_ROWS.layout(usize::MAX, 2).unwrap_err();
    assert_eq!(error, PackedError::TooLarge { n_rows: usize::MAX, n_cols: 2 });
    assert!(pack(INT8_ROWS, usize::MAX, 2, &[], &[]).is_err());
    assert!(unpack(INT8_ROWS, usize::MAX, 2, &[]).is_err());
}

#[test]
fn other_blocks_are_refused() {
    for block in [0, 1, 8, 24, 48, 512, u32::MAX] {
        let packing = Packing { granularity: Granularity::Block(block), ..INT8_ROWS };
        assert_eq!(packing.validate(), Err(PackedError::Block { block }));
        assert_eq!(packing.n_blocks(1), None);
    }
}

#[test]
fn what_would_not_read_back_is_refused() {
    let code = pack(INT4_BLOCKS, 1, 2, &[0, 8], &[1.0]).unwrap_err();
    assert_eq!(code, PackedError::Code { idx: 1, code: 8, coding: Coding::I4 });
    for scale in [0.1, 1e6] {
        let inexact = pack(INT4_BLOCKS, 1, 2, &[0, 7], &[scale]).unwrap_err();
        assert_eq!(inexact, PackedError::Scale { idx: 0, scale });
        assert!(pack(INT4_BLOCKS, 1, 2, &[0, 7], &[ScaleType::F16.storable(scale, Coding::I4)]).is_ok());
    }
    let short = unpack(INT4_BLOCKS, 1, 2, &[0; 7]).unwrap_err();
    assert_eq!(short.to_string(), "7 bytes given where the shape needs 8");
    assert!(dequantize(INT4_BLOCKS, 1, 2, &[0; 9]).is_err());
    assert!(pack(INT4_BLOCKS, 1, 2, &[0], &[1.0]).is_err());
    assert!(pack(INT4_BLOCKS, 1, 2, &[0, 0], &[]).is_err());
}

#[test]
fn padding_is_not_read() {
    let (codes, scales) = unpack(INT4_BLOCKS, 1, 1, &[0xf9, 0xff, 0xff, 0xff, 0, 0x3c, 9, 9]).unwrap();
    assert_eq!((codes, scales), (vec![-7], vec![1.0]));
}

#[test]
fn storable_scales_are_normal_and_keep_products_finite() {
    for scale in [0.0, -0.0, f32::NAN, 1e-45, -1e-7, 0.1, -3.0, 1e6, -f32::MAX, f32::INFINITY] {
        let kinds = [ScaleType::F16, ScaleType::F32];
        for (kind, coding) in kinds.into_iter().flat_map(|kind| Coding::ALL.map(|coding| (kind, coding))) {
            let stored = kind.storable(scale, coding);
            assert_eq!(stored, kind.storable(stored, coding), "{scale} {kind:?}");
            assert!(stored.is_normal() && (1.0 / stored).is_normal(), "{scale} {kind:?}");
            assert!((stored * coding.largest()).is_finite());
            assert!(scale.is_nan() || scale == 0.0 || stored.signum() == scale.signum());
            assert!(kind == ScaleType::F32 || f16::from_f32(stored).is_normal());
        }
    }
    assert_eq!(ScaleType::F16.storable(1e-9, Coding::I4), f16::MIN_POSITIVE.to_f32());
    assert_eq!(ScaleType::F32.storable(0.1, Coding::I8), 0.1);
}

/// The code that the low bits stand for, by arithmetic of its own.
fn code_of_bits(coding: Coding, bits: u8) -> i8 {
    let n = coding.bits();
    let integer = (bits << (8 - n)).cast_signed() >> (8 - n);
    if coding != Coding::N4 {
        return integer;
    }
    let [m, b] = [i16::from(integer).abs(), i16::from(integer.unsigned_abs())];
    let bit = |i: u8| (b >> i) & 1;
    let above = bit(0) * bit(1) + bit(2) * (3 + 5 * bit(0) + 12 * bit(1) + 5 * bit(0) * bit(1)) + bit(3) * 39;
    ((11 * m + above) * i16::from(integer).signum()) as i8
}

#[test]
fn the_non_linear_codes_are_those_of_the_formula() {
    assert_eq!(NON_LINEAR.to_vec(), (0..16).map(|bits| code_of_bits(Coding::N4, bits)).collect::<Vec<_>>());
    assert!(NON_LINEAR.iter().all(|code| Coding::N4.has(*code)) && !Coding::N4.has(1) && !Coding::N4.has(127));
}

#[test]
fn the_rows_of_wide_codes_are_the_weights_in_four_bits() {
    let codes: Vec<i8> = (-32..32).chain(-32..32).collect();
    let six = Packing { coding: Coding::I6, granularity: Granularity::Row, scale: ScaleType::F32 };
    let four = Packing { coding: Coding::I4, ..six };
    let bytes = pack(six, 2, 64, &codes, &[1.0, 0.5]).unwrap();
    let coarse: Vec<i8> = codes.iter().map(|code| code >> 2).collect();
    let narrow = pack(four, 2, 64, &coarse, &[4.0, 2.0]).unwrap();
    let n = six.plane_offset(2, 64).unwrap() as usize;
    assert_eq!(bytes[..n], narrow[..n]);
    assert_eq!((bytes.len(), narrow.len()), (2 * (32 + 2 * 8 + 4), 2 * (32 + 4)));
}

#[test]
fn text_of_packings_reads_back() {
    for (coding, text) in Coding::ALL.into_iter().zip(["g64:f16", "n4:g64:f16", "5:g64:f16", "6:g64:f16", "g64:f16"]) {
        let packing = Packing { coding, granularity: Granularity::Block(64), scale: ScaleType::F16 };
        assert_eq!((packing.to_string().as_str(), Packing::parse(packing.codes(), text)), (text, Some(packing)));
    }
    for text in ["4:g64:f16", "8:g64:f16", "7:c:f16", "n4:f16", "n4:n4:c:f16"] {
        assert_eq!(Packing::parse(crate::ir::DType::I8, text), None, "{text}");
    }
    assert_eq!(Packing::parse(crate::ir::DType::I4, "n4:c:f16"), None);
}

fn any_packing() -> impl Strategy<Value = Packing> {
    let granularity = prop_oneof![
        (4_u32..=8).prop_map(|log| Granularity::Block(1 << log)),
        Just(Granularity::Row),
        Just(Granularity::Tensor),
    ];
    let scale =
        prop_oneof![Just(ScaleType::F16), Just(ScaleType::F32), Just(ScaleType::F16Zero), Just(ScaleType::F32Zero)];
    (prop::sample::select(&Coding::ALL[..]), granularity, scale).prop_map(|(coding, granularity, scale)| Packing {
        coding,
        granularity,
        scale,
    })
}

proptest! {
    #[test]
    fn packing_reads_back_where_the_module_says(
        packing in any_packing(),
        n_rows in 0_usize..5,
        n_cols in 0_usize..300,
        seed in any::<u64>(),
    ) {
        let layout = packing.layout(n_rows, n_cols).unwrap();
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as i8
        };
        let codes: Vec<i8> = (0..layout.n_elems).map(|_| code_of_bits(packing.coding, next() as u8)).collect();
        let scales: Vec<f32> = (0..layout.n_scales).map(|_| f32::from(next()) / 16.0).collect();
        let n_zeros = if packing.scale.has_zeros() { layout.n_scales } else { 0 };
        let zeros: Vec<i16> = (0..n_zeros).map(|_| i16::from(next())).collect();
        let bytes = pack_with_zeros(packing, n_rows, n_cols, &codes, &scales, &zeros).unwrap();
        prop_assert_eq!(super::zeros(packing, n_rows, n_cols, &bytes).unwrap(), zeros);
        prop_assert_eq!(bytes.len() % 4, 0);
        let n_bytes = packing.packed_bytes(n_rows as u64, n_cols as u64);
        prop_assert_eq!(Some(bytes.len() as u64), n_bytes);
        let unpacked = unpack(packing, n_rows, n_cols, &bytes).unwrap();
        prop_assert_eq!(&unpacked, &(codes.clone(), scales));

        // The contract with the kernels, by its own arithmetic.
        let word = |i: usize| u32::from_le_bytes(bytes[4 * i..][..4].try_into().unwrap());
        let (bits, n_planes) = (usize::from(packing.coding.row_bits()), usize::from(packing.coding.n_planes()));
        let pitch = (n_cols * bits).div_ceil(32);
        let plane_words = if n_planes > 0 { n_cols.div_ceil(32) } else { 0 };
        let scales_at = n_rows * (pitch + n_planes * plane_words);
        let values = dequantize(packing, n_rows, n_cols, &bytes).unwrap();
        for (i, j) in (0..n_rows).flat_map(|i| (0..n_cols).map(move |j| (i, j))) {
            let mut code = (word(i * pitch + j * bits / 32) >> ((j * bits) % 32)) & ((1 << bits) - 1);
            for plane in 0..n_planes {
                let bit = j % 8 / 2 * 8 + j % 32 / 8 * 2 + j % 2;
                code = code << 1 | (word(n_rows * pitch + (plane * n_rows + i) * plane_words + j / 32) >> bit) & 1;
            }
            let code = i32::from(code_of_bits(packing.coding, code as u8));
            let scale_idx = match packing.granularity {
                Granularity::Block(b) => i * n_cols.div_ceil(b as usize) + j / b as usize,
                Granularity::Row => i,
                Granularity::Tensor => 0,
            };
            let (scale, zero) = match packing.scale {
                ScaleType::F32 => (f32::from_bits(word(scales_at + scale_idx)), 0),
                ScaleType::F32Zero => {
                    let at = scales_at + 2 * scale_idx;
                    (f32::from_bits(word(at)), word(at + 1).cast_signed())
                }
                ScaleType::F16Zero => {
                    let both = word(scales_at + scale_idx);
                    (f16::from_bits(both as u16).to_f32(), both.cast_signed() >> 16)
                }
                ScaleType::F16 => {
                    let half = word(scales_at + scale_idx / 2) >> (16 * (scale_idx % 2));
                    (f16::from_bits(half as u16).to_f32(), 0)
                }
            };
            prop_assert_eq!(code, i32::from(codes[i * n_cols + j]));
            prop_assert_eq!(values[i * n_cols + j], (code - zero) as f32 * scale);
        }
    }

    #[test]
    fn dynamic_quantization_is_total(
        x in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..200),
        by_row in any::<bool>(),
    ) {
        let granularity = if by_row { Granularity::Row } else { Granularity::Tensor };
        let bytes = quantize_dynamic(&x, 1, x.len(), granularity).unwrap();
        let (codes, scales) = unpack(Packing::activation(granularity), 1, x.len(), &bytes).unwrap();
        let finite = x.iter().all(|x| x.is_finite());
        let all_fit = scales.iter().all(|scale| if finite { scale.is_normal() } else { scale.is_nan() });
        prop_assert!(all_fit);
        prop_assert!(codes.iter().all(|code| *code != -128));
    }

    /// The correction that the module's GLSL makes, from as far off as Vulkan allows.
    #[test]
    fn a_rough_reciprocal_is_corrected(
        bits in 0x0d80_0000_u32..0x7d00_0000,
        ulps in -3_i32..=3,
        edge in 0_usize..4,
    ) {
        let binade = bits & 0xff80_0000;
        let s = f32::from_bits([bits, binade, binade + 1, bits | 0x007f_ffff][edge]);
        let significand = |x: f32| ((x.to_bits() & 0x7f_ffff) | 0x80_0000).cast_signed();
        let mut r = f32::from_bits((1.0 / s).to_bits().wrapping_add_signed(ulps));
        for _ in 0..3 {
            let d = significand(r).wrapping_mul(significand(s)).wrapping_neg();
            let step = i32::from(2 * d > significand(s)) - i32::from(2 * d < -significand(s));
            r = f32::from_bits(r.to_bits().wrapping_add_signed(step));
        }
        prop_assert_eq!(r, 1.0 / s);
    }
}

#[test]
fn dynamic_rows_have_scales_of_their_own() {
    let x = [1.0, -2.0, 0.5, 254.0, 3.0, -127.0];
    let by_row = quantize_dynamic(&x, 2, 3, Granularity::Row).unwrap();
    let (codes, scales) = unpack(Packing::activation(Granularity::Row), 2, 3, &by_row).unwrap();
    // 63.5 and 31.75, then 1.5 and 63.5: halves go to the even code.
    assert_eq!(codes, [64, -127, 32, 127, 2, -64]);
    let reciprocal = f32::from_bits(0x3c01_0204);
    assert_eq!(scales, [2.0 * reciprocal, 254.0 * reciprocal]);
    let by_tensor = quantize_dynamic(&x, 2, 3, Granularity::Tensor).unwrap();
    let packing = Packing::activation(Granularity::Tensor);
    assert_eq!(unpack(packing, 2, 3, &by_tensor).unwrap().0, [0, -1, 0, 127, 2, -64]);
    let blocked = quantize_dynamic(&x, 2, 3, Granularity::Block(16));
    assert_eq!(blocked, Err(PackedError::BlockedActivation));
}

#[test]
fn what_is_not_finite_makes_its_row_nan_and_no_other() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = [1.0, wrong, -0.5, 1.0, 0.25, -0.5];
        let packing = Packing::activation(Granularity::Row);
        let values = dequantize(packing, 2, 3, &quantize_dynamic(&x, 2, 3, Granularity::Row).unwrap()).unwrap();
        assert!(values[..3].iter().all(|v| v.is_nan()) && values[3..].iter().all(|v| v.is_finite()), "{values:?}");
        let by_tensor = quantize_dynamic(&x, 2, 3, Granularity::Tensor).unwrap();
        let values = dequantize(Packing::activation(Granularity::Tensor), 2, 3, &by_tensor).unwrap();
        assert!(values.iter().all(|v| v.is_nan()), "{values:?}");
    }
}

#[test]
fn dynamic_scale_is_one_without_magnitude() {
    for x in [0.0, -0.0, 1e-45, 7e-31] {
        let bytes = quantize_dynamic(&[x; 3], 1, 3, Granularity::Row).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0x80, 0x3f], "{x}");
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let x: Vec<f32> = (0..600 * 333).map(|i| (i as f32 * 0.7).sin() * (i % 1_013) as f32).collect();
    let on = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let bytes = [Granularity::Row, Granularity::Tensor]
                .map(|granularity| quantize_dynamic(&x, 600, 333, granularity).unwrap());
            let packing = Packing::activation(Granularity::Row);
            (dequantize(packing, 600, 333, &bytes[0]).unwrap(), bytes)
        })
    };
    assert!(on(1) == on(2));
}
