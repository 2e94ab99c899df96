//! `--budget` in words.

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
