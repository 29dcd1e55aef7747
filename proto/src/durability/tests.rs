//! Tests of the model: against hand arithmetic, against itself played out, and its directions.

use super::*;

fn policy(text: &str) -> Policy {
    text.parse().expect("a policy of the test")
}

fn shocks(domains: u32, failures_per_year: f64) -> Shocks {
    Shocks { domains, failures_per_year }
}

fn model(text: &str, rate: f64, hours: f64, operators: Shocks, regions: Shocks) -> Model {
    Model::new(policy(text), rate, hours, operators, regions).expect("a model of the test")
}

fn close(found: f64, expected: f64, part: f64) -> bool {
    (found - expected).abs() <= expected.abs() * part
}

#[test]
fn without_redundancy_and_with_two_copies_it_is_what_a_hand_finds() {
    let single = model("1/1", 0.3, 24.0, Shocks::NONE, Shocks::NONE).loss_probability(2.0).expect("a time");
    assert!(close(single, 1.0 - (-0.6f64).exp(), 1e-12), "{single}");
    // Two copies, failures rare beside repair: the classic 2 lambda^2 / mu a year.
    let (rate, hours) = (0.1, 8.766);
    let pair = model("1/2", rate, hours, Shocks::NONE, Shocks::NONE).loss_probability(1.0).expect("a time");
    assert!(close(pair, 2.0 * rate * rate / 1000.0, 0.01), "{pair}");
    // No repair in time: binomial.
    let never = model("1/2", rate, 1e6, Shocks::NONE, Shocks::NONE).loss_probability(1.0).expect("a time");
    let dead = 1.0 - (-rate).exp();
    assert!(close(never, dead * dead, 0.02), "{never}");
}

#[test]
fn a_shock_that_takes_everything_loses_everything() {
    let one_region = model("4/8", 0.0, 24.0, Shocks::NONE, shocks(1, 0.5)).loss_probability(1.0).expect("a time");
    assert!(close(one_region, 1.0 - (-0.5f64).exp(), 1e-12), "{one_region}");
    let two_halves = model("4/8", 0.0, 0.01, Shocks::NONE, shocks(2, 0.5)).loss_probability(1.0).expect("a time");
    assert!(two_halves < 1e-3, "a half can be borne: {two_halves}");
}

#[test]
fn arithmetic_and_chance_agree_where_loss_is_frequent() {
    let cases = [
        model("1/2", 1.0, 200.0, Shocks::NONE, Shocks::NONE),
        model("2/4", 1.5, 500.0, shocks(4, 0.3), Shocks::NONE),
        model("4/8", 1.0, 1500.0, shocks(3, 0.4), shocks(2, 0.2)),
        model("7/16", 1.2, 2500.0, shocks(16, 0.1), shocks(5, 0.3)),
        model("16/40", 2.0, 3000.0, shocks(11, 0.4), shocks(7, 0.3)),
    ];
    for (number, model) in (0u64..).zip(cases) {
        let exact = model.loss_probability(1.0).expect("a time");
        let trials = 40_000u32;
        let played = model.play(1.0, trials.into(), 7 + number).expect("trials");
        assert!(exact > 0.005 && exact < 0.9, "{model:?}: loss is frequent, but not certain: {exact}");
        // Four standard errors: one run in 16,000 would be outside by chance, and the seeds are fixed.
        let error = 4.0 * (exact * (1.0 - exact) / f64::from(trials)).sqrt();
        let found = played.loss_probability();
        assert!((found - exact).abs() < error, "{model:?}: exact {exact}, played {found}");
        assert!(played.rebuilt_shards >= played.repairs * u64::from(repair::trigger(model.policy)));
        let (low, high) = played.interval_95();
        assert!(low < found && found < high && high - low < 0.03);
    }
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let model = model("4/8", 1.0, 1500.0, shocks(3, 0.4), shocks(2, 0.2));
    assert_eq!(model.play(1.0, 2000, 3), model.play(1.0, 2000, 3));
    assert_ne!(model.play(1.0, 2000, 3), model.play(1.0, 2000, 4));
}

#[test]
fn more_failures_slower_repair_and_fewer_domains_are_never_safer() {
    for text in ["1/2", "2/4", "3/6", "7/16", "16/40", "1/64", "63/64"] {
        let loss = |rate, hours, operators, regions| {
            model(text, rate, hours, shocks(operators, 0.05), shocks(regions, 0.01))
                .loss_probability(1.0)
                .expect("a time")
        };
        let base = loss(0.2, 48.0, 20, 8);
        assert!(base > 0.0 && base <= 1.0, "{text}: {base}");
        assert!(loss(0.4, 48.0, 20, 8) > base && loss(0.2, 96.0, 20, 8) > base, "{text}");
        let alone = model(text, 0.2, 48.0, shocks(20, 0.05), shocks(8, 0.01)).independent();
        assert!(alone.loss_probability(1.0).expect("a time") < base, "{text}");
    }
    // Wide codes: far below what could be played, and still a number.
    let far = model("16/40", 0.2, 48.0, Shocks::NONE, Shocks::NONE).loss_probability(1.0).expect("a time");
    assert!(far > 0.0 && nines(far) > 20.0, "{far}");
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    let make = |rate, hours, shocks| Model::new(policy("4/8"), rate, hours, shocks, Shocks::NONE);
    for rate in [-0.1, f64::NAN, f64::INFINITY, 1001.0] {
        assert!(matches!(make(rate, 24.0, Shocks::NONE), Err(DurabilityError::Rate { .. })));
        assert!(matches!(make(0.1, 24.0, shocks(3, rate)), Err(DurabilityError::Rate { .. })));
    }
    for hours in [0.0, -1.0, f64::NAN, 1e9] {
        assert!(matches!(make(0.1, hours, Shocks::NONE), Err(DurabilityError::RepairHours(_))));
    }
    assert_eq!(make(0.1, 24.0, shocks(100_001, 0.1)), Err(DurabilityError::Domains(100_001)));
    let good = make(0.1, 24.0, Shocks::NONE).expect("a model");
    for years in [0.0, -1.0, f64::NAN, 1e9] {
        assert!(matches!(good.loss_probability(years), Err(DurabilityError::Years(_))));
    }
    assert_eq!(good.play(1.0, 0, 1), Err(DurabilityError::Trials(0)));
}

#[test]
fn nines_and_many_segments() {
    assert!(close(nines(1e-11), 11.0, 1e-12) && nines(1.0) == 0.0 && nines(0.0).is_infinite());
    assert!(close(of_many(1e-20, 1e6), 1e-14, 1e-9));
    assert!(close(of_many(0.5, 2.0), 0.75, 1e-12));
}
