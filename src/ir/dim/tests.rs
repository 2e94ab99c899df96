//! Sizes.

use super::*;

#[test]
fn sums_and_products_have_one_normal_form() {
    let (seq, past) = (Dim::symbol("seq"), Dim::symbol("past"));
    assert_eq!(&(&seq + &past) - &past, seq);
    assert_eq!(&seq * &past, &past * &seq);
    assert_eq!((&(&seq + &seq) + &Dim::Known(1)).to_string(), "2*seq+1");
    assert_eq!(&seq - &seq, Dim::Known(0));
}

#[test]
fn bounds_are_reached_where_a_size_only_rises_or_falls() {
    let (n, m) = (Dim::ranged("n", 1, 37), Dim::ranged("m", 0, 5));
    let one = Dim::Known(1);
    let half = n.floor_div(&Dim::Known(2)).unwrap();
    for (dim, bounds) in [
        (&(&n - &one) * &n, (0, 37 * 36)),
        (&(&(&n - &one) * &n) * &m, (0, 37 * 36 * 5)),
        (&half * &(&n - &one), (0, 18 * 36)),
        (&(&Dim::Known(40) - &n) * &Dim::Known(2), (6, 78)),
        // It falls in n and rises in m.
        (&(&Dim::Known(38) - &n) * &m, (0, 37 * 5)),
        // It rises and falls: each term for itself.
        (&(&n * &m) - &(&m * &Dim::Known(3)), (-15, 37 * 5)),
    ] {
        assert_eq!(dim.bounds(), bounds, "{dim}");
    }
}

#[test]
fn floor_division_folds_where_it_can() {
    let seq = Dim::symbol("seq");
    assert_eq!((&seq + &seq).floor_div(&Dim::Known(2)), Some(seq.clone()));
    let half = (&seq + &Dim::Known(1)).floor_div(&Dim::Known(2)).unwrap();
    assert_eq!(half.to_string(), "floordiv(seq+1,2)");
    assert_eq!(half.eval(&|_| Some(4)), Some(2));
    assert_eq!(seq.floor_div(&Dim::Known(0)), None);
}

#[test]
fn quotients_have_one_normal_form() {
    let n = Dim::ranged("n", 1, 40);
    let times = |k: i64, add: i64| &(&n * &Dim::Known(k)) + &Dim::Known(add);
    let div = |dim: &Dim, by: i64| dim.floor_div(&Dim::Known(by)).unwrap();
    assert_eq!(div(&times(32, 31), 32), n);
    assert_eq!(div(&times(32, -1), 32), &n - &Dim::Known(1));
    assert_eq!(div(&div(&times(3, 1), 2), 2), div(&times(3, 1), 4));
    // Halving three times, rounded up each time, as strided convolutions do.
    let halve = |dim: &Dim| &div(&(dim + &Dim::Known(-1)), 2) + &Dim::Known(1);
    assert_eq!(halve(&halve(&halve(&times(8, 0)))), n);
    for (dim, at) in [(halve(&halve(&times(1, 0))), 7), (times(3, 1).div_ceil(128), 40), (div(&times(5, -9), 4), 1)] {
        let value = dim.eval(&|_| Some(at)).unwrap();
        let (low, high) = dim.bounds();
        assert!((low..=high).contains(&value), "{dim} is {value}, bounds {low}..{high}");
    }
    assert_eq!(halve(&halve(&n)).eval(&|_| Some(7)), Some(2));
    assert_eq!(div(&times(5, -9), 4).eval(&|_| Some(1)), Some(-1));
}

#[test]
fn forms_decide_minima_where_they_can() {
    let (seq, past) = (Dim::ranged("seq", 1, 64), Dim::ranged("past", 0, 512));
    assert_eq!(Dim::least(&seq, &Dim::Known(i64::MAX)), seq);
    assert_eq!(Dim::larger(&seq, &Dim::Known(1)), seq);
    assert_eq!(Dim::least(&seq, &Dim::Known(64)), seq);
    assert_eq!(Dim::least(&seq, &Dim::Known(63)).to_string(), "min(63,seq)");
    let both = Dim::least(&past, &seq);
    assert_eq!(both, Dim::least(&seq, &past));
    assert_eq!((both.to_string().as_str(), both.bounds()), ("min(past,seq)", (0, 64)));
    assert_eq!((&past + &seq).bounds(), (1, 576));
    assert_eq!((&past - &seq).bounds(), (-64, 511));
    assert_eq!(Dim::symbol("n").most(), None);
    let doubled = (&(&seq + &past) - &past).substitute(&|s| (s.name() == "seq").then_some(Dim::Known(3)));
    assert_eq!(doubled, Dim::Known(3));
    assert_eq!(
        (&(&seq * &Dim::Known(32)) + &Dim::Known(1)).solve(97).map(|(s, n)| (s.name().to_owned(), n)),
        Some(("seq".to_owned(), 3))
    );
    assert!((&seq * &Dim::Known(32)).solve(97).is_none());
}

