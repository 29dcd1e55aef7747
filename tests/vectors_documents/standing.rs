//! Cases of standings, valid and broken, as stewards keep them on their disks.

use std::time::Duration;

use dolmen_proto::ids::Timestamp;
use dolmen_proto::standing::{ChallengeKey, Observation, Standing};
use serde_json::{Value, json};

use crate::Cases;
use crate::broken::with_byte;
use crate::valid::blob;

const START: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// Says what a standing reads as; its own file, since nothing else of a reader's is needed.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, String> {
    let standing = Standing::parse(bytes).map_err(crate::readers::said)?;
    assert_eq!(standing.to_bytes(), bytes, "one encoding for one standing");
    let scores = standing.scores().map(|(name, score, _)| json!([name, score.bad_micro()]));
    let repeats: Vec<Value> = standing
        .repeats()
        .map(|(challenge, due)| json!([challenge.map(|challenge| crate::hex(challenge.as_bytes())), due.as_unix_ms()]))
        .collect();
    let fall = standing.fall().map(|(reason, when)| json!([format!("{reason:?}"), when.as_unix_ms()]));
    Ok(json!({
        "first_seen_ms": standing.first_seen().as_unix_ms(),
        "proven_samples": standing.proven_samples(),
        "scores": scores,
        "repeats": repeats,
        "fall": fall,
        "verdict_after_30_days": format!("{:?}", standing.verdict(START.after(HOUR * 720))),
        "weight_after_30_days": standing.weight_per_mille(START.after(HOUR * 720)),
    }))
}

/// What came, an hour apart each.
fn after(outcomes: &[Observation]) -> Vec<u8> {
    let mut standing = Standing::new(START);
    let mut now = START;
    for outcome in outcomes {
        now = now.after(HOUR);
        standing.record(*outcome, now).expect("possible outcomes");
    }
    standing.to_bytes()
}

fn answered(wrong: u32, not_held: u32) -> Observation {
    Observation::Answered { challenge: ChallengeKey::new([1; 32]), samples: 640, wrong, not_held }
}

fn silent(number: u8) -> Observation {
    Observation::NoAnswer { challenge: ChallengeKey::new([number; 32]) }
}

fn mixed() -> Vec<u8> {
    after(&[
        answered(0, 0),
        Observation::Offline,
        Observation::Refused,
        Observation::NotServed,
        Observation::Served,
        silent(2),
        silent(2),
        silent(9),
    ])
}

pub(crate) fn valid() -> Cases {
    let case = |bytes: &[u8]| blob("standing", bytes);
    Cases::from([
        ("standing_new".to_owned(), case(&after(&[]))),
        ("standing_good".to_owned(), case(&after(&[answered(0, 0), Observation::Served]))),
        ("standing_mixed".to_owned(), case(&mixed())),
        ("standing_fallen_wrong".to_owned(), case(&after(&[answered(3, 0), answered(0, 0)]))),
        ("standing_fallen_not_held".to_owned(), case(&after(&[answered(0, 20), silent(1)]))),
    ])
}

pub(crate) fn broken() -> Cases {
    let good = mixed();
    let count = 1 + 4 * 8 + 6 * 8 + 1;
    let (first_silence, second_silence) = (count + 1, count + 1 + 49);
    let case = |bytes: Vec<u8>| blob("standing", &bytes);
    Cases::from([
        ("standing_version_2".to_owned(), case(with_byte(good.clone(), 0, 2))),
        ("standing_truncated".to_owned(), case(good[..good.len() - 1].to_vec())),
        ("standing_trailing".to_owned(), case([&good[..], &[0]].concat())),
        ("standing_score_over_its_memory".to_owned(), case(with_byte(good.clone(), 33 + 7, 1))),
        ("standing_fall_unknown".to_owned(), case(with_byte(good.clone(), count - 1, 3))),
        ("standing_nine_silences".to_owned(), case(with_byte(good.clone(), count, 9))),
        ("standing_silence_twice".to_owned(), {
            let mut bytes = good.clone();
            bytes.copy_within(first_silence..first_silence + 32, second_silence);
            case(bytes)
        }),
        ("standing_repeats_3".to_owned(), case(with_byte(good.clone(), first_silence + 48, 3))),
        ("standing_silence_before_first_seen".to_owned(), case(with_byte(good.clone(), first_silence + 32 + 5, 0))),
        ("standing_last_before_first_seen".to_owned(), case(with_byte(good, 9 + 5, 0))),
    ])
}
