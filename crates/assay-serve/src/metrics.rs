//! Counters, gauges and histograms, in Prometheus' text format.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Content type of the text format.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Maximum wait, in seconds, in the response to a refused client.
const MAX_WAIT_SECONDS: u64 = 60;

/// Counters, gauges and histograms of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    connections: IntGauge,
    queue_requests: IntGauge,
    queue_tokens: IntGauge,
    batch_requests: HistogramVec,
    batch_tokens: HistogramVec,
    pass_seconds: Histogram,
    scored_tokens: IntCounter,
    sampled_tokens: IntCounter,
    model_failures: IntCounter,
    /// Smoothed number of scored tokens per second, as the bits of an f64.
    pace: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("assay_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("assay_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histograms = |name: &str, label: &str, help: &str, buckets: Vec<f64>| {
            let options = HistogramOpts::new(format!("assay_{name}"), help).buckets(buckets);
            let histograms = HistogramVec::new(options, &[label])?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let options = Opts::new("assay_requests_total", "Requests answered.");
        let requests = IntCounterVec::new(options, &["route", "status"])?;
        registry.register(Box::new(requests.clone()))?;
        let seconds = || prometheus::exponential_buckets(0.001, 2.0, 19);
        let pass = HistogramOpts::new("assay_score_pass_seconds", "Time of a batch of the critic.");
        let pass_seconds = Histogram::with_opts(pass.buckets(seconds()?))?;
        registry.register(Box::new(pass_seconds.clone()))?;
        let powers = |count| prometheus::exponential_buckets(1.0, 2.0, count);
        Ok(Self {
            seconds: histograms("request_seconds", "route", "Time to an answer.", seconds()?)?,
            in_flight: gauge("requests_in_flight", "Requests being answered.")?,
            connections: gauge("connections", "Open connections.")?,
            queue_requests: gauge("queue_requests", "Requests that wait for the model.")?,
            queue_tokens: gauge("queue_tokens", "Tokens that wait for the model.")?,
            batch_requests: histograms(
                "batch_requests",
                "kind",
                "Requests of a batch.",
                powers(8)?,
            )?,
            batch_tokens: histograms(
                "batch_tokens",
                "kind",
                "Tokens of a batch, samples at their limit.",
                powers(17)?,
            )?,
            scored_tokens: counter("scored_tokens_total", "Tokens read by the critic.")?,
            sampled_tokens: counter("sampled_tokens_total", "Tokens drawn from the policy.")?,
            model_failures: counter(
                "model_failures_total",
                "Batches and requests that a model failed on.",
            )?,
            pace: AtomicU64::new(0),
            requests,
            pass_seconds,
            registry,
        })
    }

    /// The text exposition.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    pub(crate) fn answered(&self, route: &str, status: u16, took: Duration) {
        let labels = [route, &status.to_string()];
        self.requests.with_label_values(&labels).inc();
        let seconds = self.seconds.with_label_values(&[route]);
        seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn in_flight(&self) -> &IntGauge {
        &self.in_flight
    }

    pub(crate) fn connections(&self) -> &IntGauge {
        &self.connections
    }

    pub(crate) fn queued(&self, requests: usize, tokens: usize) {
        self.queue_requests.set(requests as i64);
        self.queue_tokens.set(tokens as i64);
    }

    pub(crate) fn batch(&self, kind: &str, requests: usize, tokens: usize) {
        let observe = |histograms: &HistogramVec, value: usize| {
            histograms.with_label_values(&[kind]).observe(value as f64);
        };
        observe(&self.batch_requests, requests);
        observe(&self.batch_tokens, tokens);
    }

    pub(crate) fn scored(&self, tokens: usize, took: Duration) {
        self.scored_tokens.inc_by(tokens as u64);
        self.pass_seconds.observe(took.as_secs_f64());
        let now = tokens as f64 / took.as_secs_f64().max(1e-6);
        let before = f64::from_bits(self.pace.load(Ordering::Relaxed));
        let smoothed = if before > 0.0 {
            0.8 * before + 0.2 * now
        } else {
            now
        };
        self.pace.store(smoothed.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn sampled(&self, tokens: usize) {
        self.sampled_tokens.inc_by(tokens as u64);
    }

    pub(crate) fn model_failed(&self) {
        self.model_failures.inc();
    }

    /// Estimated whole seconds for scoring a number of tokens, between 1 and [`MAX_WAIT_SECONDS`].
    pub(crate) fn seconds_for(&self, tokens: usize) -> u64 {
        let pace = f64::from_bits(self.pace.load(Ordering::Relaxed));
        if pace <= 0.0 {
            return 1;
        }
        ((tokens as f64 / pace).ceil() as u64).clamp(1, MAX_WAIT_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_pace() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(metrics.seconds_for(10_000), 1);
        metrics.scored(1000, Duration::from_secs(1));
        assert_eq!(metrics.seconds_for(2500), 3);
        assert_eq!(metrics.seconds_for(usize::MAX), MAX_WAIT_SECONDS);
        metrics.scored(2000, Duration::from_secs(1));
        // 0.8 * 1000 + 0.2 * 2000 = 1200 tokens per second.
        assert_eq!(metrics.seconds_for(2401), 3);
    }

    #[test]
    fn the_text_names_every_metric() {
        let metrics = Metrics::new().unwrap();
        metrics.answered("/v1/score", 200, Duration::from_millis(3));
        metrics.batch("score", 2, 300);
        let text = metrics.text().unwrap();
        assert!(text.contains("assay_requests_total{route=\"/v1/score\",status=\"200\"} 1"));
        assert!(text.contains("assay_batch_requests_bucket{kind=\"score\",le=\"2\"} 1"));
        assert!(text.contains("assay_queue_tokens 0"));
    }
}
