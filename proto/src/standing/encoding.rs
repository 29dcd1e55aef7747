//! A standing as a steward keeps it on its disk, as docs/format.md says.

use super::score::{Score, ScoreRule};
use super::{
    ChallengeKey, NO_ANSWER, NOT_HELD, NOT_SERVED, OFFLINE, REFUSED, REPEATS, Reason, SILENCES_MAX, Silence, Standing,
    WRONG,
};
use crate::codec::{CodecError, DocumentError, Reader, VERSION, Writer, check_ascending, check_limit, read_version};
use crate::ids::Timestamp;

const SILENCE_BYTES: usize = 32 + 8 + 8 + 1;

impl Standing {
    /// The encoding: the bytes that [`Standing::parse`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        [self.first_seen, self.last, self.last_contact].iter().for_each(|time| writer.u64(time.as_unix_ms()));
        writer.u64(self.proven_samples);
        self.scores().iter().for_each(|(_, score, _)| writer.u64(score.bad_micro()));
        match self.fall {
            None => writer.u8(0),
            Some((reason, when)) => {
                writer.u8(if reason == Reason::Wrong { 1 } else { 2 });
                writer.u64(when.as_unix_ms());
            }
        }
        writer.count8(self.silences.len());
        for silence in &self.silences {
            writer.raw(silence.challenge.as_bytes());
            writer.u64(silence.since.as_unix_ms());
            writer.u64(silence.asked.as_unix_ms());
            writer.u8(silence.repeats);
        }
        writer.into_bytes()
    }

    /// Reads a standing.
    ///
    /// # Errors
    /// [`DocumentError`]: the bytes are none. Then the file is damaged, and the node is one that is seen for the first time.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(bytes);
        read_version(&mut reader)?;
        let time = |reader: &mut Reader<'_>| reader.u64("a time").map(Timestamp::from_unix_ms);
        let first_seen = time(&mut reader)?;
        let last = time(&mut reader)?;
        let last_contact = time(&mut reader)?;
        let proven_samples = reader.u64("proven samples")?;
        let wrong = read_score(&mut reader, WRONG)?;
        let not_held = read_score(&mut reader, NOT_HELD)?;
        let no_answer = read_score(&mut reader, NO_ANSWER)?;
        let refused = read_score(&mut reader, REFUSED)?;
        let offline = read_score(&mut reader, OFFLINE)?;
        let not_served = read_score(&mut reader, NOT_SERVED)?;
        let fall = match reader.u8("a fall")? {
            0 => None,
            1 => Some((Reason::Wrong, time(&mut reader)?)),
            2 => Some((Reason::NotHeld, time(&mut reader)?)),
            found => return Err(CodecError::Unknown { what: "a fall", found }.into()),
        };
        let count = usize::from(reader.u8("silences")?);
        check_limit(count, SILENCES_MAX, "silences")?;
        let mut silences = Vec::with_capacity(count.min(reader.remaining() / SILENCE_BYTES));
        for _ in 0..count {
            silences.push(Silence {
                challenge: ChallengeKey::new(reader.array("a challenge")?),
                since: time(&mut reader)?,
                asked: time(&mut reader)?,
                repeats: reader.u8("repeats")?,
            });
        }
        reader.finish()?;
        check_ascending(silences.iter().map(|silence| silence.challenge), "silences")?;
        let known = first_seen..=last;
        let times = silences.iter().all(|silence| {
            known.contains(&silence.since) && known.contains(&silence.asked) && silence.since <= silence.asked
        });
        if !times || !known.contains(&last_contact) || fall.is_some_and(|(_, when)| !known.contains(&when)) {
            return Err(DocumentError::Order { what: "the times of a standing" });
        }
        for silence in &silences {
            check_limit(silence.repeats.into(), REPEATS.len() - 1, "repeats")?;
        }
        Ok(Self {
            first_seen,
            last,
            last_contact,
            proven_samples,
            wrong,
            not_held,
            no_answer,
            refused,
            offline,
            not_served,
            fall,
            silences,
        })
    }
}

fn read_score(reader: &mut Reader<'_>, rule: ScoreRule) -> Result<Score, CodecError> {
    let found = reader.u64("a score")?;
    if found > rule.most_micro() {
        return Err(CodecError::TooMuch { what: "a score", limit: rule.most_micro(), found });
    }
    Ok(Score::from_bad_micro(found))
}
