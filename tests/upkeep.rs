//! Months of a virtual network under stewards: nothing is lost within the bound, every cheater is found, and challenges find what the
//! formula says. `DOLMEN_SIM_SEED=n` runs the worlds with that seed; the seed is printed.
//!
//! The fast tier is a world of 240 nodes; `DOLMEN_LONG=1` adds the named long tier, `long_`: a thousand nodes for half a year.

use dolmen_proto::erasure::Code;
use dolmen_proto::ids::ShardIndex;
use dolmen_proto::keys::MaskSecret;
use dolmen_proto::mask::Mask;
use dolmen_proto::policy::Policy;
use dolmen_proto::root::root_of;
use dolmen_proto::segment::SegmentNonce;
use dolmen_tests::upkeep::dice::Dice;
use dolmen_tests::upkeep::{Report, Scale, run};

fn seed() -> u64 {
    std::env::var("DOLMEN_SIM_SEED").ok().map_or(1, |text| text.parse().expect("DOLMEN_SIM_SEED is a number"))
}

fn policy(text: &str) -> Policy {
    text.parse().expect("a policy of the test")
}

fn small() -> Scale {
    Scale { nodes: 240, segments: 64, days: 60, policy: policy("7/16"), cheaters_of_a_kind: 2, failures_per_year: 0.5 }
}

#[allow(clippy::print_stderr, reason = "the figures are the point of the run")]
fn world(scale: Scale) -> Report {
    let seed = seed();
    eprintln!("run it again: DOLMEN_SIM_SEED={seed} cargo test -p dolmen-tests --test upkeep -- --nocapture");
    let report = run(seed, scale);
    eprintln!("{report:#?}");
    report
}

/// What must hold of every world.
fn check(report: &Report) {
    assert_eq!(report.lost_segments, 0, "no segment lost more than m shards between repairs");
    assert_eq!(report.worst_margin, 0, "one segment was struck down to its last k shards");
    assert!(report.margin_over_floor_at_end > 0, "after ten quiet days all segments are well above the floor");
    assert_eq!(report.wronged, 0, "no honest node falls for good");
    assert!(report.published > 0 && report.rebuilds > 0);
    let per_byte = report.traffic_bytes / report.placed_bytes;
    assert!(per_byte <= 4, "repair moves {per_byte} bytes for a byte");
    for (name, caught) in &report.caught {
        assert!(caught.cheaters > 0, "{name}: no node of the kind was put to the test");
        assert_eq!(caught.found, caught.cheaters, "{name}: found by both honest stewards");
        // Four standard deviations: one world in 16,000 for each kind, if draws are as the formula says.
        assert!(caught.deviations.abs() < 4.0, "{name}: {} hits of {} challenges", caught.hits, caught.challenges);
    }
}

#[test]
fn a_small_network_loses_nothing_and_finds_its_cheaters() {
    check(&world(small()));
}

#[test]
fn the_same_seed_is_the_same_world() {
    let tiny = Scale { nodes: 150, segments: 12, days: 15, cheaters_of_a_kind: 1, ..small() };
    assert_eq!(run(3, tiny), run(3, tiny));
    assert_ne!(run(3, tiny), run(4, tiny));
}

#[test]
fn long_a_thousand_nodes_for_half_a_year() {
    if std::env::var_os("DOLMEN_LONG").is_none() {
        return;
    }
    check(&world(Scale {
        nodes: 1000,
        segments: 500,
        days: 180,
        policy: policy("16/40"),
        cheaters_of_a_kind: 8,
        failures_per_year: 0.5,
    }));
}

/// Chi-square: the sum, and the value that one run in a thousand exceeds (Wilson and Hilferty).
fn chi_square(found: &[f64], expected: &[f64]) -> (f64, f64) {
    let sum = found.iter().zip(expected).map(|(found, expected)| (found - expected).powi(2) / expected).sum();
    let freedom = found.len() as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    (sum, freedom * (1.0 - spread + 3.09 * spread.sqrt()).powi(3))
}

#[test]
#[allow(clippy::print_stderr, reason = "the figures are the point of the run")]
fn the_audit_at_which_a_cheater_is_found_follows_the_formula() {
    let blocks = 100_000;
    for (missing, samples) in [(100usize, 64u32), (1000, 64), (10_000, 8), (50_000, 2)] {
        let mut dice = Dice::new(seed() ^ missing as u64);
        let share = missing as f64 / f64::from(blocks);
        let found_by_one = 1.0 - (1.0 - share).powi(i32::try_from(samples).expect("few"));
        let cheaters = 4000;
        // As many audits as leave fifty cheaters for what comes after them.
        let bins =
            (1..100).take_while(|audits| f64::from(cheaters) * (1.0 - found_by_one).powi(*audits) > 50.0).count() + 1;
        let mut found = vec![0.0; bins + 1];
        let mut hours = 0usize;
        for _ in 0..cheaters {
            let mut audits = 0;
            while !(0..samples).any(|_| dice.below(blocks as usize) < missing) && audits < 5000 {
                audits += 1;
            }
            hours += audits + 1;
            found[audits.min(bins)] += 1.0;
        }
        let mut expected: Vec<f64> = (0..bins)
            .map(|audits| {
                f64::from(cheaters) * found_by_one * (1.0 - found_by_one).powi(i32::try_from(audits).expect("few"))
            })
            .collect();
        expected.push(f64::from(cheaters) * (1.0 - found_by_one).powi(i32::try_from(bins).expect("few")));
        let (sum, limit) = chi_square(&found, &expected);
        eprintln!(
            "{} of 1,000 blocks missing, {samples} samples: found at audit {:.2} on average, the formula says {:.2}; chi-square {sum:.1} of {limit:.1}",
            missing / 100,
            hours as f64 / f64::from(cheaters),
            1.0 / found_by_one
        );
        assert!(sum < limit, "{missing} of {blocks} missing: {found:?}, expected {expected:?}");
    }
}

