//! A ratio that has to be reached: what it is, how it is measured, what is accepted, what is aimed at, and how it went.

use std::fmt;

use serde::Serialize;

use super::statistics::Spread;

/// One of the ratios, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goal {
    pub number: u32,
    pub what: &'static str,
    /// Shows it.
    pub command: &'static str,
    pub accept: f64,
    pub aim: f64,
}

/// A ratio as it was measured, the median against the goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedRatio {
    #[serde(flatten)]
    pub goal: Goal,
    /// Which of the cases that the goal speaks of.
    pub case: String,
    pub value: Spread,
    pub verdict: Judgement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    AimReached,
    Met,
    NotMet,
    /// The machine was too restless to say.
    NotJudged,
}

/// A ratio as it was measured, judged where something has to be reached: a row of the one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    pub what: String,
    pub value: Spread,
    pub judged: Option<JudgedRatio>,
    /// Why it is not judged.
    pub reason: Option<String>,
}

impl Measurement {
    /// `case`: of the goal, or without one all that is to be said. `reason`: why it is not judged.
    pub fn new(goal: Option<Goal>, case: &str, value: Spread, reason: Option<String>) -> Self {
        match goal {
            Some(goal) => Self { reason: reason.clone(), ..goal.judge(case, value, reason.is_none()).into() },
            None => Self { what: case.to_owned(), value, judged: None, reason },
        }
    }
}

impl From<JudgedRatio> for Measurement {
    fn from(judged: JudgedRatio) -> Self {
        let what = format!("{}, {}", judged.goal.what, judged.case);
        Self { what, value: judged.value, judged: Some(judged), reason: None }
    }
}

impl Goal {
    /// `is_steady`: whether the machine was quiet enough for the value to mean anything.
    pub fn judge(self, case: impl Into<String>, value: Spread, is_steady: bool) -> JudgedRatio {
        // Where less is better, the aim is below what is accepted; where they are one, it is nothing that must happen.
        let reaches = |goal: f64| if self.aim <= self.accept { value.median <= goal } else { value.median >= goal };
        let verdict = match () {
            () if !is_steady => Judgement::NotJudged,
            () if reaches(self.aim) => Judgement::AimReached,
            () if reaches(self.accept) => Judgement::Met,
            () => Judgement::NotMet,
        };
        JudgedRatio { goal: self, case: case.into(), value, verdict }
    }
}

impl JudgedRatio {
    pub fn is_met(&self) -> bool {
        matches!(self.verdict, Judgement::AimReached | Judgement::Met)
    }
}

impl fmt::Display for JudgedRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { goal, case, value, verdict } = self;
        let side = if goal.aim <= goal.accept { "at most" } else { "at least" };
        write!(
            f,
            "ratio {:>2}  {:<58} {:>6.3} ({:.3}-{:.3}, {} runs)  {side} {}, aim {}: {verdict}",
            goal.number,
            format!("{}, {case}", goal.what),
            value.median,
            value.low,
            value.high,
            value.runs,
            goal.accept,
            goal.aim
        )
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AimReached => "aim reached",
            Self::Met => "met",
            Self::NotMet => "NOT MET",
            Self::NotJudged => "not judged, the machine was restless",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(accept: f64, aim: f64, median: f64) -> Judgement {
        let goal = Goal { number: 1, what: "this / that", command: "none", accept, aim };
        goal.judge("all", Spread { median, low: median, high: median, runs: 1 }, true).verdict
    }

    #[test]
    fn more_is_better_where_the_aim_is_above() {
        let verdicts = [0.49, 0.5, 0.75].map(|median| judge(0.5, 0.75, median));
        assert_eq!(verdicts, [Judgement::NotMet, Judgement::Met, Judgement::AimReached]);
    }

    #[test]
    fn less_is_better_where_the_aim_is_below() {
        let verdicts = [0.61, 0.6, 0.5].map(|median| judge(0.6, 0.5, median));
        assert_eq!(verdicts, [Judgement::NotMet, Judgement::Met, Judgement::AimReached]);
    }

    #[test]
    fn what_must_not_happen_is_met_by_nothing_alone() {
        assert_eq!([0.0, 1.0].map(|median| judge(0.0, 0.0, median)), [Judgement::AimReached, Judgement::NotMet]);
    }

    #[test]
    fn a_restless_machine_meets_nothing() {
        let goal = Goal { number: 1, what: "this / that", command: "none", accept: 0.5, aim: 0.7 };
        let ratio = goal.judge("all", Spread { median: 9.0, low: 9.0, high: 9.0, runs: 1 }, false);
        assert_eq!(ratio.verdict, Judgement::NotJudged);
        assert!(ratio.to_string().contains("not judged"), "{ratio}");
    }
}