#[test]
fn minima_and_maxima_fold_by_what_holds_at_every_size() {
    let (s, p, rows) = (Dim::ranged("s", 1, 6), Dim::ranged("p", 0, 9), Dim::Known(448));
    let (total, zero, one) = (&p + &s, Dim::Known(0), Dim::Known(1));
    let free = Dim::symbol("free");
    let wide = Dim::ranged("wide", 1, 500);
    let cut = Dim::least(&wide, &rows);
    let half = |dim: &Dim| dim.floor_div(&Dim::Known(2)).unwrap();
    for (a, b) in [
        (&p, &total),
        (&s, &total),
        (&zero, &p),
        (&one, &s),
        (&cut, &rows),
        (&cut, &wide),
        (&half(&wide), &wide),
        (&half(&(&wide + &one)), &wide),
        (&(&total - &one), &(&free + &Dim::Known(14))),
        (&Dim::larger(&p, &s), &total),
        (&zero, &(&wide - &half(&wide))),
    ] {
        assert!(a.at_most(b), "{a} <= {b}");
        assert_eq!((Dim::least(a, b), Dim::larger(a, b)), (a.clone(), b.clone()), "{a} <= {b}");
    }
    // A range of one size has the forms of a wider one.
    let (none, one_only) = (Dim::ranged("none", 0, 0), Dim::ranged("one", 1, 1));
    assert_eq!((Dim::larger(&none, &zero), Dim::larger(&one_only, &one)), (none.clone(), one_only.clone()));
    assert_eq!((Dim::least(&one, &one_only), Dim::least(&zero, &none)), (one.clone(), zero.clone()));
    for (a, b) in [(&wide, &rows), (&p, &s), (&s, &p), (&total, &wide), (&free, &wide), (&wide, &half(&wide))] {
        assert!(!a.at_most(b), "{a} <= {b}");
    }
    // What has grown too large to be true proves nothing.
    let huge = &wide * &Dim::Known(i64::MAX);
    assert!(!(&huge + &huge).at_most(&wide));
}

#[test]
fn equal_sizes_of_two_forms_are_equal() {
    let two = Dim::ranged("n", 2, 2);
    let folded = &(&Dim::Known(0) - &two).floor_div(&Dim::Known(2)).unwrap() + &Dim::Known(2);
    assert!(folded.is_always(&Dim::Known(1)) && Dim::Known(1).is_always(&folded), "{folded}");
    let wider = Dim::ranged("n", 1, 2);
    assert!(!wider.is_always(&Dim::Known(1)) && !wider.is_always(&Dim::Known(2)));
}

#[test]
fn comparisons_are_right_at_every_size() {
    let atoms = [Dim::ranged("n", 0, 4), Dim::ranged("m", 1, 3), Dim::Known(2), Dim::Known(-1)];
    let mut all: Vec<Dim> = atoms.to_vec();
    for a in &atoms {
        for b in &atoms {
            all.extend([a + b, a - b, a * b, Dim::least(a, b), Dim::larger(a, b)]);
            all.extend((a + b).floor_div(&Dim::Known(2)));
            all.extend((a - b).floor_div(&Dim::Known(3)));
        }
    }
    all.sort();
    all.dedup();
    let sizes: Vec<(i64, i64)> = (0..5).flat_map(|n| (1..4).map(move |m| (n, m))).collect();
    let at = |dim: &Dim, (n, m): (i64, i64)| dim.eval(&|name| Some(if name == "n" { n } else { m })).unwrap();
    let mut n_proven = 0;
    for a in &all {
        for b in &all {
            let is_proven = a.at_most(b);
            n_proven += usize::from(is_proven);
            let (least, larger) = (Dim::least(a, b), Dim::larger(a, b));
            for &size in &sizes {
                let (x, y) = (at(a, size), at(b, size));
                assert!(!is_proven || x <= y, "{a} <= {b} at {size:?}");
                assert_eq!((at(&least, size), at(&larger, size)), (x.min(y), x.max(y)), "{a}, {b} at {size:?}");
            }
        }
    }
    assert!(n_proven > all.len() * 8, "{n_proven} of {} pairs", all.len() * all.len());
}

#[test]
fn sizes_that_grow_without_end_saturate() {
    let (mut nested, mut doubled, mut powers) = (Dim::symbol("n"), Dim::symbol("n"), Dim::symbol("n"));
    for i in 0..200 {
        nested = (&nested + &Dim::Known(1)).floor_div(&Dim::Known(2)).unwrap();
        doubled = &(&doubled.floor_div(&Dim::Known(2)).unwrap() + &doubled.floor_div(&Dim::Known(3)).unwrap())
            + &Dim::Known(i);
        powers = &powers * &(&powers + &Dim::symbol("m"));
    }
    for dim in [nested, doubled, powers] {
        assert!(dim.known().is_some_and(|n| n > 1 << 40 || n == 0) || dim.to_string().len() < 100_000, "{dim}");
    }
}
