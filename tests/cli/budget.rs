//! `--budget`: in words, the smallest that compiles, and what of it the ledger accounts for.

use super::*;

#[test]
fn min_is_the_smallest_budget_max_what_f32_needs_and_percentages_lie_between() {
    for (model, more) in [
        (mlp(), &["--dim", "batch=8"][..]),
        (mlp(), &["--reserve", "10K", "--formats", "f32,w8a16"]),
        (model("ppocr-cls.onnx"), &["--dim", "x.2=48", "--dim", "x.3=48"]),
    ] {
        let with = |budget: &str| {
            let mut args = vec![&model[..], "--target", "lavapipe", "--budget", budget];
            args.extend(more);
            plan(&args)
        };
        let (min, max, half) = (with("min"), with("max"), with("50%"));
        let reserve = bytes(&min["ledger"]["reserve"]);
        let (least, most) = (bytes(&min["budget_bytes"]), bytes(&max["budget_bytes"]));
        // The smallest budget is one byte above what is refused, and names itself.
        assert_eq!(least, bytes(&min["min_feasible_bytes"]) + reserve, "{more:?}");
        assert_eq!(bytes(&min["planned_peak_bytes"]) + reserve, least, "{more:?}");
        let below = (least - 1).to_string();
        let mut args = vec!["compile", &model, "--dry-run", "--target", "lavapipe", "--budget", &below];
        args.extend(more);
        nyxc(&args).exits(4);
        // The largest holds f32 throughout, to the byte.
        assert_eq!(bytes(&max["planned_peak_bytes"]) + reserve, most, "{more:?}");
        assert!(formats(&max).iter().all(|(_, format)| format == "f32"), "{:?}", formats(&max));
        assert_eq!(bytes(&half["budget_bytes"]), least + (most - least) / 2, "{more:?}");
        assert_eq!((&half["budget_percent"], &min["budget_percent"]), (&50.0.into(), &0.0.into()));
        assert!(bytes(&half["planned_peak_bytes"]) + reserve <= bytes(&half["budget_bytes"]));
        assert_eq!(with(&most.to_string())["budget_percent"], Value::Null);
    }
}

/// The smallest feasible budget that the error names is feasible, and one byte less is not.
#[track_caller]
fn smallest_budget_is_exact(args: &[&str]) {
    let with = |budget: u64| {
        let budget = budget.to_string();
        let mut all = vec!["compile", "--dry-run", "--json", "--budget", &budget];
        all.extend(args);
        nyxc(&all)
    };
    let done = with(1000).exits(4);
    let error = &done.json()["error"];
    assert_eq!(error["kind"], "over_budget");
    assert_eq!(bytes(&error["budget_bytes"]), 1000);
    let least = bytes(&error["min_feasible_bytes"]);
    assert!(bytes(&error["needed_bytes"]) >= least && done.err.contains(&least.to_string()), "{error:#}");
    let report = with(least).exits(0).json();
    // A plan of fewer bytes would itself be proof of a smaller budget.
    assert_eq!(bytes(&report["planned_peak_bytes"]), least, "{args:?}");
    assert_eq!(bytes(&report["min_feasible_bytes"]), least, "{args:?}");
    let again = with(least - 1).exits(4).json();
    assert_eq!(bytes(&again["error"]["min_feasible_bytes"]), least, "{args:?}");
}

#[test]
fn over_budget_exits_with_4_and_the_smallest_budget_that_compiles() {
    for target in nyxc::targets::shipped_names() {
        smallest_budget_is_exact(&[&mlp(), "--target", target]);
    }
    smallest_budget_is_exact(&[&mlp(), "--target", "lavapipe", "--formats", "f32,w8a16"]);
    smallest_budget_is_exact(&[&mlp(), "--target", "lavapipe", "--policy", "uniform:w4a16"]);
    smallest_budget_is_exact(&[&mlp(), "--target", "lavapipe", "--dim", "batch=64"]);
}

#[test]
fn the_smallest_budget_is_exact_where_a_node_is_pinned() {
    for target in nyxc::targets::shipped_names() {
        smallest_budget_is_exact(&[&mlp(), "--target", target, "--precision", "g0=f32"]);
    }
}

#[test]
fn the_smallest_budget_is_exact_for_a_convolutional_classifier() {
    smallest_budget_is_exact(&[&model("ppocr-cls.onnx"), "--target", "lavapipe", "--dim", "x.2=48", "--dim", "x.3=48"]);
}

#[test]
fn over_budget_leaves_no_file() {
    let folder = Folder::new("over");
    nyxc(&["compile", &mlp(), "--budget", "30K", "-o", &folder.file("mlp.nyx")]).exits(4);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn the_ledger_adds_up_to_the_planned_peak() {
    for target in nyxc::targets::shipped_names() {
        for options in [
            &["--budget", "400K"][..],
            &["--policy", "uniform:w8a8"],
            &["--policy", "uniform:f16", "--dim", "batch=16"],
            &["--budget", "1M", "--reserve", "512K"],
        ] {
            let model = mlp();
            let mut args = vec![&model[..], "--target", target];
            args.extend(options);
            let report = plan(&args);
            for key in ["target", "policy", "lower_bound_bytes", "min_feasible_bytes", "f32_bytes", "certificate"] {
                assert!(report.get(key).is_some(), "compile --json has no {key}");
            }
            for key in ["objective", "bound", "gap", "solver", "seconds"] {
                assert!(report["certificate"].get(key).is_some(), "the certificate has no {key}");
            }
            let ledger = report["ledger"].as_object().unwrap();
            let kinds: Vec<&str> = ledger.keys().map(String::as_str).collect();
            assert_eq!(
                kinds,
                ["activations", "constants", "io", "reserve", "staging", "state", "weights", "workspace"]
            );
            let sum: u64 = ledger.iter().filter(|(kind, _)| *kind != "reserve").map(|(_, v)| bytes(v)).sum();
            let peak = bytes(&report["planned_peak_bytes"]);
            assert_eq!(sum, peak, "{target} {options:?}: {ledger:?}");
            assert!(peak + bytes(&ledger["reserve"]) <= bytes(&report["budget_bytes"]), "{target} {options:?}");
            assert!(bytes(&report["lower_bound_bytes"]) <= peak, "{target} {options:?}");
        }
    }
}