/// Colluding neighbours hold every other shard of a segment and try to rebuild the one that a node threw away.
#[test]
fn neighbours_cannot_rebuild_a_shard_without_the_mask() {
    let policy = policy("4/10");
    let mask = Mask::new(&MaskSecret::new([9; 32]), &SegmentNonce::new([3; 32]), policy);
    let mut dice = Dice::new(seed());
    let data: Vec<Vec<u8>> = (0..4).map(|_| (0..2048).flat_map(|_| dice.bits().to_le_bytes()).collect()).collect();
    let mut parity = vec![vec![0; 16_384]; 6];
    let coder = Code::new(policy);
    let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut targets: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&slices, &mut targets).expect("a legal code");
    let mut stored: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
    for (index, shard) in (0u8..).zip(&mut stored) {
        mask.apply(ShardIndex::new(index), 0, shard);
    }
    for lost in 0..10u8 {
        let root = root_of(&stored[usize::from(lost)]);
        let others: Vec<u8> = (0..10).filter(|index| *index != lost).collect();
        // Every way to take four neighbours: none gives the shard, in whole or in its first block.
        for choice in 0u32..1 << 9 {
            if choice.count_ones() != 4 {
                continue;
            }
            let chosen: Vec<u8> = (0..9).filter(|place| choice >> place & 1 == 1).map(|place| others[place]).collect();
            let present: Vec<(ShardIndex, &[u8])> =
                chosen.iter().map(|index| (ShardIndex::new(*index), stored[usize::from(*index)].as_slice())).collect();
            let mut made = vec![0; 16_384];
            coder
                .rebuild(&present, &mut [(ShardIndex::new(lost), made.as_mut_slice())])
                .expect("four are enough for the code");
            assert_ne!(root_of(&made), root, "shard {lost} from {chosen:?}");
            assert_ne!(made[..1024], stored[usize::from(lost)][..1024], "shard {lost} from {chosen:?}");
        }
        // A steward, who has the mask, can.
        let unmasked: Vec<(ShardIndex, Vec<u8>)> = others[..4]
            .iter()
            .map(|index| {
                let mut shard = stored[usize::from(*index)].clone();
                mask.apply(ShardIndex::new(*index), 0, &mut shard);
                (ShardIndex::new(*index), shard)
            })
            .collect();
        let present: Vec<(ShardIndex, &[u8])> =
            unmasked.iter().map(|(index, shard)| (*index, shard.as_slice())).collect();
        let mut made = vec![0; 16_384];
        coder.rebuild(&present, &mut [(ShardIndex::new(lost), made.as_mut_slice())]).expect("enough");
        mask.apply(ShardIndex::new(lost), 0, &mut made);
        assert_eq!(root_of(&made), root, "shard {lost}");
    }
}

/// The plot of docs/proofs.md: hours on a logarithmic axis, the share of cheaters found, one line for each missing share.
fn plot() -> String {
    let (left, top, width, height) = (60.0, 20.0, 600.0, 300.0);
    let x = |hours: f64| left + width * hours.log10() / 3.0;
    let y = |share: f64| top + height * (1.0 - share);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 380\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"700\" height=\"380\" fill=\"white\"/>\n",
    );
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        svg += &format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ccc\"/>\n");
    };
    let ticks = [(1.0, "1 h"), (10.0, "10 h"), (24.0, "a day"), (168.0, "a week"), (1000.0, "1,000 h")];
    ticks.iter().for_each(|(hours, _)| line(x(*hours), y(0.0), x(*hours), y(1.0)));
    let shares = [(0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")];
    shares.iter().for_each(|(share, _)| line(left, y(*share), left + width, y(*share)));
    for (hours, name) in ticks {
        svg += &format!("<text x=\"{:.1}\" y=\"340\" text-anchor=\"middle\">{name}</text>\n", x(hours));
    }
    for (share, name) in shares {
        svg += &format!("<text x=\"52\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\n", y(share) + 4.0);
    }
    for (place, missing, name, colour) in [
        (0, 0.0001f64, "0.01 %", "#666666"),
        (1, 0.001, "0.1 %", "#1b6ca8"),
        (2, 0.01, "1 %", "#c0392b"),
        (3, 0.1, "10 %", "#218c53"),
    ] {
        let points = (0..=120).map(|step| {
            let hours = 10f64.powf(f64::from(step) / 40.0);
            let found = 1.0 - (1.0 - missing).powf(64.0 * hours);
            format!("{:.1},{:.1}", x(hours), y(found))
        });
        let points = points.collect::<Vec<_>>().join(" ");
        svg += &format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n");
        let row = 200 + 20 * place;
        svg += &format!("<text x=\"560\" y=\"{row}\" fill=\"{colour}\">{name} missing</text>\n");
    }
    svg + "<text x=\"360\" y=\"365\" text-anchor=\"middle\">time, at 64 samples an hour</text>\n</svg>\n"
}

#[test]
fn the_plot_in_the_docs_is_that_of_the_formula() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/detection.svg");
    if std::env::var_os("DOLMEN_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, plot()).expect("the plot can be written");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("the plot is there"), plot());
}
