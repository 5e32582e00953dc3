//! Figures for Prometheus: counted from the events that guardd tells, and asked of it when somebody looks.

mod serve;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Context, link::Link};
use crate::{
    event::{Event, Kind},
    policy::Metrics as Settings,
    wire::{Reply, Request, Status},
};

/// The listener and what it shows.
pub(super) struct Metrics {
    settings: Settings,
    figures: Figures,
    serving: JoinHandle<()>,
    /// The address is this listener's. Another's socket in its place must stay.
    bound: Arc<AtomicBool>,
}

impl Metrics {
    pub(super) fn new(settings: Settings, context: &Context) -> Self {
        let part = context.board.part("metrics");
        let figures = Figures::new();
        let bound = Arc::<AtomicBool>::default();
        let serving = tokio::spawn(serve::serve(
            settings.listen.clone(),
            Shown {
                figures: figures.clone(),
                link: context.link.clone(),
            },
            part,
            bound.clone(),
        ));
        Self {
            settings,
            figures,
            serving,
            bound,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn hear(&self, event: &Event) {
        self.figures.count(event);
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.serving.abort();
        if self.bound.load(Ordering::Relaxed) {
            serve::clean_up(&self.settings.listen);
        }
    }
}

/// What one who looks is shown.
#[derive(Clone)]
struct Shown {
    figures: Figures,
    link: Link,
}

impl Shown {
    /// The page.
    async fn page(&self) -> std::io::Result<String> {
        match self.link.ask(&Request::Status).await? {
            Reply::Status(status) => self.figures.look(&status),
            other => return Err(super::unexpected(&other)),
        }
        self.figures.text()
    }
}

/// All figures; copies are of the same.
#[derive(Clone)]
struct Figures {
    registry: Registry,
    events: IntCounterVec,
    verdicts: IntCounterVec,
    would: IntCounterVec,
    holds: IntCounterVec,
    answers: IntCounterVec,
    waited: HistogramVec,
    latency: HistogramVec,
    emitted: IntCounterVec,
    lost: IntCounterVec,
    attached: IntGaugeVec,
    channel_ok: IntGaugeVec,
    channel_sent: IntCounterVec,
    channel_dropped: IntCounterVec,
    channel_lost: IntCounterVec,
    info: IntGaugeVec,
    sessions: IntGauge,
    processes: IntGauge,
    waiting: IntGauge,
    degraded: IntGauge,
    not_enforced: IntGauge,
    lineage_used: IntGauge,
    lineage_size: IntGauge,
    uptime: IntGauge,
    journal: IntCounter,
}

/// Seconds; a judgement takes microseconds.
const LATENCIES: [f64; 8] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2];
/// Seconds; a person takes ten.
const WAITS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0];

/// Makes a figure and enters it. The names are constants, so that what could be wrong with them a test has seen.
macro_rules! figure {
    ($registry:ident, $kind:ident, $name:literal, $help:literal $(, $label:literal)*) => {{
        let labels: &[&str] = &[$($label),*];
        let made = figure!(@make $kind, Opts::new($name, $help), labels);
        let made = made.expect("constant names");
        $registry.register(Box::new(made.clone())).expect("different names");
        made
    }};
    (@make IntGauge, $opts:expr, $labels:ident) => {{ let _: &[&str] = $labels; IntGauge::with_opts($opts) }};
    (@make IntCounter, $opts:expr, $labels:ident) => {{ let _: &[&str] = $labels; IntCounter::with_opts($opts) }};
    (@make $kind:ident, $opts:expr, $labels:ident) => { $kind::new($opts, $labels) };
}

