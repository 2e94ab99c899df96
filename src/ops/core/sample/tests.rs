//! Coordinates that lie outside an image.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn sampled(mode: &str, padding: &str, align: i64, width: usize, points: &[f32]) -> Vec<f32> {
    let row: Vec<f32> = (0..width).map(|i| i as f32 + 1.0).collect();
    let x = Tensor::from_f32s(DType::F32, &[1, 1, width], &row).unwrap();
    let grid = Tensor::from_f32s(DType::F32, &[1, points.len(), 1], points).unwrap();
    let attrs = Attrs::new().with_str("mode", mode).with_str("padding_mode", padding).with_int("align_corners", align);
    eval_grid(&attrs, &[Some(&x), Some(&grid)]).unwrap()[0].to_f32s().unwrap().into_owned()
}

#[test]
fn far_and_infinite_coordinates_are_the_border_or_nothing() {
    const FAR: [f32; 10] = [f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 1e10, -1e10, 5.0, -5.0, f32::MAX, f32::MIN];
    for mode in ["nearest", "linear", "cubic"] {
        for align in [0, 1] {
            let expected = [4.0, 1.0, 4.0, 1.0, 4.0, 1.0, 4.0, 1.0, 4.0, 1.0];
            assert_eq!(sampled(mode, "border", align, 4, &FAR), expected, "{mode} {align}");
            assert_eq!(sampled(mode, "border", align, 1, &FAR), [1.0; 10], "{mode} {align}");
            assert_eq!(sampled(mode, "zeros", align, 4, &FAR), [0.0; 10], "{mode} {align}");
            for width in [1, 4] {
                let thrown_back = sampled(mode, "reflection", align, width, &FAR);
                assert!(thrown_back.iter().all(|v| (0.5..=width as f32 + 0.5).contains(v)), "{thrown_back:?}");
                assert_eq!(thrown_back[..2], [thrown_back[0]; 2], "{mode} {align}");
                let nan = |padding| sampled(mode, padding, align, width, &[f32::NAN]);
                assert_eq!([nan("zeros"), nan("border")], [[0.0], [1.0]], "{mode} {align}");
                assert_eq!(nan("reflection"), thrown_back[..1], "{mode} {align}");
            }
        }
    }
}

#[test]
fn reflection_is_exact_however_far_a_coordinate_is() {
    // Places 0 to 3, a period of 6: the coordinate v is the place 1.5 * (v + 1).
    let expected = |v: f32| {
        let at = f64::from((v + 1.0) / 2.0 * 3.0).rem_euclid(6.0);
        (if at > 3.0 { 6.0 - at } else { at }) as f32 + 1.0
    };
    let points = [0.25f32, 1.5, -2.75, 9.0, 1e3, -1e5, 12_345_678.0, 1e9, -3e20, 1e30];
    let given = sampled("linear", "reflection", 1, 4, &points);
    for (v, given) in points.into_iter().zip(given) {
        assert!((given - expected(v)).abs() < 1e-6, "{v}: {given}, not {}", expected(v));
    }
}
