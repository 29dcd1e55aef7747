//! `dolmen durability`: how likely loss is, from a stated model, beside the same model played out.
//!
//! Decides what is printed and what is said about it. The model is `dolmen_proto::durability`; nothing is asked of any network.

use dolmen_proto::durability::{DurabilityError, Model, Shocks, nines, of_many};
use dolmen_proto::repair;
use serde::Serialize;

use crate::arguments::Durability;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// What `--json` prints for one set of causes.
#[derive(Debug, Clone, Serialize)]
struct Row {
    causes: &'static str,
    loss_probability: f64,
    nines: Option<f64>,
    all_segments_loss_probability_at_most: f64,
    played_loss_probability: f64,
    played_low_95: f64,
    played_high_95: f64,
    played_losses: u64,
    traffic_per_rebuilt_byte: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Answer {
    k: u8,
    n: u8,
    years: f64,
    trigger_lost_shards: u8,
    hard_floor_shards: u8,
    node_failure_rate: f64,
    repair_hours: f64,
    operators: u32,
    operator_failure_rate: f64,
    regions: u32,
    region_failure_rate: f64,
    segments: u64,
    trials: u64,
    seed: u64,
    rows: Vec<Row>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`] of usage when a number is out of range.
pub fn run(context: &Context, arguments: &Durability) -> Result<Exit, Failure> {
    let answer = answer(arguments).map_err(|error| {
        Failure::usage(format!("these numbers make no model: {error}"), "see dolmen durability --help")
    })?;
    print(context, &answer);
    context.terminal().json(&answer);
    Ok(Exit::Ok)
}

fn answer(arguments: &Durability) -> Result<Answer, DurabilityError> {
    let policy = arguments.policy;
    let operators = Shocks { domains: arguments.operators, failures_per_year: arguments.operator_failure_rate };
    let regions = Shocks { domains: arguments.regions, failures_per_year: arguments.region_failure_rate };
    let model = Model::new(policy, arguments.node_failure_rate, arguments.repair_hours, operators, regions)?;
    let causes = [
        ("nodes, each by itself", model.independent()),
        ("nodes and operators", model.without_regions()),
        ("nodes, operators and regions", model),
    ];
    let row = |(causes, model): (&'static str, Model)| {
        let loss_probability = model.loss_probability(arguments.years)?;
        let played = model.play(arguments.years, arguments.trials, arguments.seed)?;
        let (played_low_95, played_high_95) = played.interval_95();
        #[allow(clippy::cast_precision_loss, reason = "a number of segments for an estimate")]
        let segments = arguments.segments as f64;
        Ok(Row {
            causes,
            loss_probability,
            nines: Some(nines(loss_probability)).filter(|nines| nines.is_finite()),
            all_segments_loss_probability_at_most: of_many(loss_probability, segments),
            played_loss_probability: played.loss_probability(),
            played_low_95,
            played_high_95,
            played_losses: played.losses,
            traffic_per_rebuilt_byte: played.traffic_per_rebuilt_byte(),
        })
    };
    Ok(Answer {
        k: policy.k(),
        n: policy.n(),
        years: arguments.years,
        trigger_lost_shards: repair::trigger(policy),
        hard_floor_shards: repair::hard_floor(policy),
        node_failure_rate: arguments.node_failure_rate,
        repair_hours: arguments.repair_hours,
        operators: arguments.operators,
        operator_failure_rate: arguments.operator_failure_rate,
        regions: arguments.regions,
        region_failure_rate: arguments.region_failure_rate,
        segments: arguments.segments,
        trials: arguments.trials,
        seed: arguments.seed,
        rows: causes.into_iter().map(row).collect::<Result<_, _>>()?,
    })
}

fn print(context: &Context, answer: &Answer) {
    let terminal = context.terminal();
    let (k, n) = (answer.k, answer.n);
    let years =
        if answer.years.to_bits() == 1f64.to_bits() { "a year".to_owned() } else { format!("{} years", answer.years) };
    terminal.result(&format!("How likely a segment under {k}/{n} is lost within {years}"));
    terminal.result("");
    let heading = ["what fails", "loss", "nines", "played", "95 % of runs between", "traffic/rebuilt"];
    let rows = answer.rows.iter().map(|row| {
        vec![
            row.causes.to_owned(),
            format!("{:.2e}", row.loss_probability),
            row.nines.map_or_else(|| "no loss".to_owned(), |nines| format!("{nines:.1}")),
            format!("{} of {}", row.played_losses, answer.trials),
            format!("{:.2e} and {:.2e}", row.played_low_95, row.played_high_95),
            row.traffic_per_rebuilt_byte.map_or_else(|| "-".to_owned(), |traffic| format!("{traffic:.1}")),
        ]
    });
    terminal.table(&heading, rows.collect());
    let last = answer.rows.last().map_or(0.0, |row| row.all_segments_loss_probability_at_most);
    for line in [
        String::new(),
        format!("Any of {} segments lost, from all causes: at most {last:.2e}.", answer.segments),
        String::new(),
        format!(
            "The model: nodes fail for good {} times a year each; {} operators {} times and {} regions {} times a year as a whole,",
            answer.node_failure_rate,
            answer.operators,
            answer.operator_failure_rate,
            answer.regions,
            answer.region_failure_rate
        ),
        format!(
            "with the shards spread evenly. At {} lost shards a repair begins that brings all back, on average {} hours after",
            answer.trigger_lost_shards, answer.repair_hours
        ),
        "that loss, the time to notice it included. \"Loss\" is computed; \"played\" is the same model, played with dice.".to_owned(),
        String::new(),
        "It does not say: that the rates are yours; what failures of the software, of the owner's keys, or of many regions at a"
            .to_owned(),
        "time do; what becomes of data whose leases nobody renews or whose stewards all stop; what cheaters do whom the audits"
            .to_owned(),
        "have not found yet. The chance that anybody loses 24 words is larger than most numbers above.".to_owned(),
    ] {
        terminal.result(&line);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn answered(line: &str) -> Result<Answer, DurabilityError> {
        let arguments = Arguments::try_parse_from(line.split(' ')).expect("a command line of the test");
        let Command::Durability(arguments) = arguments.command else { panic!("another command") };
        answer(&arguments)
    }

    #[test]
    fn what_is_computed_and_what_is_played_are_one_model() {
        let line = "dolmen durability --policy 2/4 --node-failure-rate 1.5 --repair-hours 600 --operators 4 \
                    --operator-failure-rate 0.3 --regions 2 --region-failure-rate 0.2 --trials 20000 --seed 5";
        let answer = answered(line).expect("numbers in range");
        assert_eq!((answer.rows.len(), answer.trigger_lost_shards, answer.hard_floor_shards), (3, 1, 2));
        for row in &answer.rows {
            // Wider than the interval, so that one of three being outside of 95 in 100 is no failure.
            let slack = row.played_high_95 - row.played_low_95;
            assert!(row.loss_probability > row.played_low_95 - slack, "{row:?}");
            assert!(row.loss_probability < row.played_high_95 + slack, "{row:?}");
        }
        assert!(answer.rows[0].loss_probability < answer.rows[1].loss_probability);
        assert!(answer.rows[1].loss_probability < answer.rows[2].loss_probability);
    }

    #[test]
    fn the_defaults_are_a_model_and_bad_numbers_are_none() {
        let answer = answered("dolmen durability --trials 100").expect("defaults");
        assert_eq!((answer.k, answer.n, answer.rows.len()), (16, 40, 3));
        assert!(matches!(answered("dolmen durability --node-failure-rate=-1"), Err(DurabilityError::Rate { .. })));
        assert_eq!(answered("dolmen durability --trials 0").map(drop), Err(DurabilityError::Trials(0)));
    }
}
