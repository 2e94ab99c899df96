use super::*;
use nyxc::ir::packed::ScaleType;
use nyxc::ops::core::{conv, pointwise, pool, resize};

/// Kernel, strides, pads and dilations.
type Window = ([i64; 2], [i64; 2], [i64; 4], [i64; 2]);

fn attrs((kernel, strides, pads, dilations): Window) -> Attrs {
    Attrs::new()
        .with_ints("kernel", kernel)
        .with_ints("strides", strides)
        .with_ints("pads", pads)
        .with_ints("dilations", dilations)
}

const WINDOWS: [Window; 4] = [
    ([1, 1], [1, 1], [0; 4], [1, 1]),
    ([3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([3, 2], [2, 1], [0, 1, 2, 0], [1, 2]),
    ([5, 3], [2, 3], [2, 0, 1, 2], [1, 1]),
];

/// Input channels, filters, groups.
const CHANNELS: [(usize, usize, usize); 4] = [(3, 5, 1), (8, 70, 2), (6, 6, 6), (4, 8, 4)];

#[test]
fn convolutions_with_float_weights() {
    on_devices(|bench| {
        let mut random = Random::new(11);
        for (i, window) in WINDOWS.into_iter().enumerate() {
            for (channels, filters, groups) in CHANNELS {
                let types = [DType::F32, DType::F16];
                let x = random.floats(types[i % 2], &[2, channels, 11, 9]);
                let w = random
                    .floats(types[i / 2], &[filters, channels / groups, window.0[0] as usize, window.0[1] as usize]);
                Case::new(&conv::DEF, attrs(window).with_int("group", groups as i64), &[&x, &w]).check(bench);
            }
        }
    });
}

#[test]
fn convolutions_with_packed_weights_and_activations() {
    on_devices(|bench| {
        let mut random = Random::new(12);
        for packing in packings() {
            for (window, (channels, filters, groups)) in
                WINDOWS[1..3].iter().zip([CHANNELS[1], CHANNELS[0]]).chain([(&WINDOWS[1], CHANNELS[2])])
            {
                let k = channels / groups * (window.0[0] * window.0[1]) as usize;
                let w = random.packed(packing, &[filters, k]);
                let bias = random.floats(DType::F32, &[filters, 1, 1]);
                let attrs = attrs(*window).with_int("group", groups as i64);
                let x = random.floats(DType::F32, &[2, channels, 8, 10]);
                Case::new(&conv::DEF, attrs.clone(), &[&x, &w])
                    .then("min(relu(add(x0,x1)),0.5)", &[&bias])
                    .check(bench);
                if packing.scale.has_zeros() {
                    continue;
                }
                let x = random.packed(Packing::activation(Granularity::Tensor), &[2, channels, 8, 10]);
                Case::new(&conv::DEF, attrs, &[&x, &w]).then("add(x0,x1)", &[&bias]).check(bench);
            }
        }
    });
}

#[test]
fn pools_of_both_kinds() {
    on_devices(|bench| {
        let mut random = Random::new(13);
        let x = random.floats(DType::F32, &[2, 3, 11, 9]);
        let half = random.floats(DType::F16, &[1, 3, 8, 7]);
        for window in [WINDOWS[1], WINDOWS[2], ([2, 2], [2, 2], [0; 4], [1, 1]), ([3, 3], [2, 2], [1, 1, 1, 1], [1, 1])]
        {
            for kind in ["max", "average"] {
                for (ceil, count_pad) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let attrs =
                        attrs(window).with_str("kind", kind).with_int("ceil", ceil).with_int("count_pad", count_pad);
                    Case::new(&pool::DEF, attrs.clone(), &[&x]).check(bench);
                    Case::new(&pool::DEF, attrs, &[&half]).then("mul(x0,2.0)", &[]).check(bench);
                }
            }
        }
    });
}

#[test]
fn filters_stored_in_several_ways() {
    on_devices(|bench| {
        let mut random = Random::new(14);
        for packing in packings() {
            for (window, channels) in [(WINDOWS[1], 3), (WINDOWS[2], 1)] {
                let k = channels * (window.0[0] * window.0[1]) as usize;
                let parts = [
                    random.floats(DType::F16, &[5, k]),
                    random.packed(packing, &[33, k]),
                    random.packed(packings()[0], &[2, k]),
                ];
                let bias = random.floats(DType::F32, &[40, 1, 1]);
                let x = random.floats(DType::F32, &[2, channels, 8, 10]);
                Case::new(&conv::DEF, attrs(window), &[&x, &parts[0], &parts[1], &parts[2]])
                    .then("relu(add(x0,x1))", &[&bias])
                    .check(bench);
                if packing.scale.has_zeros() {
                    continue;
                }
                let x = random.packed(Packing::activation(Granularity::Tensor), &[2, channels, 8, 10]);
                Case::new(&conv::DEF, attrs(window), &[&x, &parts[1], &parts[2]]).check(bench);
            }
        }
    });
}

#[test]
fn filters_beyond_a_binding_come_in_slices() {
    on_devices(|bench| {
        let mut random = Random::new(15);
        let mut small = bench.targets[0].clone();
        small.limits.max_storage_buffer_range = 32 << 10;
        let bench = bench.with(small);
        let x = random.floats(DType::F32, &[1, 16, 3, 3]);
        let mut filters = vec![random.floats(DType::F32, &[70, 16, 3, 3])];
        filters.extend([1, 9].map(|i| random.packed(packings()[i], &[600, 144])));
        for w in filters {
            let case = Case::new(&conv::DEF, attrs(WINDOWS[1]), &[&x, &w]);
            assert!(plan(&case, &bench.targets[0]).unwrap().len() > 1, "{}", case.describe());
            case.check(&bench);
        }
    });
}

/// Input channels, filters, groups: with and without vectors of four channels, depthwise ones among them.
const CHANNELS_LAST: [(usize, usize, usize); 7] =
    [(3, 5, 1), (8, 70, 2), (6, 6, 6), (8, 8, 8), (4, 8, 4), (16, 12, 1), (20, 64, 1)];

/// A window whose loops are not unrolled.
const LARGE: Window = ([8, 7], [1, 2], [3, 3, 4, 3], [1, 2]);

#[test]
fn convolutions_with_channels_last() {
    on_devices(|bench| {
        let mut random = Random::new(21);
        for (i, window) in WINDOWS.into_iter().chain([LARGE]).enumerate() {
            for (at, (channels, filters, groups)) in CHANNELS_LAST.into_iter().enumerate() {
                let types = [DType::F32, DType::F16];
                let ([kh, kw], own) = (window.0.map(|n| n as usize), channels / groups);
                let x = random.floats(types[(i + at) % 2], &[2, 11, 9, channels]);
                let w = random.floats(types[(i / 2 + at / 2) % 2], &[filters, kh, kw, own]);
                let attrs = attrs(window).with_int("group", groups as i64).with_str("layout", "nhwc");
                let case = || Case::new(&conv::DEF, attrs.clone(), &[&x, &w]);
                case().check(bench);
                let y = conv::DEF.eval.unwrap()(&attrs, &[Some(&x), Some(&w)]).unwrap().remove(0);
                let (bias, rest) = (random.floats(DType::F32, &[filters]), random.floats(DType::F16, &y.dims()));
                case().then("relu(add(add(x0,x1),x2))", &[&bias, &rest]).stored(types[at % 2]).check(bench);
                // One of each image's channels.
                let gate = random.floats(DType::F16, &[2, 1, 1, filters]);
                case().then("mul(x0,x1)", &[&gate]).stored(DType::F16).check(bench);
            }
        }
    });
}

#[test]
fn convolutions_with_channels_last_of_packed_operands() {
    on_devices(|bench| {
        let mut random = Random::new(22);
        for packing in packings() {
            for (window, (channels, filters, groups)) in
                WINDOWS[1..3].iter().zip([CHANNELS_LAST[1], CHANNELS_LAST[0]]).chain([
                    (&WINDOWS[1], CHANNELS_LAST[2]),
                    (&WINDOWS[1], CHANNELS_LAST[3]),
                    (&WINDOWS[2], CHANNELS_LAST[6]),
                ])
            {
                let k = channels / groups * (window.0[0] * window.0[1]) as usize;
                let w = random.packed(packing, &[filters, k]);
                let bias = random.floats(DType::F32, &[filters]);
                let attrs = attrs(*window).with_int("group", groups as i64).with_str("layout", "nhwc");
                let x = random.floats(DType::F32, &[2, 8, 10, channels]);
                Case::new(&conv::DEF, attrs.clone(), &[&x, &w])
                    .then("min(relu(add(x0,x1)),0.5)", &[&bias])
                    .check(bench);
                if packing.scale.has_zeros() {
                    continue;
                }
                let x = random.packed(Packing::activation(Granularity::Tensor), &[2, 8, 10, channels]);
                Case::new(&conv::DEF, attrs, &[&x, &w]).then("add(x0,x1)", &[&bias]).check(bench);
            }
        }
    });
}

#[test]
fn filters_of_several_parts_with_channels_last() {
    on_devices(|bench| {
        let mut random = Random::new(23);
        for (window, channels) in [(WINDOWS[1], 3), (WINDOWS[2], 1)] {
            let k = channels * (window.0[0] * window.0[1]) as usize;
            let parts = [
                random.floats(DType::F16, &[5, k]),
                random.packed(packings()[1], &[33, k]),
                random.packed(packings()[0], &[2, k]),
            ];
            let bias = random.floats(DType::F32, &[40]);
            let x = random.floats(DType::F32, &[2, 8, 10, channels]);
            let attrs = attrs(window).with_str("layout", "nhwc");
            Case::new(&conv::DEF, attrs, &[&x, &parts[0], &parts[1], &parts[2]])
                .then("relu(add(x0,x1))", &[&bias])
                .check(bench);
        }
    });
}

#[test]
fn pools_and_resizes_with_channels_last() {
    on_devices(|bench| {
        let mut random = Random::new(24);
        for (dtype, dims) in [(DType::F32, [2, 11, 9, 3]), (DType::F16, [1, 8, 7, 12])] {
            let mut x = random.floats(dtype, &dims);
            for window in [WINDOWS[1], WINDOWS[2], ([3, 3], [2, 2], [1, 1, 1, 1], [1, 1]), LARGE] {
                for kind in ["max", "average"] {
                    for (ceil, count_pad) in [(0, 0), (1, 1)] {
                        let attrs = attrs(window).with_str("kind", kind).with_int("ceil", ceil);
                        let attrs = attrs.with_int("count_pad", count_pad).with_str("layout", "nhwc");
                        Case::new(&pool::DEF, attrs.clone(), &[&x]).check(bench);
                        Case::new(&pool::DEF, attrs, &[&x]).then("mul(x0,2.0)", &[]).stored(DType::F16).check(bench);
                    }
                }
            }
            // Places are found in f32: multiples of 1/64 leave room beside them.
            let values: Vec<f32> = x.to_f32s().unwrap().iter().map(|v| (v * 64.0).round() / 64.0).collect();
            x = Tensor::from_f32s(dtype, &dims, &values).unwrap();
            let [n, h, w, c] = dims.map(|n| n as i64);
            for (mode, coordinates) in
                [("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners")]
            {
                let attrs = Attrs::new()
                    .with_str("mode", mode)
                    .with_str("coordinates", coordinates)
                    .with_str("nearest", "floor")
                    .with_str("layout", "nhwc")
                    .with("scales", nyxc::ir::Attr::Floats(vec![1.0, 1.0, 2.0, 3.0]))
                    .with_ints("sizes", [n, c, 2 * h, 3 * w]);
                Case::new(&resize::DEF, attrs.clone(), &[&x]).check(bench);
                Case::new(&resize::DEF, attrs, &[&x]).then("neg(x0)", &[]).stored(DType::F32).check(bench);
            }
        }
    });
}

/// A convolution with channels last, and how it is divided among subgroups: images, channels, filters, groups, window,
/// variant.
type Divided = ([usize; 3], usize, usize, usize, Window, &'static str);

/// Odd sizes, channels that make vectors and such that do not, groups, padding, one image and several, and few pixels
/// with a long reduction axis, which subgroups share.
const DIVIDED: [Divided; 6] = [
    ([2, 9, 7], 16, 24, 1, WINDOWS[1], "32x32x32_16x16_1"),
    ([1, 7, 7], 64, 40, 1, WINDOWS[0], "16x32x32_16x32_2"),
    ([1, 6, 5], 32, 64, 2, WINDOWS[2], "16x16x32_16x16_4"),
    ([3, 5, 5], 72, 16, 1, ([3, 3], [1, 1], [2, 2, 2, 2], [2, 2]), "16x16x64_16x16_3"),
    ([1, 11, 13], 3, 20, 1, ([7, 7], [2, 2], [3, 3, 3, 3], [1, 1]), "32x32x32_16x16_1"),
    ([1, 4, 4], 12, 96, 4, WINDOWS[1], "32x32x32_16x32_1"),
];

fn divided_attrs((_, _, _, groups, window, _): Divided) -> Attrs {
    attrs(window).with_int("group", groups as i64).with_str("layout", "nhwc")
}

/// Runs convolutions of floats on matrices where the device has them, elsewhere on what stands in for them.
fn on_matrices(bench: &Bench, random: &mut Random, divided: Divided, (x_ty, w_ty): (DType, DType)) {
    let ([n, h, w], channels, filters, groups, window, variant) = divided;
    let ([kh, kw], own, attrs) = (window.0.map(|n| n as usize), channels / groups, divided_attrs(divided));
    let x = random.floats(x_ty, &[n, h, w, channels]);
    let floats = random.floats(w_ty, &[filters, kh, kw, own]);
    let y = conv::DEF.eval.unwrap()(&attrs, &[Some(&x), Some(&floats)]).unwrap().remove(0);
    let (bias, rest) = (random.floats(DType::F32, &[filters]), random.floats(DType::F16, &y.dims()));
    let case = Case::new(&conv::DEF, attrs, &[&x, &floats]).then("relu(add(add(x0,x1),x2))", &[&bias, &rest]);
    let case = case.stored(DType::F32).by(variant);
    case.check(bench);
    for target in &bench.targets {
        let names: Vec<_> = plan(&case, target).unwrap().iter().map(|call| call.key.name()).collect();
        let multiplies = target.features.cooperative_matrix && target.features.f16_arithmetic;
        assert_eq!(names[0].starts_with("conv_mma"), multiplies, "{names:?} on {}", target.name);
    }
}

#[test]
fn convolutions_of_f16_on_matrices() {
    on_devices(|bench| {
        let mut random = Random::new(25);
        for divided in DIVIDED {
            on_matrices(bench, &mut random, divided, (DType::F16, DType::F16));
        }
    });
}

#[test]
fn convolutions_of_f32_on_matrices() {
    on_devices(|bench| {
        let mut random = Random::new(26);
        for (divided, types) in [
            (DIVIDED[0], (DType::F32, DType::F32)),
            (DIVIDED[2], (DType::F32, DType::F16)),
            (DIVIDED[4], (DType::F32, DType::F32)),
        ] {
            on_matrices(bench, &mut random, divided, types);
        }
    });
}

#[test]
fn convolutions_of_packed_filters_on_matrices() {
    on_devices(|bench| {
        let mut random = Random::new(27);
        for (divided, packing) in [(1, 0), (2, 1), (3, 2), (1, 3), (2, 5)] {
            let divided = DIVIDED[divided];
            let ([n, h, w], channels, filters, groups, window, variant) = divided;
            let depth = channels / groups * (window.0[0] * window.0[1]) as usize;
            if !depth.is_multiple_of(32) {
                continue;
            }
            let packing = packings()[packing % packings().len()];
            let packed = random.packed(packing, &[filters, depth]);
            let bias = random.floats(DType::F32, &[filters]);
            let x = random.floats(DType::F16, &[n, h, w, channels]);
            let codes = random.packed(Packing::activation(Granularity::Tensor), &[n, h, w, channels]);
            let case = |x: &Tensor| Case::new(&conv::DEF, divided_attrs(divided), &[x, &packed]).by(variant);
            case(&x).then("add(x0,x1)", &[&bias]).check(bench);
            if !packing.scale.has_zeros() {
                case(&codes).then("add(x0,x1)", &[&bias]).check(bench);
            }
            if groups == 1 {
                let part = random.packed(packings()[0], &[9, depth]);
                let matrix = random.floats(DType::F16, &[filters, depth]);
                let case = Case::new(&conv::DEF, divided_attrs(divided), &[&x, &matrix, &part]);
                case.stored(DType::F16).by(variant).check(bench);
            }
        }
    });
}

/// What is not finite stays so, in the pixels that draw on it.
#[test]
fn convolutions_of_infinities_on_matrices() {
    on_devices(|bench| {
        let mut random = Random::new(28);
        let mut values = random.floats(DType::F32, &[1, 5, 5, 8]).to_f32s().unwrap().into_owned();
        (values[3], values[100], values[177]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
        for (x_ty, w_ty) in [(DType::F16, DType::F16), (DType::F32, DType::F32)] {
            let x = Tensor::from_f32s(x_ty, &[1, 5, 5, 8], &values).unwrap();
            let w = random.floats(w_ty, &[16, 3, 3, 8]);
            let attrs = attrs(WINDOWS[1]).with_str("layout", "nhwc");
            Case::new(&conv::DEF, attrs, &[&x, &w]).stored(DType::F32).by("16x16x32_16x16_2").check(bench);
        }
    });
}

#[test]
fn codes_made_as_convolutions_load_them() {
    on_devices(|bench| {
        let mut random = Random::new(29);
        let packings = [(Granularity::Row, ScaleType::F32), (Granularity::Block(32), ScaleType::F16)];
        for (at, divided) in [DIVIDED[0], DIVIDED[1], DIVIDED[2]].into_iter().enumerate() {
            let ([n, h, w], channels, filters, groups, window, variant) = divided;
            let (granularity, scale) = packings[at % 2];
            let k = channels / groups * (window.0[0] * window.0[1]) as usize;
            let filter = random.packed(Packing { coding: Coding::I8, granularity, scale }, &[filters, k]);
            let bias = random.floats(DType::F32, &[filters]);
            for (x_ty, largest) in
                [(DType::F32, 1e3), (DType::F16, 1.0), (DType::F32, 0.0), (DType::F32, f32::INFINITY)]
            {
                let mut values = random.floats(x_ty, &[n, h, w, channels]).to_f32s().unwrap().into_owned();
                match largest {
                    0.0 => values.fill(0.0),
                    largest => values[channels] = -largest,
                }
                let x = Tensor::from_f32s(x_ty, &[n, h, w, channels], &values).unwrap();
                let case = |x: &Tensor| {
                    let case = Case::new(&conv::DEF, divided_attrs(divided), &[x, &filter]);
                    case.then("relu(add(x0,x1))", &[&bias]).stored(DType::F32).by(variant).noting()
                };
                let codes = quantize_packed::attrs(Granularity::Tensor);
                let codes = quantize_packed::DEF.eval.unwrap()(&codes, &[Some(&x)]).unwrap().remove(0);
                let target = bench.targets[0].clone();
                // Some devices have no matrices of INT8, or smaller ones than vectors hold.
                if plan(&case(&codes), &target).unwrap().iter().all(|call| call.key.name().starts_with("conv_mma")) {
                    case(&x).on_load().check(&bench.with(target));
                }
            }
        }
        for window in [WINDOWS[1], LARGE] {
            for channels in [12, 5] {
                let x = random.floats(DType::F32, &[2, 8, 10, channels]);
                let [kh, kw] = window.0.map(|n| n as usize);
                let w = random.packed(packings_of_rows(), &[channels, kh * kw]);
                let attrs = attrs(window).with_int("group", channels as i64).with_str("layout", "nhwc");
                Case::new(&conv::DEF, attrs, &[&x, &w]).then("neg(x0)", &[]).noting().on_load().check(bench);
            }
        }
    });
}

fn packings_of_rows() -> Packing {
    Packing { coding: Coding::I8, granularity: Granularity::Row, scale: ScaleType::F16 }
}

#[test]
fn kernels_note_the_magnitude_of_what_they_store() {
    on_devices(|bench| {
        let mut random = Random::new(30);
        let mut values = random.floats(DType::F32, &[2, 9, 11, 8]).to_f32s().unwrap().into_owned();
        for extreme in [-3.0, 1e-39, f32::NEG_INFINITY, f32::NAN] {
            values[77] = extreme;
            let x = Tensor::from_f32s(DType::F32, &[2, 9, 11, 8], &values).unwrap();
            let scalar = Tensor::from_f32s(DType::F32, &[], &[2.0]).unwrap();
            let attrs_of = |window| attrs(window).with_str("layout", "nhwc");
            let expr = pointwise::attrs(Expr::parse("mul(x0,x1)").unwrap(), DType::F32);
            Case::new(&pointwise::DEF, expr, &[&x, &scalar]).noting().check(bench);
            let pools = attrs_of(WINDOWS[1]).with_str("kind", "max");
            Case::new(&pool::DEF, pools.with_int("count_pad", 0).with_int("ceil", 0), &[&x]).noting().check(bench);
            let w = random.floats(DType::F32, &[20, 3, 3, 8]);
            Case::new(&conv::DEF, attrs_of(WINDOWS[1]), &[&x, &w]).noting().by("32x32x32_16x16_1").check(bench);
            let w = random.floats(DType::F32, &[8, 3, 3, 1]);
            let each = attrs_of(WINDOWS[1]).with_int("group", 8);
            Case::new(&conv::DEF, each, &[&x, &w]).noting().check(bench);
            let x = random.packed(Packing::activation(Granularity::Tensor), &[1, 6, 5, 8]);
            let w = random.packed(packings_of_rows(), &[20, 72]);
            Case::new(&conv::DEF, attrs_of(WINDOWS[1]), &[&x, &w]).noting().check(bench);
        }
    });
}

#[test]
fn every_candidate_of_a_convolution_is_right() {
    on_devices(|bench| {
        let mut random = Random::new(42);
        let attrs = attrs(WINDOWS[1]).with_str("layout", "nhwc");
        for (i, dtype) in [DType::F16, DType::F32].into_iter().enumerate() {
            let [kh, kw] = WINDOWS[1].0.map(|n| n as usize);
            let (x, w) = (random.floats(dtype, &[1, 9, 7, 24]), random.floats(dtype, &[40, kh, kw, 24]));
            by_candidates(|| Case::new(&conv::DEF, attrs.clone(), &[&x, &w]), bench, 3 * i, 29);
        }
    });
}