impl Figures {
    fn new() -> Self {
        let r = Registry::new();
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let made = HistogramVec::new(opts, labels).expect("constant names");
            r.register(Box::new(made.clone())).expect("different names");
            made
        };
        Self {
            events: figure!(
                r,
                IntCounterVec,
                "guard_events_total",
                "Events told since the herald started, by kind.",
                "kind"
            ),
            verdicts: figure!(
                r,
                IntCounterVec,
                "guard_verdicts_total",
                "What was done about an act, by verdict (flag, hold, deny, kill) and rule.",
                "verdict",
                "rule"
            ),
            would: figure!(
                r,
                IntCounterVec,
                "guard_would_verdicts_total",
                "What would have been done in observe mode, by verdict and rule.",
                "verdict",
                "rule"
            ),
            holds: figure!(
                r,
                IntCounterVec,
                "guard_holds_total",
                "Processes that were held for a person's answer, by rule.",
                "rule"
            ),
            answers: figure!(
                r,
                IntCounterVec,
                "guard_answers_total",
                "What became of holds (approved, denied, timed out, guardd stopped) and by which way the answer came \
                 (guardd where nobody answered).",
                "answer",
                "via"
            ),
            waited: histogram(
                "guard_hold_wait_seconds",
                "Time from a hold's stop to its answer.",
                &WAITS,
                &["answer"],
            ),
            latency: histogram(
                "guard_judgement_seconds",
                "Time from a kernel hook's entry to its verdict, by the tier that served it.",
                &LATENCIES,
                &["tier"],
            ),
            emitted: figure!(
                r,
                IntCounterVec,
                "guard_records_emitted_total",
                "Records handed over by the kernel since guardd started, by class.",
                "class"
            ),
            lost: figure!(
                r,
                IntCounterVec,
                "guard_records_lost_total",
                "Records lost since guardd started because a buffer or table was full, by class.",
                "class"
            ),
            attached: figure!(
                r,
                IntGaugeVec,
                "guard_hook_attached",
                "1 where what is watched has its hook attached now; tier none cannot be watched here.",
                "watched",
                "tier"
            ),
            channel_ok: figure!(
                r,
                IntGaugeVec,
                "guard_channel_ok",
                "1 where a channel or exporter did its work the last time, 0 where it fails.",
                "channel"
            ),
            channel_sent: figure!(
                r,
                IntCounterVec,
                "guard_channel_sent_total",
                "Messages that left by a channel or exporter.",
                "channel"
            ),
            channel_dropped: figure!(
                r,
                IntCounterVec,
                "guard_channel_dropped_total",
                "Messages that a channel or exporter gave up.",
                "channel"
            ),
            channel_lost: figure!(
                r,
                IntCounterVec,
                "guard_channel_lost_total",
                "Events that waited in a herald that died, at most, by exporter.",
                "channel"
            ),
            info: figure!(
                r,
                IntGaugeVec,
                "guard_info",
                "Always 1: which guardd this is.",
                "version",
                "kernel",
                "mode",
                "policy"
            ),
            sessions: figure!(r, IntGauge, "guard_sessions", "Live sessions of agents."),
            processes: figure!(
                r,
                IntGauge,
                "guard_session_processes",
                "Live processes in sessions."
            ),
            waiting: figure!(
                r,
                IntGauge,
                "guard_holds_waiting",
                "Holds that wait for a person now."
            ),
            degraded: figure!(
                r,
                IntGauge,
                "guard_degraded",
                "Reasons for which guardd is degraded; 0 is well."
            ),
            not_enforced: figure!(
                r,
                IntGauge,
                "guard_not_enforced",
                "Parts of the policy that cannot be enforced on this kernel."
            ),
            lineage_used: figure!(
                r,
                IntGauge,
                "guard_lineage_entries",
                "Entries used in the kernel's table of processes."
            ),
            lineage_size: figure!(
                r,
                IntGauge,
                "guard_lineage_entries_max",
                "Entries that fit in it."
            ),
            uptime: figure!(
                r,
                IntGauge,
                "guard_uptime_seconds",
                "Seconds since guardd started."
            ),
            journal: figure!(
                r,
                IntCounter,
                "guard_journal_events_total",
                "Events in the journal."
            ),
            registry: r,
        }
    }

    /// One event.
    fn count(&self, event: &Event) {
        self.events.with_label_values(&[event.kind.name()]).inc();
        let rule = event.rule.as_deref().unwrap_or("");
        let object = |key: &str| event.object.as_ref().and_then(|object| object.get(key));
        match event.kind {
            Kind::Hold if object("what").and_then(Value::as_str) == Some("held") => {
                self.holds.with_label_values(&[rule]).inc();
            }
            Kind::Answer => {
                let answer = object("answer").and_then(Value::as_str).unwrap_or("");
                let via = object("via").and_then(|via| via.get("channel")?.as_str());
                let by_person = object("by_uid").is_some_and(|uid| !uid.is_null());
                let via = via.unwrap_or(if by_person { "guardctl" } else { "guardd" });
                self.answers.with_label_values(&[answer, via]).inc();
                if let Some(ms) = object("waited_ms").and_then(Value::as_f64) {
                    self.waited.with_label_values(&[answer]).observe(ms / 1e3);
                }
            }
            Kind::Hold => {}
            _ => {
                for (verdict, told) in [
                    (&event.verdict, &self.verdicts),
                    (&event.would, &self.would),
                ] {
                    if let Some(verdict) = verdict.as_deref().filter(|verdict| *verdict != "allow")
                    {
                        told.with_label_values(&[verdict, rule]).inc();
                    }
                }
                if let (Some(tier), Some(ns)) = (&event.tier, event.latency_ns) {
                    self.latency
                        .with_label_values(&[tier])
                        .observe(ns as f64 / 1e9);
                }
            }
        }
    }

    /// How guardd is now.
    fn look(&self, status: &Status) {
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.sessions, status.sessions);
        set(&self.processes, status.processes);
        set(&self.waiting, status.holds);
        set(&self.degraded, status.degraded.len() as u64);
        set(&self.not_enforced, status.not_enforced.len() as u64);
        set(&self.lineage_used, status.lineage_used);
        set(&self.lineage_size, status.lineage_size);
        set(&self.uptime, status.uptime_s);
        self.journal.reset();
        self.journal.inc_by(status.events);
        for (counters, value) in [
            (
                &self.emitted,
                (|c| c.emitted) as fn(&crate::wire::CounterInfo) -> u64,
            ),
            (&self.lost, |c| c.lost),
        ] {
            for class in &status.counters {
                let counter = counters.with_label_values(&[class.class.as_str()]);
                counter.reset();
                counter.inc_by(value(class));
            }
        }
        self.attached.reset();
        for hook in &status.hooks {
            let labels = [hook.watched.as_str(), hook.tier.as_str()];
            self.attached
                .with_label_values(&labels)
                .set(i64::from(hook.attached));
        }
        self.channel_ok.reset();
        self.channel_sent.reset();
        self.channel_dropped.reset();
        self.channel_lost.reset();
        for part in status.herald.iter().flat_map(|herald| &herald.parts) {
            let name = [part.name.as_str()];
            self.channel_ok
                .with_label_values(&name)
                .set(i64::from(part.state != "failing"));
            self.channel_sent.with_label_values(&name).inc_by(part.sent);
            self.channel_dropped
                .with_label_values(&name)
                .inc_by(part.dropped);
            self.channel_lost.with_label_values(&name).inc_by(part.lost);
        }
        self.info.reset();
        let which = [
            &status.version,
            &status.kernel,
            &status.mode,
            &status.policy,
        ]
        .map(String::as_str);
        self.info.with_label_values(&which).set(1);
    }

    /// The page in Prometheus's text format, version 0.0.4.
    fn text(&self) -> std::io::Result<String> {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_events_say_is_counted() {
        let figures = Figures::new();
        let mut event = Event::new(Kind::Open);
        event.verdict = Some("deny".into());
        event.rule = Some("r\"1\n".into());
        event.tier = Some("lsm".into());
        event.latency_ns = Some(4_000);
        figures.count(&event);
        let mut answer = Event::new(Kind::Answer);
        answer.object = Some(json!({ "answer": "approved", "waited_ms": 1500, "by_uid": 0 }));
        figures.count(&answer);
        answer.object = Some(json!({ "answer": "timed out", "waited_ms": 5, "by_uid": null }));
        figures.count(&answer);
        let text = figures.text().unwrap();
        for line in [
            "guard_events_total{kind=\"answer\"} 2",
            "guard_verdicts_total{rule=\"r\\\"1\\n\",verdict=\"deny\"} 1",
            "guard_judgement_seconds_bucket{tier=\"lsm\",le=\"0.000005\"} 1",
            "guard_judgement_seconds_bucket{tier=\"lsm\",le=\"0.0000025\"} 0",
            "guard_answers_total{answer=\"approved\",via=\"guardctl\"} 1",
            "guard_answers_total{answer=\"timed out\",via=\"guardd\"} 1",
            "guard_hold_wait_seconds_sum{answer=\"approved\"} 1.5",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn every_figure_has_a_help_text_that_says_something() {
        let figures = Figures::new();
        for family in figures.registry.gather() {
            assert!(
                family.help().len() > 10 && family.help().ends_with('.'),
                "{}",
                family.name()
            );
        }
    }
}
